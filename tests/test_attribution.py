"""Each signal belongs to the user of the request that it was made in, wherever in the code and however many run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from websockets.sync.client import connect as connect_websocket

from metricx_observe import ContextDep, ErrorReporterDep, Observability, TrackerDep
from metricx_observe.context import current

from .attribution_app import PATHS, attribution_app, times
from .receiver_server import Receiver
from .support import call, connect, keys_for, observed, scope_of, serving

PER_PLACE = ("error", "track", "trace", "generation")


class Sent(NamedTuple):
    """One request: which user it was made as, and where."""

    user: str
    path: str

    @property
    def headers(self) -> dict[str, str]:
        return {"x-user": self.user, "x-request-id": f"{self.user}.request"}


def requests(n: int) -> list[Sent]:
    """`n` requests of as many users, over all kinds of code in turn."""
    run = uuid4().hex[:8]
    return [Sent(f"{run}-{number}", path) for number, path in enumerate(islice(cycle(PATHS), n))]


def expected_user(signal: dict[str, Any]) -> Any:
    """The user that a signal's own content names."""
    payload, kind = signal["payload"], signal["kind"]
    if kind == "track":
        return payload["properties"]["expected"]
    if kind == "error":
        return payload["message"]
    return payload["attributes"]["langfuse.observation.input"].strip('"')


def assert_attributed(found: Iterable[dict[str, Any]], sent: Iterable[Sent]) -> None:
    """Every request's signals are there, exactly, and each with its own user, workspace, e-mail and request id."""
    counts: Counter[tuple[str, str]] = Counter()
    by_request = {request.headers["x-request-id"]: request for request in sent}
    for signal in found:
        request = by_request.get(signal["request_id"])
        if request is None:
            continue
        known = request.path != "/anonymous"
        if signal["kind"] != "transaction":
            assert expected_user(signal) == request.user, signal
        assert signal["user_id"] == (request.user if known else None), (request, signal)
        assert signal["workspace_id"] == (f"w-{request.user}" if known else None), (request, signal)
        if signal["vendor"] == "sentry":
            email = (signal["payload"].get("user") or {}).get("email")
            assert email == (f"{request.user}@example.com" if known else None), (request, signal)
        counts[request.user, signal["kind"]] += 1
    wanted = {(user, kind): times(path) for user, path in by_request.values() for kind in PER_PLACE}
    assert counts == {**wanted, **{(user, "transaction"): 1 for user, _ in by_request.values()}}


async def test_each_signal_of_500_concurrent_requests_has_the_user_that_its_request_was_made_with(
    receiver: Receiver,
) -> None:
    """In every kind of code, for all three vendors, with none wrong and none missing."""
    sent = requests(500)
    with observed(receiver, errors_max_per_second=100_000) as observability:
        app = attribution_app(observability)

        async def make(request: Sent) -> None:
            if request.path.endswith("/websocket"):
                answer = await connect(app, request.path, "hello", headers=request.headers)
                assert answer.texts == ["hello"]
            else:
                answer = await call(app, request.path, headers=request.headers)
                assert answer.status == 200, (request, answer)
            assert answer.error is None
            assert answer.headers["x-request-id"] == request.headers["x-request-id"]

        await asyncio.gather(*map(make, sent))
        assert await asyncio.to_thread(observability.flush, 30)
        found = await asyncio.to_thread(receiver.signals)
    assert_attributed(found, sent)


def test_each_signal_has_its_requests_user_under_uvicorn(receiver: Receiver) -> None:
    """The same under a real server, with keep-alive connections that one user after another uses."""
    sent = requests(3 * len(PATHS))
    with observed(receiver, **keys_for(receiver), errors_max_per_second=100_000) as observability:
        with serving(attribution_app(observability)) as url, httpx.Client(base_url=url, trust_env=False) as client:

            def make(request: Sent) -> None:
                if request.path.endswith("/websocket"):
                    address = url.replace("http", "ws") + request.path
                    with connect_websocket(address, additional_headers=request.headers, proxy=None) as socket:
                        socket.send("hello")
                        assert socket.recv() == "hello"
                        assert socket.response is not None
                        assert socket.response.headers["x-request-id"] == request.headers["x-request-id"]
                else:
                    response = client.get(request.path, headers=request.headers)
                    assert response.status_code == 200
                    assert response.headers["x-request-id"] == request.headers["x-request-id"]

            with ThreadPoolExecutor(8) as clients:
                list(clients.map(make, sent))
        found = receiver.signals()  # the end of the lifespan has delivered all
    assert_attributed(found, sent)
