"""A process that has imported everything and does nothing but fork: `processes.Python` starts its children here.

The three SDKs, and what Sentry's SDK looks for, take seconds to import, and coverage doubles them: more than all that
the tests' scripts do themselves. A child is a Python process from the fork on: its own environment, folder, arguments,
streams, coverage, exit hooks and end. No thread runs here and nothing is open, so that a fork carries nothing over.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import socket
import sys
import time
import types
import warnings
from typing import Any

import coverage
from sentry_sdk.integrations import iter_default_integrations

import metricx_observe

from .certificates import trust_one_authority

STREAMS = (("stdin", "r", "strict"), ("stdout", "w", "strict"), ("stderr", "w", "backslashreplace"))
LIBRARIES = ("demo_app.application", "langfuse", "rudderstack.analytics", "celery.bin.celery")
"""What takes long to import, beside this package and what Sentry's SDK looks for."""


def load() -> None:
    """Import the package whole, and what the SDKs import when they are opened."""
    for found in pkgutil.walk_packages(metricx_observe.__path__, "metricx_observe."):
        importlib.import_module(found.name)
    for _ in iter_default_integrations(True):
        pass
    for name in LIBRARIES:
        importlib.import_module(name)
    trust_one_authority()
    gc.freeze()


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and say how each child ends. Returns in a child, with its request; None at the end."""
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *children], [], [])
        for pidfd in children.keys() & ready:
            pid, answers = children.pop(pidfd)
            answers.send(b"%d" % os.waitpid(pid, 0)[1])
            answers.close()
            os.close(pidfd)
        if control.fileno() in ready:
            text, fds, _, _ = socket.recv_fds(control, 1 << 20, 8)
            if not text:
                return None
            if (pid := os.fork()) == 0:
                control.close()
                for pidfd, (_, answers) in children.items():
                    os.close(pidfd)
                    answers.close()
                become(json.loads(text), fds)
                return dict(json.loads(text))
            answers = socket.socket(fileno=fds.pop())
            answers.send(b"%d" % pid)
            children[os.pidfd_open(pid)] = pid, answers
            for fd in fds:
                os.close(fd)


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Take over what a process is given by whoever starts it."""
    own = [0, 1, 2, *request["passed"]]
    for fd, received in zip(own, fds, strict=False):  # the last one is the way back to whoever asked
        os.dup2(received, fd)
    for received in set(fds).difference(own):
        os.close(received)
    # the old ones know of the old descriptors whether one can seek in them
    for fd, (name, mode, errors) in enumerate(STREAMS):
        setattr(sys, name, open(fd, mode, errors=errors, closefd=False))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    time.tzset()
    coverage.process_startup()


def run(arguments: list[str]) -> None:
    """What the interpreter does with its arguments: `-W action`, then `-c code`, `-m module` or a script."""
    if arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]  # as the option is given
        arguments = arguments[2:]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    first, *rest = arguments
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    beside = {"-c": "", "-m": os.getcwd()}.get(first, os.path.dirname(os.path.abspath(first)))
    sys.path[:1] = [beside, *kept]
    importlib.invalidate_caches()
    if first == "-m":
        sys.argv = rest
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]  # `-m` itself calls it
        return
    if first == "-c":
        code, sys.argv = rest[0], ["-c", *rest[1:]]
    else:
        with open(first) as file:
            code = file.read()
        main.__file__, sys.argv = first, arguments
    exec(compile(code, "<string>" if first == "-c" else first, "exec", dont_inherit=True), main.__dict__)


if __name__ == "__main__":
    load()
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    if given is not None:
        try:
            run(given["arguments"])
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
                trace = trace.tb_next
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            sys.exit(1)
