"""Delivery in a process beside the application's: encoding, storing and posting take nothing from its interpreter.

This end is a `Delivery` whose writer hands its groups to the other process, and keeps each until the other end has
committed it: a process that dies costs nothing, the next one gets the group again. Messages that were committed just
then are posted twice, with the ids by which vendors know them.
"""

from __future__ import annotations

import io
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from .channel import Importance, Limits, Message, PortableChannel
from .delivery import Delivery
from .link import Link
from .outbox import OutboxError, Stream
from .tally import Tally
from .threads import Isolate
from .writer import Writer

PACKED, PICKLED = "packed", "pickled"
"""Kinds of what the other end is to encode, as it is or unpickled. What has another kind is a vendor's message."""
Item = tuple[str, str, bytes]
"""A vendor, a kind and a payload."""
GROUP_BYTES = 8 << 20
"""What is sent at once: the other end holds this in memory, and at most one record more."""

END_S = 0.5
"""How long the end of the other process is waited for, when it has nothing to do any more."""


class RemoteDelivery(Delivery):
    """The same as `Delivery`, by another process; without `rows`, which are for test mode, where none is used."""

    def __init__(
        self, channels: Sequence[PortableChannel], *, link: Callable[[], Link], limits: Limits,
        isolate: Isolate = nullcontext,
    ) -> None:  # fmt: skip
        """`link` makes the connection to a `Served` that has `add`, `hasten`, `drained`, `status` and `close`."""
        self._make_link, self._portable = link, channels
        super().__init__(channels, url="memory://", limits=limits, isolate=isolate)

    def _begin(self) -> None:
        self._tally, self._couriers = Tally(), []
        self._link = self._make_link()
        forwarding = {channel.vendor: _Forwarding(channel) for channel in self._portable}
        store = _Remote(self._link)
        common = store, self._tally, self._limits, self._isolate
        self._writer = Writer(forwarding, *common, self._stored, self._tick)
        self._writer.ending = self._at_exit
        self._theirs: dict[str, dict[str, Any]] = {}

    def close(self, deadline_s: float) -> None:
        """As `Delivery`. A process that has not stored everything in half of the time is no longer waited for."""
        give_up = time.monotonic() + deadline_s
        if not self._closed and not self.commit(deadline_s / 2):
            self._link.take_over()
        super().close(max(0.0, give_up - time.monotonic()))

    def hasten(self, *, adopt: bool) -> None:
        self._link.ask("hasten", adopt)

    def drained(self, *, closing: bool, local: bool = True) -> bool:
        with suppress(OutboxError):  # asked again soon
            return bool(self._link.ask("drained", closing, local))
        return False

    def status(self) -> dict[str, dict[str, Any]]:
        """What both ends counted, and the process that delivers."""
        with suppress(OutboxError):  # at work, or does not run: counters that fell to 0 would look like a new start
            self._theirs = self._link.ask("status")
        theirs = self._theirs
        status = {vendor: _merged(self._tally.of(vendor), theirs.get(vendor, {})) for vendor in self._channels}
        unacknowledged = self._tally.counters["outbox", "unacknowledged", ""]
        closed = {"kind": "not opened", "fallback": "", "healed": "", "would_lose": {}, "stranded": {}}
        outbox = {**closed, **theirs.get("outbox", {})}
        status["outbox"] = outbox | {"unacknowledged": unacknowledged, "process": self._link.pid}
        return status

    def _tick(self) -> None:
        self._link.work("tick")

    def _rest(self, timeout_s: float, *, abort: bool) -> None:  # noqa: ARG002
        if self._writer.thread is not None:
            with suppress(OutboxError):
                self._link.ask("close", timeout_s)
        self._link.close(END_S)

    def _at_exit(self) -> None:
        """Hand over, and let the other process deliver alone. It may still be loading the vendors' SDKs."""
        if self._writer.thread is None or not self._writer.settled(stall_s=3.0, most_s=5.0):
            self._link.take_over()
        self._writer.at_exit()
        self._link.close(0.0)

    def _before_fork(self) -> None:
        self._link.spawning.acquire()

    def _after_fork(self, *, child: bool) -> None:
        self._link.spawning.release()
        if child:
            self._link.abandon()
            self._begin()


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The other end's counters, with what was put and refused here: most of it is put there once more."""
    idle = {"dead": 0, "pending": 0, "oldest_s": 0.0, "breaker": "closed"}
    merged = {**ours, **idle, **theirs, "put": ours["put"], "committed": ours["committed"]}
    dropped = [*ours["dropped"].items(), *theirs.get("dropped", {}).items()]
    merged["dropped"] = {reason: sum(n for name, n in dropped if name == reason) for reason, _ in dropped}
    return merged


class _Forwarding:
    """A channel whose records the other end encodes, as far as they can be sent there."""

    def __init__(self, channel: PortableChannel) -> None:
        self._channel = channel
        self.vendor, self.destination = channel.vendor, channel.destination

    def encode(self, record: Any) -> Sequence[Message]:
        if type(record) is bytes:
            return [Message(PACKED, record)]
        portable = self._channel.portable(record)
        with suppress(Exception):  # the application's own objects are in it
            return [Message(PICKLED, _pickled(each)) for each in portable]
        return [message for each in portable for message in self._channel.encode(each)]

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        """Decided at the other end."""
        return Importance.SIGNAL


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Raises PicklingError for what the other end would have to import of the application: an enum in a tag."""
        if hasattr(obj, "__qualname__") and str(obj.__module__).partition(".")[0] not in _KNOWN:  # class or function
            raise pickle.PicklingError(str(obj.__module__))
        return NotImplemented


_KNOWN = sys.stdlib_module_names | {"metricx_observe", "sentry_sdk"}


def _pickled(record: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(record)
    return file.getvalue()


class _Remote:
    """Where the writer stores its groups."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def add(self, messages: Iterable[tuple[Stream, bytes]]) -> None:
        for items in _parts(messages):
            self._link.work("add", items)


def _parts(messages: Iterable[tuple[Stream, bytes]]) -> Iterator[list[Item]]:
    """Of about equal size."""
    part, size = list[Item](), 0
    for stream, payload in messages:
        part.append((stream.vendor, stream.kind, payload))
        size += len(payload)
        if size >= GROUP_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
