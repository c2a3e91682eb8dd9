"""Delivery in a process beside the application's: encoding, storing and posting take nothing from its interpreter.

This end is a `Delivery` whose writer hands its groups to the other process, and keeps each until the other end has
committed it: a process that dies costs nothing, the next one gets the group again. Messages that were committed just
then are posted twice, with the ids by which vendors know them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from .channel import Channel, Importance, Limits, Message
from .delivery import Delivery
from .outbox import OutboxError, Stream
from .process import CannotRunError, Process
from .tally import Tally, logger
from .threads import Isolate
from .writer import Writer

RECORD = "record"
"""The kind of what is still to be encoded. What has another kind is a vendor's message."""
COMMIT_S = 3600.0
"""A group is answered when it is safe, however long the disk takes."""
END_S = 0.5
"""How long the end of the other process is waited for, when it has nothing to do any more."""


class ServingDelivery(Delivery):
    """The other end: a `Delivery` that is handed whole groups."""

    def add(self, items: list[tuple[str, str, bytes]]) -> None:
        """Encode and commit these: vendor, kind and payload."""
        for vendor, kind, payload in items:
            self.put(vendor, payload if kind == RECORD else Message(kind, payload))
        self.commit(COMMIT_S)


class RemoteDelivery(Delivery):
    """The same as `Delivery`, by another process; without `rows`, which are for test mode, where none is used."""

    def __init__(
        self, channels: Sequence[Channel], *, url: str, limits: Limits, process: Callable[[], Process],
        isolate: Isolate = nullcontext,
    ) -> None:  # fmt: skip
        """`process`: makes what a process of the application's needs, each its own."""
        self._make_process = process
        self._options: dict[str, Any] = {"url": url, "limits": limits, "isolate": isolate}
        super().__init__(channels, **self._options)

    def _begin(self) -> None:
        self._tally, self._couriers = Tally(), []
        self._process = self._make_process()
        self._here: ServingDelivery | None = None
        """Does the work where there can be no other process."""
        forwarding = {vendor: _Forwarding(channel) for vendor, channel in self._channels.items()}
        self._writer = Writer(forwarding, self, self._tally, self._limits, self._isolate, self._stored, self._tick)
        self._writer.ending = self._at_exit
        self._theirs: dict[str, dict[str, Any]] = {}

    def _call(self, method: str, *, wait: bool = False, **values: Any) -> Any:
        if self._here is None:
            try:
                return self._process.call(method, wait=wait, **values)
            except CannotRunError as error:
                logger.error("No delivery process (%s): this process delivers itself from now on", error)
                self._here = ServingDelivery(list(self._channels.values()), **self._options)
                self._here.start()
        return getattr(self._here, method)(**values)

    def add(self, messages: Iterable[tuple[Stream, bytes]]) -> None:
        """What the writer stores its groups with. Raises OutboxError: give all of them again."""
        self._call("add", wait=True, items=[(stream.vendor, stream.kind, payload) for stream, payload in messages])

    def close(self, deadline_s: float) -> None:
        """As `Delivery`. A process that has not stored everything in half of the time is no longer waited for."""
        give_up = time.monotonic() + deadline_s
        if not self._closed and not self.commit(deadline_s / 2):
            self._process.take_over()
        super().close(max(0.0, give_up - time.monotonic()))

    def hasten(self, *, adopt: bool) -> None:
        self._call("hasten", adopt=adopt)

    def drained(self, *, closing: bool, local: bool = True) -> bool:
        with suppress(OutboxError):  # asked again soon
            return bool(self._call("drained", closing=closing, local=local))
        return False

    def status(self) -> dict[str, dict[str, Any]]:
        """What both ends counted, and the process that delivers."""
        with suppress(OutboxError):  # at work, or does not run: counters that fell to 0 would look like a new start
            self._theirs = self._call("status")
        theirs = self._theirs
        status = {vendor: _merged(self._tally.of(vendor), theirs.get(vendor, {})) for vendor in self._channels}
        closed = {"kind": "not opened", "fallback": "", "healed": "", "would_lose": {}, "stranded": {}}
        closed["nobody_delivers_since"] = ""
        status["outbox"] = closed | theirs.get("outbox", {}) | {
            "unacknowledged": self._tally.counters["outbox", "unacknowledged", ""],
            "process": self._process.pid if self._here is None else os.getpid(),
        }  # fmt: skip
        return status

    def _tick(self) -> None:
        """Events of the other process come with an answer."""
        self._theirs = self._call("status", wait=True)

    def _rest(self, timeout_s: float, *, abort: bool) -> None:  # noqa: ARG002
        if self._writer.thread is not None:
            with suppress(OutboxError):
                self._call("close", deadline_s=timeout_s)
        self._process.close(END_S)

    def _at_exit(self) -> None:
        """Hand over, and let the other process deliver alone. It may still be loading the vendors' SDKs."""
        if self._writer.thread is None or not self._writer.settled(stall_s=3.0, most_s=5.0):
            self._process.take_over()
        self._writer.at_exit()
        self._process.close(0.0)

    def _before_fork(self) -> None:
        self._process.spawning.acquire()

    def _after_fork(self, *, child: bool) -> None:
        self._process.spawning.release()
        if child:
            self._process.abandon()
            self._begin()


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The other end's counters, with what was put and refused here: most of it is put there once more."""
    idle = {"dead": 0, "pending": 0, "oldest_s": 0.0, "breaker": "closed"}
    dropped = Counter(ours["dropped"]) + Counter(theirs.get("dropped", {}))
    mine = {"put": ours["put"], "committed": ours["committed"], "dropped": dict(dropped)}
    return {**ours, **idle, **theirs, **mine}


class _Forwarding:
    """A channel whose records the other end encodes. The application's own objects stay here."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.vendor, self.destination = channel.vendor, channel.destination

    def encode(self, record: Any) -> Sequence[Message]:
        return [Message(RECORD, record)] if type(record) is bytes else self._channel.encode(record)

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        """Decided at the other end."""
        return Importance.SIGNAL
