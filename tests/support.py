"""What the core's tests share: an Observability that sends to the receiver, and callers of ASGI applications.

The callers speak ASGI themselves: an HTTP client in process is seen by Sentry's SDK, which would put the trace headers
of the test on each request.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import uvicorn
from sentry_sdk.consts import DEFAULT_OPTIONS
from starlette.types import ASGIApp, Message, Scope

from metricx_observe.observability import Observability
from metricx_observe.request.facts import RequestInfo, first_headers
from metricx_observe.settings import load_settings

from .receiver_server import Receiver


def with_module(package: str, module: str) -> pytest.MarkDecorator:
    """Skips a test where `package` is so old that it has no such module."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{package} {version(package)} has no {module}")


def with_option(option: str) -> pytest.MarkDecorator:
    """Skips a test where Sentry's SDK has no such option yet."""
    missing = option not in DEFAULT_OPTIONS
    return pytest.mark.skipif(missing, reason=f"sentry-sdk {version('sentry-sdk')} has no option {option}")


@contextmanager
def observed(receiver: Receiver, **more: Any) -> Iterator[Observability]:
    """An Observability that sends everything to `receiver`, closed at the end: Sentry's global client is given back.

    Args:
        more: fields of `Settings`; `sentry_options` as of `Observability`.
    """
    sentry_options = more.pop("sentry_options", None)
    given = {"environment": "development", "receiver_url": receiver.url, "outbox_url": "memory://", "service": "tests"}
    observability = Observability(load_settings({**given, **more}), sentry_options=sentry_options)
    try:
        yield observability
    finally:
        observability.close()


def keys_for(receiver: Receiver) -> dict[str, Any]:
    """Settings of a production that sends to `receiver`: closing waits for vendors, but never for a local receiver."""
    return {
        "environment": "production",
        "sentry_dsn": receiver.url.replace("://", "://public@") + "/1",
        "rudderstack_write_key": "write",
        "rudderstack_data_plane_url": receiver.url,
        "langfuse_public_key": "pk-lf-tests",
        "langfuse_secret_key": "sk-lf-tests",
        "langfuse_base_url": receiver.url,
        "traces_sample_rate": 1.0,
    }


@dataclass(slots=True)
class Answer:
    """What an application sent in one call, and what it raised."""

    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None

    def _start(self) -> Message:
        return next((message for message in self.sent if "headers" in message), {})

    @property
    def status(self) -> int:
        """The response's status; 0 when there was none."""
        return int(self._start().get("status", 0))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response, or of the acceptance of a websocket."""
        return {key.decode(): value.decode() for key, value in self._start().get("headers", ())}

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def texts(self) -> list[str]:
        """What a websocket sent as text."""
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]


def scope_of(path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, **more: Any) -> Scope:
    """An ASGI scope as uvicorn makes it; `?query` may be part of `path`."""
    path, _, query = path.partition("?")
    given = {"host": "testserver", **(headers or {})}
    pairs = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    kind = {"type": "websocket", "scheme": "ws"} if method == "WEBSOCKET" else {"type": "http", "scheme": "http"}
    return {
        **kind, "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": pairs,
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 80), "state": {}, "extensions": {}, "subprotocols": [],
        **more,
    }  # fmt: skip


def info_of(scope: Scope) -> RequestInfo:
    """The facts of a request to `shop.example`."""
    headers = [(b"host", b"shop.example"), *(pair for pair in scope["headers"] if pair[0] != b"host")]
    return RequestInfo({**scope, "headers": headers}, first_headers(headers))


async def call_scope(app: ASGIApp, scope: Scope, messages: Iterable[Message]) -> Answer:
    """Call `app` as a server does: in a task and a context of its own. What it raises is in the answer."""
    answer, waiting = Answer(), list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # nothing more comes

    async def send(message: Message) -> None:
        answer.sent.append(message)

    async def run() -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            answer.error = error

    await asyncio.get_running_loop().create_task(run(), context=contextvars.Context())
    return answer


async def call(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    **more: Any,
) -> Answer:
    """One HTTP request; `more` goes into the scope."""
    scope = scope_of(path, method=method, headers=headers, **more)
    return await call_scope(app, scope, [{"type": "http.request", "body": body, "more_body": False}])


async def connect(
    app: ASGIApp, path: str, *texts: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Answer:
    """A websocket on which the client sends `texts` and then leaves."""
    scope = scope_of(path, method="WEBSOCKET", headers=headers, **more)
    scope.pop("method")
    received = [{"type": "websocket.receive", "text": text} for text in texts]
    leaves = {"type": "websocket.disconnect", "code": 1000}
    return await call_scope(app, scope, [{"type": "websocket.connect"}, *received, leaves])


@contextmanager
def serving(app: ASGIApp, **more: Any) -> Iterator[str]:
    """`app` under a real uvicorn in a thread, with its lifespan; gives its address. `more` as of `uvicorn.Config`."""
    options: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "on", "ws": "websockets-sansio"}
    server = uvicorn.Server(uvicorn.Config(app, **{**options, **more}))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        contextvars.Context().run(thread.start)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"
