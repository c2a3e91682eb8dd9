"""METRICX_DELIVERY=process: what the application's process tells the one that delivers, and that one's `main`.

It holds what `Observability` would otherwise hold itself: channels, scrubber, outbox and couriers. It ends with the
connection: after a crash of the application it commits what it was given and delivers it for a few seconds.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from .boundary import Boundary
from .delivery import Channel, Limits
from .delivery.process import Process
from .delivery.remote import RemoteDelivery, ServingDelivery
from .delivery.threads import Isolate
from .scrubber import Scrubber, ScrubReport
from .settings import Settings
from .vendors import REGISTRY
from .vendors.vendor import Target, Vendor

LAST_S = 5.0
"""How long it goes on delivering when the application's process is gone; the rest stays in the outbox."""
SWITCH_S = 0.000_5
"""A courier's system call waits this long for the interpreter while a group is encoded. Python's 5 ms are for threads
that compute; in the application's process this setting belongs to the application."""

Event = tuple[str, tuple[Any, ...]]
"""A log line, a fault, or what was scrubbed."""


def options(settings: Settings, targets: Mapping[str, Target], rules: Mapping[str, Any], limits: Limits) -> Any:
    """What the other process needs to know. `rules`: the arguments of `Scrubber`."""
    given = {name: getattr(settings, name) for name in Settings.model_fields} | {"service": settings.service_name}
    vendors = [(REGISTRY[name], target) for name, target in targets.items()]
    return {"settings": given, "vendors": vendors, "rules": dict(rules), "limits": limits, "url": settings.outbox}


def remote_delivery(
    options: Mapping[str, Any], channels: Sequence[Channel], isolate: Isolate, boundary: Boundary, scrubber: Scrubber
) -> RemoteDelivery:
    """The application's end. What happens at the other is counted by its `boundary` and `scrubber`, and logged here."""
    listeners: dict[str, Callable[..., None]] = {
        "fault": boundary.count,
        "scrubbed": scrubber.report.add,
        "log": lambda name, level, text: logging.getLogger(name).log(level, "%s", text),
    }
    opened_with = {**options, "level": logging.getLogger(__package__).getEffectiveLevel()}

    def process() -> Process:
        return Process(__name__, opened_with, lambda what, values: listeners[what](*values))

    url, limits = options["url"], options["limits"]
    return RemoteDelivery(channels, url=url, limits=limits, process=process, isolate=isolate)


def serving_delivery(
    events: deque[Event], settings: Mapping[str, Any], vendors: Sequence[tuple[Vendor, Target]],
    rules: Mapping[str, Any], limits: Limits, url: str,
) -> ServingDelivery:  # fmt: skip
    """The other end, which tells `events` what happens. Raises ImportError where a vendor's SDK is not installed."""
    known = Settings.model_construct(**settings)
    scrubber = Scrubber(**rules)
    scrubber.report = _Report(events)
    channels = [
        channel
        for vendor, target in vendors
        for channel in vendor.channels(known, target, scrubber, lambda *fault: events.append(("fault", fault)))
    ]
    delivery = ServingDelivery(channels, url=url, limits=limits)
    delivery.start()
    return delivery


class _Report(ScrubReport):
    """Tells the application's own report."""

    def __init__(self, events: deque[Event]) -> None:
        super().__init__()
        self._events = events

    def add(self, signal: str, place: str, counts: dict[str, int]) -> None:
        self._events.append(("scrubbed", (signal, place, dict(counts))))


class _LogHandler(logging.Handler):
    """Gives our log lines to the application's own loggers."""

    def __init__(self, events: deque[Event], level: int) -> None:
        super().__init__()
        self._events = events
        logger = logging.getLogger(__package__)
        logger.addHandler(self)
        logger.setLevel(level)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self._events.append(("log", (record.name, record.levelno, record.getMessage())))


def main(fd: int) -> None:
    """Answer calls until the connection ends."""
    sys.setswitchinterval(SWITCH_S)
    events = deque[Event](maxlen=10_000)
    delivery: ServingDelivery | None = None
    with Connection(fd) as connection, suppress(EOFError, OSError):
        while True:
            method, values = connection.recv()
            answer, failure = None, ""
            try:
                if method == "open":
                    _LogHandler(events, values.pop("level"))
                    delivery = serving_delivery(events, **values)
                    gc.collect()
                    gc.freeze()
                else:
                    answer = getattr(delivery, method)(**values)
            except Exception as error:
                failure = f"{type(error).__name__} {getattr(error, 'name', '')}".strip()
            connection.send((answer, failure, [events.popleft() for _ in range(len(events))]))
    if delivery is not None:
        delivery.close(LAST_S)
