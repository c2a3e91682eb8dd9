"""`metricx-observe outbox`: what waits and what was refused, to be looked at, tried again or let go.

Reads the same settings as the application, so it must run where the application runs: its environment and directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metricx_observe.delivery import Channel
from metricx_observe.delivery.outbox import Outbox, OutboxError, outbox_path, upkeep
from metricx_observe.exceptions import ObserveError
from metricx_observe.vendors import REGISTRY

from .text import harmless

if TYPE_CHECKING:
    from metricx_observe.observability import Observability

app = typer.Typer(no_args_is_help=True, help="Look after what waits for the vendors, and what they refused.")

VendorOption = Annotated[str | None, typer.Option("--vendor", help="As `status` names it; all when none.")]


def configured() -> tuple[Observability, list[Channel]]:
    """The application's settings, and the channels that it is configured for. Raises ObserveError without an outbox."""
    from metricx_observe.observability import Observability
    from metricx_observe.settings import load_settings

    found = Observability(load_settings({}), tolerant=True)
    if (path := outbox_path(found.settings.outbox)) is None:
        raise ObserveError("the outbox is in memory, where only its own process sees it: set METRICX_OUTBOX_URL")
    if not Path(path).exists():
        raise ObserveError(f"no outbox at {path}: run this where the application runs, or set METRICX_OUTBOX_URL")
    channels: list[Channel] = []
    for name, target in found.vendors.items():
        if target.is_open:
            channels += REGISTRY[name].channels(found.settings, target, found.scrubber, found.boundary.count)
    return found, channels


@contextmanager
def _opened() -> Iterator[tuple[Outbox, list[Channel]]]:
    """The application's outbox and the channels that it is configured for."""
    found, channels = configured()
    try:
        with upkeep.opened(found.settings.outbox) as outbox:
            yield outbox, channels
    except OutboxError as error:
        raise ObserveError(f"{found.settings.outbox}: {error}") from error


@app.command()
def status() -> None:
    """What waits, by vendor and kind, what is dead, and rows whose destination is gone (rotated keys)."""
    from metricx_observe.delivery.clock import iso_time
    from metricx_observe.settings import load_settings

    with _opened() as (outbox, channels):
        known = {channel.destination for channel in channels}
        rows: list[Sequence[str]] = []
        for stream, depth in outbox.depths():
            state = "dead: outbox list" if depth.dead else "waiting"
            gone = "" if stream.destination in known else " (gone: outbox retry --to-current)"
            numbers = str(depth.messages), state, str(depth.size), f"{depth.oldest_s:.0f} s"
            rows.append((stream.vendor, stream.kind, *numbers, stream.destination + gone))
        _show(("Vendor", "Kind", "Messages", "", "Bytes", "Oldest", "Destination"), rows)
        if load_settings({}).delivery == "external" and (since := outbox.idle_since()) is not None:
            when = f"since {iso_time(since)}" if since else "and never did"
            typer.echo(f"nobody delivers these rows {when}: run `metricx-observe deliver`")


@app.command("list")
def list_messages(
    vendor: VendorOption = None, limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100
) -> None:
    """Dead letters, then what waits: ids and names, never contents."""
    from itertools import islice

    with _opened() as (outbox, channels):
        rows: list[Sequence[str]] = []
        for stream, row, shown in islice(upkeep.listed(outbox, channels, vendor), limit):
            letter, status = ("", "") if row.status is None else (str(row.id), str(row.status))
            at = f"{datetime.fromtimestamp(row.at, UTC):%Y-%m-%d %H:%M:%S}"
            rows.append((letter, stream.vendor, row.kind, at, shown.id, shown.name, shown.user_id or "", status))
        _show(("Letter", "Vendor", "Kind", "Time (UTC)", "Id", "Name", "User", "Status"), rows)


@app.command()
def retry(
    letters: Annotated[list[int] | None, typer.Argument(help="Letters as `list` shows them; all when none.")] = None,
    vendor: VendorOption = None,
    to_current: Annotated[bool, typer.Option(help="To today's destination; with the rows of a former one.")] = False,
) -> None:
    """Put dead letters back: the running application, or its next start, delivers them."""
    with _opened() as (outbox, channels):
        count = upkeep.retry(outbox, channels, vendor, letters or (), to_current=to_current)
    typer.echo(f"{count} messages will be tried again")


@app.command()
def purge(
    vendor: VendorOption = None,
    pending: Annotated[bool, typer.Option("--waiting", help="Also what waits to be delivered.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the dead letters."""
    if not yes:
        typer.confirm(f"Delete {'everything that waits and ' if pending else ''}the dead letters?", abort=True)
    with _opened() as (outbox, _):
        count = upkeep.purge(outbox, vendor, pending=pending)
    typer.echo(f"{count} messages deleted")


@app.command()
def export(vendor: VendorOption = None) -> None:
    """Write every message as a line of JSON, content included: mind the personal data in it."""
    with _opened() as (outbox, _):
        for message in upkeep.export(outbox, vendor):
            typer.echo(json.dumps(message))


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """As a table. The cells are text as it is: Rich would read `[...]` in them as markup, and `:name:` as an emoji."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    terminal = Console().is_terminal
    Console(width=None if terminal else 400).print(table)  # a pipe has no width: nothing is cut there
