"""A fresh process for each variant: it stays alive and does one round whenever it is told to.

One line of JSON in, one line of JSON out. The process opens what `MODULE:FUNCTION ARGUMENTS…` names, which gives a
function of a command's fields. What the variants themselves print goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
READY_S = 60
_SETTINGS = (
    "METRICX_", "SENTRY_", "LANGFUSE_", "RUDDERSTACK_", "OTEL_", "LOGFIRE_", "POSTHOG_", "ENVIRONMENT", "LOG_LEVEL",
)  # fmt: skip
"""How the names of variables of ours and of the vendors begin."""

Round = Callable[..., dict[str, Any]]


class MissingPackageError(Exception):
    """A variant's package is not installed; says which."""


class Worker:
    """The conductor's end of a process."""

    def __init__(
        self,
        target: str,
        *arguments: str,
        environment: Mapping[str, str] = {},
        start: type[subprocess.Popen[str]] = subprocess.Popen,
    ) -> None:
        """Raises MissingPackageError, or RuntimeError with what the process said."""
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._errors = open(f"{self.folder.name}/stderr", "w+")  # noqa: SIM115
        self._process = start(
            [sys.executable, "-m", "bench.worker", target, *arguments],
            cwd=self.folder.name, env=clean_environment() | dict(environment), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        if reason := self._answer().get("missing"):
            self.close()
            raise MissingPackageError(reason)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Do one round."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args!r} ended:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it; what it still holds was counted already."""
        with suppress(BrokenPipeError):
            self._process.communicate("", timeout=READY_S)
        self._errors.close()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def clean_environment() -> dict[str, str]:
    """Without the settings of any vendor, so that a developer's own don't change what is measured."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
    return {**kept, "PYTHONPATH": str(ROOT)}


def main() -> None:
    """The process's end."""
    target, *arguments = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, _, function = target.partition(":")
    try:
        do: Round = getattr(import_module(module), function)(*arguments)
    except ImportError as error:
        answers.write(json.dumps({"missing": str(error)}) + "\n")
        return
    answers.write("{}\n")
    for line in sys.stdin:
        answers.write(json.dumps(do(**json.loads(line))) + "\n")
    answers.flush()
    os._exit(0)  # at-exit hooks of the SDKs wait for queues that nobody measures any more


if __name__ == "__main__":
    main()
