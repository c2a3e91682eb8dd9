"""The application's end of the connection to the process that delivers, and that process's life.

A call is a method of the other end's `Delivery` with its values; an answer is what came of it, and what happened there
meanwhile. Both are pickled, which is safe: the pair of sockets is known to these two processes only.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from metricx_observe.delivery.outbox import OutboxError
from metricx_observe.delivery.threads import start_thread

BEGIN_S = 30.0
"""How long a process may take to begin. It loads the vendors' SDKs, about a second of CPU."""
ANSWER_S = 1.0
ATTEMPTS = 3
"""Processes that may end in a row without having stored anything."""
_ROOT = str(Path(__file__).parent.parent.parent)
# A service's processes get these signals all at once, and this one is the last to leave. The path comes after that of
# the standard library, which an application may shadow for those that import it late.
_CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path += {path!r}
from metricx_observe.delivery_process.server import main
main()
"""


class CannotRunError(OutboxError):
    """There is no such process, and there will be none."""


class Process:
    """Calls methods of the other process, one at a time; for any thread."""

    def __init__(self, options: Mapping[str, Any], listeners: Mapping[str, Callable[..., None]]) -> None:
        """`options`: those of `server.open_delivery`. `listeners` are called with what happens there, by its kind."""
        self._options, self._listeners = options, listeners
        self._lock = threading.Lock()  # held while a call waits for its answer
        self.spawning = threading.Lock()
        """Held while both ends are open here: a child forked meanwhile would keep the other one open."""
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered = self._starts = 0
        self._closing = False

    @property
    def pid(self) -> int | None:
        """The other process; None while there is none."""
        return self._process.pid if self._process is not None and self._connection is not None else None

    def call(self, method: str, *, wait: bool = False, **values: object) -> Any:
        """Call a method there. Raises OutboxError, also where there is no answer within a second.

        `wait`, for the writer: starts the process, and waits as long as it lives. Raises CannotRunError.
        """
        # When closing, whoever holds it may be what a signal's handler interrupted, and never let go.
        if not self._lock.acquire(timeout=-1 if wait else ANSWER_S / 10 if self._closing else ANSWER_S):
            raise OutboxError("the delivery process is at work", busy=True)
        try:
            if self._connection is None and not wait:
                raise OutboxError("the delivery process does not run", busy=True)
            connection = self._connection or self._start()
            answer, failure = self._exchange(connection, method, values, None if wait else ANSWER_S)
            self._starts = 0 if wait else self._starts
        except OutboxError:
            raise
        except BaseException as error:  # Ctrl-C too, maybe in the middle of a message: what follows could not be read
            self._disconnect()
            if not isinstance(error, Exception):
                raise
            kind = CannotRunError if wait and (self._closing or self._starts >= ATTEMPTS) else OutboxError
            what, why = "does not begin" if self._starts else "ended", str(error) or type(error).__name__
            raise kind(f"the delivery process {what} ({why})", busy=True) from None
        finally:
            self._lock.release()
        if failure:
            raise OutboxError(failure, busy=True)
        return answer

    def _exchange(
        self, connection: Connection, method: str, values: Mapping[str, Any], within_s: float | None
    ) -> tuple[Any, str]:
        """What the method returned, and why it failed."""
        connection.send((method, values))
        self._unanswered += 1
        while connection.poll(within_s):
            answer, failure, events = connection.recv()
            self._unanswered -= 1
            for kind, *event in events:
                with suppress(Exception):  # a log handler of the application's: the answer still counts
                    self._listeners[kind](*event)
            if not self._unanswered:  # else it comes too late for the call that it answers
                return answer, failure
        return None, "the delivery process does not answer in time"

    def _start(self) -> Connection:
        """Without `site`, whose .pth files and `sitecustomize` would instrument our posts too; in a session of its own,
        since Ctrl-C is for the application."""
        if self._closing:
            raise CannotRunError("too late")
        if getattr(sys, "frozen", False) or not Path(sys.executable).name.startswith(("python", "pypy")):
            raise CannotRunError("sys.executable is no Python: it would start the application again")
        self._starts += 1
        code = _CODE.format(path=[_ROOT, *(entry for entry in sys.path if entry and isinstance(entry, str))])
        with self.spawning:
            self._connection, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-P", "-c", code], start_new_session=True,
                    stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        start_thread("reaper", self._process.wait, nullcontext)  # it would stay a zombie
        if self._closing:  # since it was not there yet to be killed
            self._process.kill()
        self._unanswered = 0
        _, failure = self._exchange(self._connection, "open", self._options, BEGIN_S)
        if failure:
            raise RuntimeError(failure)
        return self._connection

    def _disconnect(self) -> None:
        """End a connection that failed, and the process behind it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._process is not None and not self._closing:  # else it may still be storing what it was given
            self._process.kill()

    def close(self, timeout_s: float) -> None:
        """Let the other process end, and wait for that. What it was given it stores all the same."""
        self._closing = True
        if not self._lock.acquire(timeout=timeout_s):
            self.kill()  # its rows are taken over
            return
        self._disconnect()
        self._lock.release()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)

    def kill(self) -> None:
        """The other process is too late: nobody waits for it any more, and no other one is started."""
        self._closing = True
        if self._process is not None:
            self._process.kill()

    def abandon(self) -> None:
        """In a forked child: process and connection are the parent's."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.returncode = 0  # its finaliser would warn of a process that still runs
