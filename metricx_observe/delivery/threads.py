"""Threads of delivery: daemons that inherit nothing from whoever caused them to start."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

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
