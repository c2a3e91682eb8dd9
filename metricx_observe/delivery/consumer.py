"""Delivering what belongs to an outbox and to no process: `metricx-observe deliver`.

There is one consumer of a file at a time: it holds a lock, which the kernel frees however its process ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from metricx_observe.exceptions import ConfigurationError

from .channel import Channel, Limits
from .delivery import Delivery
from .outbox import OutboxError, outbox_path
from .outbox.owner_lock import OwnerLock, shared_lock_path

TICK_S = 0.1
RETRY_S = 0.5
"""How often a second consumer looks whether the first one has ended."""
PATIENCE_S = 30.0
"""How long a vendor that does not answer is tried with `once`: as long as the longest backoff."""
CLOSE_S = 5.0


class Consumer:
    """Posts what an outbox holds until it is told to stop."""

    def __init__(self, channels: Sequence[Channel], url: str, limits: Limits) -> None:
        """`url`: of a file."""
        self._channels, self._url, self._limits = channels, url, limits
        self._lock_path = shared_lock_path(str(outbox_path(url)))

    def run(
        self, *, stopped: Callable[[], bool], waits: Callable[[], object], shows: Callable[[Delivery], object],
        once: bool = False,
    ) -> Delivery | None:  # fmt: skip
        """Deliver until `stopped()`, with `once` until nothing more can be delivered now.

        `waits` is called once while another consumer is at work, `shows` now and then. Returns the delivery, closed;
        None: it was stopped while it waited. Raises ConfigurationError where the file cannot be locked.
        """
        while (lock := self._locked(stopped, waits)) is not None:
            delivery = Delivery(self._channels, url=self._url, limits=self._limits, shared=True)
            try:
                if not self._deliver(delivery, lock, stopped, shows, once):
                    return delivery
            finally:
                delivery.close(CLOSE_S)
                lock.close()
        return None

    def _locked(self, stopped: Callable[[], bool], waits: Callable[[], object]) -> OwnerLock | None:
        refusals = 0
        while not stopped():
            try:
                return OwnerLock(self._lock_path, stays=True)
            except BlockingIOError:
                refusals += 1  # the first may be of a process that only looks whether somebody delivers
            except OSError as error:
                raise ConfigurationError(f"the outbox cannot be locked ({error.strerror}): run as its user") from None
            if refusals == 2:
                waits()
            time.sleep(RETRY_S)
        return None

    def _deliver(
        self, delivery: Delivery, lock: OwnerLock, stopped: Callable[[], bool], shows: Callable[[Delivery], object],
        once: bool,
    ) -> bool:  # fmt: skip
        """Returns whether somebody has removed the lock, so that it must be taken again."""
        delivery.start()
        with suppress(OutboxError):  # busy: at the next tick
            delivery.wake(claim=True)
        began = time.monotonic()
        while not stopped():
            if not lock.stands():
                return True
            lock.touch()
            shows(delivery)
            if once and delivery.drained(closing=time.monotonic() - began > PATIENCE_S):
                return False
            time.sleep(TICK_S)
        return False
