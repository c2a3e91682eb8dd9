"""The connection to a process beside the application's, and the life of that process.

Questions and answers are pickled, which is safe: the pair of sockets is known to these two processes only.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from .outbox import OutboxError
from .tally import logger
from .threads import start_thread

BEGIN_S = 30.0
"""How long a process may take to begin. It loads the vendors' SDKs, about a second of CPU."""
ANSWER_S = 1.0
ATTEMPTS = 3
"""Processes that may end in a row without having stored anything before this one does their work itself."""
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

News = tuple[str, tuple[Any, ...]]
"""What the other end has to say beside an answer: what it is, and its values."""


class Served(Protocol):
    """The other end: its methods are called by name."""

    def news(self) -> list[News]:
        """What happened since the last call."""
        ...

    def close(self, deadline_s: float) -> None:
        """Do what can be done until the deadline."""


class Link:
    """Asks the other process, which `work` starts; if it cannot run, this process does its work itself.

    For any thread; one question at a time.
    """

    def __init__(
        self,
        module: str,
        greeting: bytes,
        here: Callable[[bytes], Served],
        hear: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        """The process runs `main(fd)` of `module`. It and `here` are given `greeting`; `hear` is given the news."""
        self._module, self._greeting, self._make_here, self._hear = module, greeting, here, hear
        self._lock = threading.Lock()  # held while a question waits for its answer
        self.spawning = threading.Lock()
        """Held while both ends are open here: a child forked meanwhile would keep the other one open."""
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._here: Served | None = None
        self._asked = self._deaths = 0
        self._closing = False

    @property
    def pid(self) -> int | None:
        """The process that delivers; None while there is none."""
        if self._here is not None:
            return os.getpid()
        process = self._process if self._connection is not None else None
        return process.pid if process is not None else None

    def ask(self, what: str, *values: object) -> Any:
        """Call a method of the other end. Raises OutboxError, also where it does not answer within a second."""
        # When closing, whoever holds it may be what a signal's handler interrupted, and never let go.
        if not self._lock.acquire(timeout=ANSWER_S / 10 if self._closing else ANSWER_S):
            raise OutboxError("the delivery process is at work", busy=True)
        try:
            if self.pid is None:
                raise OutboxError("the delivery process does not run", busy=True)
            return self._call(what, values, ANSWER_S)
        finally:
            self._lock.release()

    def work(self, what: str, *values: object) -> Any:
        """`ask` for the writer: starts the process, and waits as long as it lives. Raises OutboxError: it died."""
        with self._lock:
            if self.pid is None:
                self._start()
            answer = self._call(what, values, None)
            self._deaths = 0
            return answer

    def _call(self, what: str, values: tuple[object, ...], within_s: float | None) -> Any:
        if self._here is not None:
            answer = getattr(self._here, what)(*values)
            self._listen(self._here.news())
            return answer
        try:
            return self._exchange(what, values, within_s)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._died()
            raise OutboxError(f"the delivery process ended ({type(error).__name__})", busy=True) from None
        except OutboxError:
            raise
        except BaseException:  # Ctrl-C, maybe in the middle of a message: what follows could not be read
            self._died()
            raise

    def _exchange(self, what: str, values: tuple[object, ...], within_s: float | None) -> Any:
        assert self._connection is not None
        self._asked += 1
        self._connection.send((self._asked, what, values))
        while self._connection.poll(within_s):
            number, answer, failure, news = self._connection.recv()
            self._listen(news)
            if number == self._asked:  # else it comes too late for the question that it answers
                if failure:
                    raise OutboxError(failure, busy=True)
                return answer
        raise OutboxError("the delivery process does not answer in time", busy=True)

    def _listen(self, news: list[News]) -> None:
        for what, values in news:
            with suppress(Exception):  # a log handler of the application's: the answer that came along still counts
                self._hear(what, values)

    def _start(self) -> None:
        """Raises OutboxError, unless this process does the work from now on."""
        try:
            why = "too late" if self._closing else self._begin()
        except Exception as error:  # whatever the platform cannot do
            why = type(error).__name__
        if not why:
            return
        self._died()
        if self._deaths < ATTEMPTS and not self._closing:
            raise OutboxError(f"the delivery process does not begin ({why})", busy=True)
        logger.error("No delivery process (%s): this process delivers itself from now on", why)
        self._here = self._make_here(self._greeting)

    def _begin(self) -> str:
        """Returns why it does not. Without `site`, whose .pth files and `sitecustomize` would instrument our posts too;
        in a session of its own, since Ctrl-C is for the application."""
        if getattr(sys, "frozen", False) or not Path(sys.executable).name.startswith(("python", "pypy")):
            self._deaths = ATTEMPTS
            return "sys.executable is no Python: it would start the application again"
        path = [_ROOT, *(entry for entry in sys.path if entry and isinstance(entry, str))]
        with self.spawning:
            self._connection, theirs = Pipe()
            code = _CODE.format(path=path, module=self._module, fd=theirs.fileno())
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-P", "-c", code], pass_fds=[theirs.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        self._connection.send_bytes(self._greeting)
        if self._closing or not self._connection.poll(BEGIN_S):
            return "no answer"
        return self._connection.recv_bytes().decode()

    def _died(self) -> None:
        self._deaths += 1
        self._let_go()
        process, self._process = self._process, None
        if process is not None and self._closing:  # it may still be storing what it was given
            _leave(process)
        elif process is not None:
            process.kill()
            process.wait()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def take_over(self) -> None:
        """The other process is too late: its answers are no longer waited for, and this one does what is left to do."""
        self._closing = True
        self._shut(socket.SHUT_RDWR)

    def close(self, timeout_s: float) -> None:
        """Let the other process end, and wait for that as long; what it was given it stores all the same.

        Half of the connection is closed, as the end of this process would do: a thread may be waiting for an answer.
        """
        self._closing = True
        process = self._process
        self._shut(socket.SHUT_WR)
        if process is not None:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _leave(process)
        if self._lock.acquire(blocking=False):
            self._let_go()
            self._lock.release()

    def _shut(self, how: int) -> None:
        connection = self._connection
        if connection is not None:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(how)

    def abandon(self) -> None:
        """In a forked child: process and connection are the parent's."""
        self._let_go()
        if self._process is not None:
            self._process.returncode = 0  # its finaliser would warn of a process that still runs


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Let a thread wait for its end: it would stay a zombie."""
    try:
        start_thread("reaper", process.wait, nullcontext)
    except RuntimeError:  # the interpreter is ending
        process.returncode = 0
