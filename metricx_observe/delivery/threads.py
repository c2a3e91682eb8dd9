"""What delivery does with its process: threads, and what a fork and the end of the interpreter do to them.

Threads are daemons that inherit nothing from whoever caused them to start.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Protocol

Isolate = Callable[[], AbstractContextManager[object]]
"""What each thread of delivery runs inside of: keeps the application's instrumentation away."""


def start_thread(name: str, target: Callable[[], object], isolate: Isolate) -> threading.Thread:
    """Start a daemon in an empty context: in a request's, its trace headers would stand on our posts."""

    def run() -> None:
        with ExitStack() as stack:
            with suppress(Exception):  # delivery that can be seen is better than none
                stack.enter_context(isolate())
            target()

    thread = threading.Thread(target=run, name=f"metricx-observe-{name}", daemon=True)
    contextvars.Context().run(thread.start)
    return thread


class Process(Protocol):
    """What has to know of them."""

    def at_exit(self) -> None: ...
    def before_fork(self) -> None: ...
    def after_fork(self, *, child: bool) -> None: ...


alive: dict[Process, None] = {}
"""Until they are closed, in order: a script may let go of its delivery before it ends."""
_forking: list[Process] = []
"""Those that were brought to a stop for a fork that is going on."""


@atexit.register
def _at_exit() -> None:
    while alive:  # the end of one may make another
        process = next(iter(alive))
        del alive[process]
        process.at_exit()


def _before_fork() -> None:
    _forking[:] = alive
    for process in _forking:
        process.before_fork()


def _after_fork(child: bool) -> None:
    for process in _forking:
        process.after_fork(child=child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=lambda: _after_fork(False), after_in_child=lambda: _after_fork(True)
    )
