"""The process that delivers for an application's: the connection to it, and its life.

There is one kind of message: a method of the other end's `Delivery` with its values, and what came of it. Both are
pickled, which is safe: the pair of sockets is known to these two processes only.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .outbox import OutboxError
from .threads import start_thread

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
from {module} import main
main({fd})
"""


class CannotRunError(OutboxError):
    """There is no such process, and there will be none."""


class Process:
    """Calls methods of the other process, one at a time; for any thread."""

    def __init__(self, module: str, options: Mapping[str, Any], listen: Callable[[str, tuple[Any, ...]], None]) -> None:
        """The process runs `main(fd)` of `module`, and is opened with `options`. `listen` is told of its events."""
        self._module, self._options, self._listen = module, options, listen
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
        process = self._process if self._connection is not None else None
        return process.pid if process is not None else None

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
            answer = self._exchange(connection, method, values, None if wait else ANSWER_S)
            self._starts = 0 if wait else self._starts
            return answer
        finally:
            self._lock.release()

    def _exchange(self, connection: Connection, method: str, values: Mapping[str, Any], within_s: float | None) -> Any:
        answer: Any = None
        try:
            connection.send((method, values))
            self._unanswered += 1
            while connection.poll(within_s):
                answer, failure, events = connection.recv()
                self._unanswered -= 1
                for what, told in events:
                    with suppress(Exception):  # a log handler of the application's: the answer still counts
                        self._listen(what, told)
                if not self._unanswered:  # else it comes too late for the call that it answers
                    break
            else:
                failure = "the delivery process does not answer in time"
        except BaseException as error:  # Ctrl-C too, maybe in the middle of a message: what follows could not be read
            self._let_go()
            if isinstance(error, (OSError, EOFError, pickle.UnpicklingError)):
                raise OutboxError(f"the delivery process ended ({type(error).__name__})", busy=True) from None
            raise
        if failure:
            raise OutboxError(failure, busy=True)
        return answer

    def _start(self) -> Connection:
        if self._closing:
            raise CannotRunError("too late")
        if getattr(sys, "frozen", False) or not Path(sys.executable).name.startswith(("python", "pypy")):
            raise CannotRunError("sys.executable is no Python: it would start the application again")
        self._starts += 1
        try:
            connection = self._spawn()
            self._exchange(connection, "open", self._options, BEGIN_S)
        except Exception as error:  # whatever the platform cannot do
            self._let_go()
            kind = CannotRunError if self._closing or self._starts >= ATTEMPTS else OutboxError
            raise kind(f"the delivery process does not begin ({error})", busy=True) from None
        return connection

    def _spawn(self) -> Connection:
        """Without `site`, whose .pth files and `sitecustomize` would instrument our posts too; in a session of its own,
        since Ctrl-C is for the application."""
        path = [_ROOT, *(entry for entry in sys.path if entry and isinstance(entry, str))]
        with self.spawning:
            self._connection, theirs = Pipe()
            self._unanswered = 0
            with theirs:
                code = _CODE.format(path=path, module=self._module, fd=theirs.fileno())
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-P", "-c", code], pass_fds=[theirs.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        start_thread("reaper", self._process.wait, nullcontext)  # it would stay a zombie
        if self._closing:  # since the connection was not there yet to be shut
            raise EOFError
        return self._connection

    def _let_go(self) -> None:
        """End a connection on which nothing more can be said, and the process behind it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._process is not None and not self._closing:  # else it may still be storing what it was given
            self._process.kill()

    def close(self, timeout_s: float) -> None:
        """Let the other process end, and wait for that as long; what it was given it stores all the same.

        Half of the connection is closed, as the end of this process would do: a thread may be waiting for an answer.
        """
        self._closing = True
        self._shut(socket.SHUT_WR)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        if self._lock.acquire(blocking=False):
            self._let_go()
            self._lock.release()

    def take_over(self) -> None:
        """The other process is too late: its answers are no longer waited for, and no other one is started."""
        self._closing = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        connection = self._connection
        if connection is not None:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(how)

    def abandon(self) -> None:
        """In a forked child: process and connection are the parent's."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.returncode = 0  # its finaliser would warn of a process that still runs
