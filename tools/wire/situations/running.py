"""What a situation is, what it has in its hands, and how one is run."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from metricx_observe import Observability

from .asgi import exchange, parts, scope_of, texts

_PACKAGE = "metricx_observe"


@dataclass(frozen=True, slots=True)
class Situation:
    """Its name, which is a part of addresses, what it does, and fields of `Settings` for it."""

    name: str
    do: Callable[[Run], Any]
    settings: Mapping[str, Any]


SITUATIONS: list[Situation] = []


def add(name: str, do: Callable[[Run], Any], **settings: Any) -> None:
    """One more situation."""
    if any(known.name == name for known in SITUATIONS):
        raise ValueError(f"two situations are called {name}")
    SITUATIONS.append(Situation(name, do, settings))


def situation(name: str, **settings: Any) -> Callable[[Callable[[Run], Any]], Callable[[Run], Any]]:
    """One more situation, which is a function that takes its `Run`."""

    def decorate(do: Callable[[Run], Any]) -> Callable[[Run], Any]:
        add(name, do, **settings)
        return do

    return decorate


@dataclass(slots=True)
class Run:
    """A situation that runs."""

    situation: Situation
    sink: str
    caller: list[Any] = field(default_factory=list)
    open: list[Observability] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def see(self, what: str, value: Any) -> Any:
        """Note what the caller saw, and give it back."""
        self.caller.append({what: value if _is_plain(value) else repr(value)})
        return value

    def settings(self, **more: Any) -> dict[str, Any]:
        """Of a production that sends to the sink."""
        address = f"{self.sink}/s/{self.situation.name}"
        given = {
            "environment": "production", "service": "same-wire", "release": "1.0.0", "outbox_url": "memory://",
            "sentry_dsn": address.replace("://", "://public@") + "/1",
            "rudderstack_write_key": "write-key", "rudderstack_data_plane_url": address,
            # the SDK has one client for a key, whatever the address
            "langfuse_public_key": f"pk-lf-{self.situation.name}", "langfuse_secret_key": "sk-lf-same-wire",
            "langfuse_base_url": address, "traces_sample_rate": 1.0, "traces_max_per_second": 1e6,
            "errors_max_per_second": 1e6, "in_app": ("wire",),
        }  # fmt: skip
        return {**given, **self.situation.settings, **more}

    def observability(self, **more: Any) -> Observability:
        """One more, which is closed at the situation's end; `sentry_options` are none of `Settings`."""
        settings = self.settings(**more)
        made = Observability.from_env(sentry_options=settings.pop("sentry_options", None), **settings)
        self.open.append(made)
        return made

    def app(self, **install: Any) -> FastAPI:
        """An application with the middleware."""
        app = FastAPI()
        self.observability().install(app, **install)
        return app

    async def call(
        self, app: Any, path: str, *bodies: bytes, method: str = "GET", headers: Any = None,
        leaves_after: int | None = None, **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """One request, whose answer is noted; `more` goes into the scope."""
        scope = scope_of(path, method=method, headers=headers, **more)
        answer = await exchange(app, scope, parts(*bodies), leaves_after=leaves_after)
        self.see(f"{method} {path}", answer)
        return answer

    async def connect(self, app: Any, path: str, *given: str, headers: Any = None, code: int = 1000) -> dict[str, Any]:
        """One websocket, whose answer is noted."""
        scope = scope_of(path, method="WEBSOCKET", headers=headers)
        scope.pop("method")
        answer = await exchange(app, scope, texts(*given, code=code))
        self.see(f"websocket {path}", answer)
        return answer

    def away(self, away: bool) -> None:
        """Whether the vendors answer. By a bare socket: no instrumentation sees it."""
        parts = urlsplit(self.sink)
        with socket.create_connection((parts.hostname or "", parts.port or 0), 10) as connection:
            word = "away" if away else "back"
            connection.sendall(
                f"GET /{word}/{self.situation.name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
            )
            while connection.recv(4096):
                pass

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process of its own: the settings as variables."""
        names = {"environment": "ENVIRONMENT", "log_level": "LOG_LEVEL"}
        documented = ("sentry_", "rudderstack_", "langfuse_")
        given = {
            names.get(name) or (name.upper() if name.startswith(documented) else f"METRICX_{name.upper()}"): value
            for name, value in self.settings().items()
        }
        shown = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
        shown["METRICX_TRACES_MAX_PER_SECOND"] = shown["METRICX_ERRORS_MAX_PER_SECOND"] = "1000000"
        return {**os.environ, **shown, **more}

    def process(self, script: str, *, expect: int = 0, **more: str) -> str:
        """Run a script in a process of its own, with the settings in its environment; what it prints is noted."""
        folder = Path("processes", self.situation.name)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "script.py"
        file.write_text(script)
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=folder, env=self.environment(**more), capture_output=True, text=True,
            timeout=100, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        logged = [line for line in done.stderr.splitlines() if line.startswith(("WARNING:", "ERROR:"))]
        self.see("process", {"code": done.returncode, "out": done.stdout.splitlines(), "log": sorted(logged)})
        if done.returncode != expect:
            self.see("errors", done.stderr.splitlines())
        return done.stdout


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


class _Log(logging.Handler):
    """Warnings of the package, and its start-up lines, without the names of its modules."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        ours = record.name.partition(".")[0] == _PACKAGE
        if (ours and record.levelno >= logging.WARNING) or text.startswith("[STARTUP]"):
            self._run.log.append({"signal": f"log:{text[:60]}", "level": record.levelname, "text": text})


def told(given: Situation, sink: str) -> dict[str, Any]:
    """Run a situation in a thread and a context that nobody used before; what was seen and logged."""
    run = Run(given, sink)
    thread = threading.Thread(target=contextvars.Context().run, args=(_run, run), name="situation")
    handler, began = _Log(run), time.monotonic()
    logging.getLogger().addHandler(handler)
    try:
        thread.start()
        thread.join()
    finally:
        logging.getLogger().removeHandler(handler)
    return {"name": given.name, "seconds": time.monotonic() - began, "caller": run.caller, "log": run.log}


def _run(run: Run) -> None:
    try:
        made = run.situation.do(run)
        if inspect.iscoroutine(made):
            asyncio.run(made)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        run.see("the situation raised", {"error": f"{type(error).__name__}: {error}", "in": where.name})
    finally:
        for each in run.open:
            each.close()
