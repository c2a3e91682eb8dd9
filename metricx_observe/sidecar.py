"""The process that delivers for an application's process, which starts it through a `Link`.

It holds what `Observability` would otherwise hold itself: channels, scrubber, outbox and couriers. It ends with the
connection: after a crash of the application it commits what it was given and delivers it for a few seconds.
"""

from __future__ import annotations

import gc
import logging
import pickle
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from .boundary import Boundary
from .delivery import Delivery, Limits, Message, PortableChannel
from .delivery.link import Link, News
from .delivery.remote import PACKED, PICKLED, Item, RemoteDelivery
from .delivery.threads import Isolate
from .privacy import Scrubber, ScrubReport
from .settings import Settings
from .vendors import REGISTRY
from .vendors.vendor import Target

LAST_S = 5.0
"""How long it goes on delivering when the application's process is gone; the rest stays in the outbox."""
COMMIT_S = 3600.0
"""A group is answered when it is safe, however long the disk takes."""
SWITCH_S = 0.000_5
"""A courier's system call waits this long for the interpreter while a group is encoded. Python's 5 ms are for threads
that compute; in the application's process this setting belongs to the application."""


def greeting(settings: Settings, targets: Mapping[str, Target], rules: Mapping[str, Any], limits: Limits) -> bytes:
    """What the other process needs to know. `rules`: the arguments of `Scrubber`."""
    given = {name: getattr(settings, name) for name in Settings.model_fields} | {"service": settings.service_name}
    level = logging.getLogger(__package__).getEffectiveLevel()
    vendors = [(REGISTRY[name], target) for name, target in targets.items()]
    return pickle.dumps((given, vendors, dict(rules), limits, level))


def remote_delivery(
    greeting: bytes, channels: Sequence[PortableChannel], limits: Limits, isolate: Isolate, boundary: Boundary,
    scrubber: Scrubber,
) -> RemoteDelivery:  # fmt: skip
    """The application's end. What happens at the other is counted by its `boundary` and `scrubber`, and logged here."""
    heard: dict[str, Callable[..., None]] = {
        "fault": boundary.count,
        "scrubbed": scrubber.report.add,
        "log": lambda name, level, text: logging.getLogger(name).log(level, "%s", text),
    }

    def link() -> Link:
        here = partial(Host, isolate=isolate)
        return Link(__name__, greeting, here, lambda what, values: heard[what](*values))

    return RemoteDelivery(channels, link=link, limits=limits, isolate=isolate)


class Host:
    """What `RemoteDelivery` asks."""

    def __init__(self, greeting: bytes, isolate: Isolate = nullcontext) -> None:
        """Raises ImportError where a vendor's SDK is not installed."""
        given, vendors, rules, limits, self.level = pickle.loads(greeting)
        settings = Settings.model_construct(**given)
        self.waiting = deque[News](maxlen=10_000)
        scrubber = Scrubber(**rules)
        scrubber.report = _Report(self.waiting)
        channels = [
            channel
            for vendor, target in vendors
            for channel in vendor.channels(settings, target, scrubber, self._note)
        ]
        self._delivery = Delivery(channels, url=settings.outbox, limits=limits, isolate=isolate)
        self._delivery.start()

    def news(self) -> list[News]:
        """Log lines, faults and what was scrubbed since the last call."""
        return [self.waiting.popleft() for _ in range(len(self.waiting))]

    def add(self, items: list[Item]) -> None:
        """Encode and commit."""
        for vendor, kind, payload in items:
            record: object = payload if kind == PACKED else Message(kind, payload)
            if kind == PICKLED:
                try:
                    record = pickle.loads(payload)
                except Exception:  # raised to the writer, it would be sent again and again, with its whole group
                    self._delivery.count(vendor, "dropped", "encode")
                    continue
            self._delivery.put(vendor, record, len(payload))
        self._delivery.commit(COMMIT_S)

    def tick(self) -> None:
        """Nothing: the answer brings the news."""

    def hasten(self, adopt: bool) -> None:
        self._delivery.hasten(adopt=adopt)

    def drained(self, closing: bool, local: bool = True) -> bool:
        return self._delivery.drained(closing=closing, local=local)

    def status(self) -> dict[str, dict[str, Any]]:
        return self._delivery.status()

    def close(self, deadline_s: float) -> None:
        self._delivery.close(deadline_s)

    def _note(self, call: str, faults: list[str]) -> None:
        self.waiting.append(("fault", (call, faults)))


class _Report(ScrubReport):
    """Tells the application's own report."""

    def __init__(self, news: deque[News]) -> None:
        super().__init__()
        self.waiting = news

    def add(self, signal: str, place: str, counts: dict[str, int]) -> None:
        self.waiting.append(("scrubbed", (signal, place, dict(counts))))


class _LogHandler(logging.Handler):
    """Gives our log lines to the application's own loggers."""

    def __init__(self, news: deque[News]) -> None:
        super().__init__()
        self.waiting = news

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(("log", (record.name, record.levelno, record.getMessage())))


def main(fd: int) -> None:
    """Answer questions until the connection ends."""
    sys.setswitchinterval(SWITCH_S)
    with Connection(fd) as connection:
        try:
            host = Host(connection.recv_bytes())
        except Exception as error:
            connection.send_bytes(f"{type(error).__name__} {getattr(error, 'name', '')}".encode())
            return
        logger = logging.getLogger(__package__)
        logger.addHandler(_LogHandler(host.waiting))
        logger.setLevel(host.level)
        logger.propagate = False
        connection.send_bytes(b"")
        gc.collect()
        gc.freeze()
        with suppress(EOFError, OSError):
            while True:
                number, what, values = connection.recv()
                answer = failure = None
                try:
                    answer = getattr(host, what)(*values)
                except Exception as error:
                    failure = type(error).__name__
                connection.send((number, answer, failure, host.news()))
    host.close(LAST_S)
