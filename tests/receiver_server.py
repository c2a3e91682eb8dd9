"""A real receiver for tests: uvicorn in a thread on a free port of 127.0.0.1.

from tests.receiver_server import running_receiver

with running_receiver() as receiver:
    ...  # something that posts to receiver.url
    (error,) = receiver.wait_for(1, kind="error")
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from metricx_observe.receiver import Limits, create_app
from metricx_observe.receiver.guard import LOOPBACK_HOSTS
from metricx_observe.receiver.server import listen, server

GENEROUS = Limits(rows=1_000_000, rows_per_s=1_000_000)
"""So that a test under load finds everything that it sent."""


class Receiver:
    """A running receiver: its address, and what has arrived there."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = url
        self._client = client

    def signals(self, **filters: Any) -> list[dict[str, Any]]:
        """All signals that match, newest first, whatever their number.

        Args:
            filters: as of `GET /api/signals`: kind, user, workspace, request_id, trace_id, since.
        """
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.get("/api/signals", {"limit": 1000, **filters, **({"cursor": cursor} if cursor else {})}).json()
            found += page["signals"]
            cursor = page["next"]
            if cursor is None:
                return found

    def wait_for(self, n: int, timeout_s: float = 10, **filters: Any) -> list[dict[str, Any]]:
        """The matching signals as soon as there are at least `n`. Fails when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.signals(**filters)
            if len(found) >= n:
                return found
            if time.monotonic() > deadline:
                everything = Counter(signal["kind"] for signal in self.signals())
                raise AssertionError(f"{len(found)} of {n} signals of {filters} came; in all {dict(everything)}")
            time.sleep(0.02)

    async def await_for(self, n: int, timeout_s: float = 10, **filters: Any) -> list[dict[str, Any]]:
        """`wait_for` for tests whose event loop must go on meanwhile."""
        return await asyncio.to_thread(self.wait_for, n, timeout_s, **filters)

    def clear(self) -> None:
        """Forget everything that has arrived."""
        self._invisibly("DELETE", "/api/signals").raise_for_status()

    def get(self, path: str, params: dict[str, Any] | None = None) -> httpx.Response:
        """A GET that must succeed."""
        return self._invisibly("GET", path, params=params).raise_for_status()

    def _invisibly(self, method: str, path: str, **more: Any) -> httpx.Response:
        """In an empty context, so that an SDK under test that watches HTTP clients does not see this one."""
        return contextvars.Context().run(self._client.request, method, path, **more)


@contextmanager
def running_receiver(
    store_path: str | Path = ":memory:",
    *,
    port: int = 0,
    token: str | None = None,
    allowed_hosts: Collection[str] = LOOPBACK_HOSTS,
    limits: Limits = GENEROUS,
) -> Iterator[Receiver]:
    """A receiver on a free port (or on `port`, to come back where another one was) until the block ends."""
    uvicorn_server = server(create_app(store_path, token=token, allowed_hosts=allowed_hosts, limits=limits))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with listen("127.0.0.1", port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]}, daemon=True)
        contextvars.Context().run(thread.start)
        try:
            with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
                client.get("/api/health").raise_for_status()
                yield Receiver(url, client)
        finally:
            uvicorn_server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "the receiver did not stop"
