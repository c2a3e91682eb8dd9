"""What runs in the process that delivers: channels, scrubber, outbox and couriers.

It ends with the connection: after a crash of the application it commits what it was given and delivers it for a few
seconds.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from metricx_observe.delivery import Delivery, Limits
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import Settings
from metricx_observe.vendors import REGISTRY
from metricx_observe.vendors.vendor import Target

CLOSE_S = 5.0
"""How long it goes on delivering when the application's process is gone; the rest stays in the outbox."""
COMMIT_S = 3600.0
"""A group is answered when it is safe, however long the disk takes."""
SWITCH_S = 0.000_5
"""A courier waits this long for the interpreter while a group is encoded, not Python's 5 ms."""


class ServingDelivery(Delivery):
    """A `Delivery` that is handed whole groups."""

    def add(self, records: list[tuple[str, object]]) -> None:
        """Encode and commit records, each with its vendor."""
        for vendor, record in records:
            self.put(vendor, record)
        self.commit(COMMIT_S)


def open_delivery(
    report: Callable[..., None], settings: Settings, targets: Mapping[str, Target], rules: Mapping[str, Any],
    limits: Limits,
) -> ServingDelivery:  # fmt: skip
    """`report` is called with the kind and the values of what happens. Raises KeyError for a vendor that only the
    application knows, and ImportError."""
    scrubber, note = Scrubber(**rules), partial(report, "fault")
    scrubber.report.add = partial(report, "scrubbed")  # type: ignore[method-assign]
    channels = [
        channel
        for name, target in targets.items()
        for channel in REGISTRY[name].channels(settings, target, scrubber, note)
    ]
    delivery = ServingDelivery(channels, url=settings.outbox, limits=limits)
    delivery.start()
    return delivery


def main() -> None:
    """Answer calls until the connection ends: see `process.py`."""
    sys.setswitchinterval(SWITCH_S)
    events = deque[tuple[Any, ...]](maxlen=10_000)
    logger, handler = logging.getLogger("metricx_observe"), logging.Handler()
    handler.emit = lambda record: events.append(  # type: ignore[method-assign]
        ("log", record.name, record.levelno, record.getMessage())
    )
    logger.addHandler(handler)
    logger.propagate = False
    delivery: ServingDelivery | None = None
    with Connection(sys.stdin.fileno()) as connection, suppress(EOFError, OSError):
        while True:
            method, values = connection.recv()
            answer, failure = None, ""
            try:
                if method == "open":
                    logger.setLevel(values.pop("level"))
                    delivery = open_delivery(lambda *event: events.append(event), **values)
                else:
                    answer = getattr(delivery, method)(**values)
            except Exception as error:
                failure = f"{type(error).__name__} {getattr(error, 'name', '')}".strip()
            connection.send((answer, failure, [events.popleft() for _ in range(len(events))]))
    if delivery is not None:
        delivery.close(CLOSE_S)
