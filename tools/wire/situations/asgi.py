"""Callers of ASGI applications. Sentry's SDK would see an HTTP client in process, and add its headers."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any


def scope_of(path: str, *, method: str = "GET", headers: Any = None, **more: Any) -> dict[str, Any]:
    """A scope as uvicorn makes it; `?query` may be part of `path`."""
    path, _, query = path.partition("?")
    pairs = [*headers.items()] if isinstance(headers, Mapping) else list(headers or ())
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in [("host", "shop.example"), *pairs]
    ]
    kind = {"type": "websocket", "scheme": "ws"} if method == "WEBSOCKET" else {"type": "http", "scheme": "http"}
    return {
        **kind, "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": pairs,
        "client": ("198.51.100.7", 50000), "server": ("127.0.0.1", 80), "state": {}, "extensions": {},
        "subprotocols": [], **more,
    }  # fmt: skip


async def exchange(
    app: Any, scope: dict[str, Any], messages: Iterable[dict[str, Any]], *, leaves_after: int | None = None
) -> dict[str, Any]:
    """Call `app` as a server does, and give what it sent and raised.

    Args:
        leaves_after: So many messages are taken, then sending fails: the client has left.
    """
    sent: list[dict[str, Any]] = []
    raised: list[str] = []
    coming = list(messages)

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop(0)
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # nothing more comes

    async def send(message: dict[str, Any]) -> None:
        if leaves_after is not None and len(sent) >= leaves_after:
            raise OSError("the client has left")
        sent.append(message)

    async def serve() -> None:
        try:
            await app(scope, receive, send)
        except BaseException as error:
            raised.append(f"{type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                return

    await asyncio.get_running_loop().create_task(serve(), context=contextvars.Context())
    start = next((message for message in sent if "headers" in message), {})
    headers = [f"{key.decode('latin-1')}: {value.decode('latin-1')}" for key, value in start.get("headers", ())]
    body = b"".join(message.get("body", b"") for message in sent)
    return {
        "status": start.get("status"), "headers": headers, "body": body[:400].decode("utf-8", "replace"),
        "messages": [message["type"] for message in sent], "raised": raised,
        "texts": [message["text"] for message in sent if message.get("text") is not None],
    }  # fmt: skip


def parts(*bodies: bytes) -> list[dict[str, Any]]:
    """A request's body in one or more messages."""
    bodies = bodies or (b"",)
    return [
        {"type": "http.request", "body": body, "more_body": number < len(bodies) - 1}
        for number, body in enumerate(bodies)
    ]


def texts(*given: str, code: int = 1000) -> list[dict[str, Any]]:
    """What a websocket's client does: it connects, sends texts and leaves."""
    received = [{"type": "websocket.receive", "text": text} for text in given]
    return [{"type": "websocket.connect"}, *received, {"type": "websocket.disconnect", "code": code}]


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[list[str]]:
    """Start-up before the block and shutdown after it; gives the types of what the application answered."""
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answered: list[str] = []
    step = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        answered.append(message["type"])
        step.set()

    async def serve() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await app(scope, coming.get, send)
        except Exception as error:
            answered.append(type(error).__name__)
        step.set()

    task = asyncio.get_running_loop().create_task(serve(), context=contextvars.Context())
    await coming.put({"type": "lifespan.startup"})
    await step.wait()
    try:
        yield answered
    finally:
        step.clear()
        if not task.done():
            await coming.put({"type": "lifespan.shutdown"})
            await step.wait()
        await task
