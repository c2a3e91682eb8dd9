"""The application's end: a `Delivery` that leaves the work to another process.

Its writer hands its groups over as they are, and keeps each until the other end has committed it: a process that dies
costs nothing, the next one gets the group again. Messages that were committed just then are posted twice, with the ids
by which vendors know them.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from metricx_observe.boundary import Boundary
from metricx_observe.delivery import Channel, Delivery, Limits
from metricx_observe.delivery.outbox import OutboxError, Stream
from metricx_observe.delivery.stats import logger
from metricx_observe.delivery.threads import Isolate
from metricx_observe.delivery.writer import Writer
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import Settings
from metricx_observe.vendors.vendor import Target

from .process import CannotRunError, Process
from .server import ServingDelivery

END_S = 0.5
"""How long the end of the other process is waited for, when it has nothing to do any more."""


class RemoteDelivery(Delivery):
    """The same as `Delivery`, by another process; without `rows`, which are for test mode, where none is used."""

    def __init__(
        self, channels: Sequence[Channel], settings: Settings, targets: Mapping[str, Target], rules: Mapping[str, Any],
        limits: Limits, *, isolate: Isolate, boundary: Boundary, scrubber: Scrubber,
    ) -> None:  # fmt: skip
        """`rules`: the arguments of `Scrubber`. `boundary` and `scrubber` count what happens at the other end."""
        fields = {name: getattr(settings, name) for name in Settings.model_fields}
        fields |= {"service": settings.service_name, "outbox_url": settings.outbox}  # of this folder and environment
        self._opened_with = {
            "settings": Settings.model_construct(**fields),  # not a class of the application's
            "targets": dict(targets),
            "rules": rules,
            "limits": limits,
            "level": logging.getLogger("metricx_observe").getEffectiveLevel(),
        }
        self._listeners: dict[str, Callable[..., None]] = {
            "fault": boundary.count,
            "scrubbed": scrubber.report.add,
            "log": lambda name, level, text: logging.getLogger(name).log(level, "%s", text),
        }
        super().__init__(channels, url=settings.outbox, limits=limits, deliver=False, isolate=isolate)

    def _begin(self) -> None:
        super()._begin()
        self._outbox.close()  # the other process has one
        self._process = Process(self._opened_with, self._listeners)
        self._here: ServingDelivery | None = None
        """Does the work where there can be no other process."""
        self._writer = _Writer(self._channels, self, self._stats, self._limits, self._isolate, self._stored, self._tick)
        self._writer.ending = self.at_exit
        self._theirs: dict[str, dict[str, Any]] = {}
        """The other end's last status."""

    def _call(self, method: str, *, wait: bool = False, **values: Any) -> Any:
        if self._here is None:
            try:
                return self._process.call(method, wait=wait, **values)
            except CannotRunError as error:
                logger.error("No delivery process (%s): this process delivers itself from now on", error)
                channels, limits = list(self._channels.values()), self._limits
                self._here = ServingDelivery(channels, url=self._url, limits=limits, isolate=self._isolate)
                self._here.start()
        return getattr(self._here, method)(**values)

    def add(self, messages: Iterable[tuple[Stream, Any]]) -> None:
        """What the writer stores its groups with. Raises OutboxError: give all of them again."""
        self._call("add", wait=True, records=[(stream.vendor, record) for stream, record in messages])

    def close(self, deadline_s: float) -> None:
        """As `Delivery`. A process that has not stored everything in half of the time is no longer waited for."""
        give_up = time.monotonic() + deadline_s
        if not self._closed and not self.commit(deadline_s / 2):
            self._process.kill()
        super().close(max(0.0, give_up - time.monotonic()))

    def wake(self, *, claim: bool) -> None:
        self._call("wake", claim=claim)

    def drained(self, *, closing: bool, local: bool = True) -> bool:
        with suppress(OutboxError):  # asked again soon
            return bool(self._call("drained", closing=closing, local=local))
        return False

    def status(self) -> dict[str, dict[str, Any]]:
        """What the other end counted, and what was put and refused here: most of it is put there once more."""
        with suppress(OutboxError):  # at work, or does not run: counters that fell to 0 would look like a new start
            self._theirs = self._call("status")
        status = super().status()
        status["outbox"]["kind"] = "not opened"
        for name, theirs in self._theirs.items():
            ours = status[name]
            mine = {what: ours[what] for what in ours.keys() & {"put", "committed", "unacknowledged"}}
            if "dropped" in ours:
                mine["dropped"] = dict(Counter(ours["dropped"]) + Counter(theirs["dropped"]))
            status[name] = {**ours, **theirs, **mine}
        status["outbox"]["process"] = self._process.pid if self._here is None else os.getpid()
        return status

    def _tick(self) -> None:
        """Events of the other process come with an answer."""
        self._theirs = self._call("status", wait=True)

    def _end(self, timeout_s: float, *, abort: bool) -> None:  # noqa: ARG002
        with suppress(OutboxError):
            self._call("close", deadline_s=timeout_s)
        self._process.close(END_S)

    def at_exit(self) -> None:
        """Hand over, and let the other process deliver alone. It may still be loading the vendors' SDKs."""
        if self._writer.thread is None or not self._writer.settled(stall_s=3.0, most_s=5.0):
            self._process.kill()
        self._writer.at_exit()

    def before_fork(self) -> None:
        self._process.spawning.acquire()

    def after_fork(self, *, child: bool) -> None:
        self._process.spawning.release()
        if child:
            self._process.abandon()
            self._begin()


class _Writer(Writer):
    """Leaves encoding to the other end."""

    def _encoded(self) -> list[tuple[Stream, Any]]:
        return [(Stream(each[0], "", "", 0), each[1]) for each in self._group if not isinstance(each, Future)]
