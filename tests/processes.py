"""Python processes of their own for tests: a folder to run in, and only the settings that were given."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import metricx_observe

CHECKOUT = Path(metricx_observe.__file__).parents[1]

_starting = Lock()


@cache
def _warm() -> socket.socket:
    """The process of `warm.py`, one for each worker of a test run. It ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=CHECKOUT,
            env={"PATH": os.environ["PATH"]},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ).returncode = 0  # nobody waits for it
    return ours


class _Forked(subprocess.Popen[str]):
    """As `Popen` of `sys.executable`, but forked from a process that has imported the libraries already.

    Not for tests of what is imported, nor for options of the interpreter. It replaces the three methods of `Popen` that
    start a process and ask for its end: those have no public names, and the streams stay `Popen`'s own.
    """

    def _execute_child(self, args: list[str], *more: Any) -> None:
        _, _, _, passed, cwd, env, _, _, _, stdin, to_stdin, from_stdout, stdout, from_stderr, stderr, *_ = more
        executable, *arguments = args
        assert executable == sys.executable
        request = {
            "arguments": arguments,
            "folder": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "passed": list(passed),
        }
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams = [given if given != -1 else own for own, given in enumerate((stdin, stdout, stderr))]
        with theirs:
            with _starting:  # a test's threads may start several at once, and there is one to fork from
                warm = _warm()
            socket.send_fds(warm, [json.dumps(request).encode()], [*streams, *passed, theirs.fileno()])
        self.pid = int(self._answers.recv(20))
        self._child_created = True
        self._close_pipe_fds(stdin, to_stdin, from_stdout, stdout, from_stderr, stderr)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        try:
            status = self._answers.recv(20, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._answers.close()
        return self.pid, int(status)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        lock = self._waitpid_lock  # type: ignore[attr-defined]  # a test's threads may ask at the same time
        if self.returncode is None and lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode


# who is not the parent of a process learns of its end on Linux only
Python: type[subprocess.Popen[str]] = _Forked if hasattr(os, "pidfd_open") else subprocess.Popen


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """An environment with nothing of the developer's own shell but the search path and coverage's settings."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE")}
    return {**kept, "HOME": str(folder), "PYTHONPATH": str(CHECKOUT), **variables}


def run_python(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` to its end."""
    return _run(Python, arguments, folder, variables)


def run_fresh_python(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same with nothing imported yet, not even coverage, for tests of what is imported: seconds dearer."""
    return _run(subprocess.Popen, arguments, folder, {**variables, "COVERAGE_PROCESS_CONFIG": ""})


def _run(
    kind: type[subprocess.Popen[str]], arguments: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    with kind(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
