"""`metricx-observe deliver`: posts what the processes of a service put under METRICX_DELIVERY=external."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from metricx_observe.delivery import Delivery
from metricx_observe.delivery.consumer import Consumer
from metricx_observe.exceptions import ObserveError

from .outbox import configured


def deliver(
    once: Annotated[bool, typer.Option("--once", help="Until nothing waits, not until SIGTERM.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each minute, and at the end.")] = False,
) -> None:
    """Deliver what the application's processes put into its outbox. One process does: a second one waits for its end.

    Exit status: 0; 1 when --once leaves something; 2 without an outbox or a vendor's keys.
    """
    from metricx_observe.pipeline import limits_of

    try:
        found, channels = configured()
        off = {name: target.reason for name, target in found.vendors.items() if not target.is_open}
        if not channels or any(target.state == "fault" for target in found.vendors.values()):
            raise ObserveError("; ".join(f"{name}: {reason}" for name, reason in off.items()))
    except ObserveError as error:
        typer.echo(f"metricx-observe: {error}", err=True)
        raise typer.Exit(2) from None
    consumer = Consumer(channels, found.settings.outbox, limits_of(found.settings))
    delivery = _run(consumer, once, as_json, off)
    if delivery is None:
        return
    status = delivery.status()
    typer.echo(json.dumps(status) if as_json else "\n".join(_lines(status, off)))
    if once and (status["outbox"]["stranded"] or any(part.get("pending") for part in status.values())):
        raise typer.Exit(1)


def _run(consumer: Consumer, once: bool, as_json: bool, off: Mapping[str, str]) -> Delivery | None:
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    with Console().status("") as progress:
        json_at = time.monotonic()

        def show(delivery: Delivery) -> None:
            nonlocal json_at
            if as_json and time.monotonic() >= json_at:
                json_at += 60.0  # seconds
                typer.echo(json.dumps(delivery.status()))
            elif progress.console.is_terminal and not as_json:
                progress.update(", ".join(_lines(delivery.status(), off)))

        return consumer.run(
            stopped=lambda: bool(signals),
            waits=lambda: typer.echo("another process delivers this outbox: waiting for its end", err=True),
            shows=show,
            once=once,
        )


def _lines(status: Mapping[str, Mapping[str, Any]], off: Mapping[str, str]) -> Iterator[str]:
    """What was delivered, what waits still, and why."""
    for name, part in status.items():
        if name != "outbox":
            why = f" ({part['last_error']})" if part["pending"] and part["last_error"] else ""
            yield f"{name}: {part['delivered']} delivered, {part['pending']} wait{why}"
    for name, messages in status["outbox"]["stranded"].items():
        yield f"{name}: {messages} wait ({off.get(name, 'of another key: metricx-observe outbox retry --to-current')})"
