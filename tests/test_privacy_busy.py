"""One request with a text made for the scrubber, through an application and its real SDKs: nobody else waits for it."""

from __future__ import annotations

import secrets

import pytest
from fastapi import FastAPI

from metricx_observe import LLMTracerDep, TrackerDep

from .receiver_server import Receiver
from .support import call, observed

LONG = ("state=", "?code1'=", "key=[", "pin=1&", "token%3Dab1;", "sid='")


@pytest.mark.parametrize("part", LONG)
async def test_a_long_query_holds_nobody_up(receiver: Receiver, part: str) -> None:
    """Twenty honest requests after one with 60 KB of separators are all delivered, and so is that one."""
    long, honest = secrets.token_hex(16), secrets.token_hex(16)
    with observed(receiver, traces_sample_rate=1.0) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/event")
        async def event(tracker: TrackerDep) -> None:
            tracker.track("seen")

        @app.get("/llm")
        async def answer(llm: LLMTracerDep) -> None:
            with llm.trace("answer", input=part * 10_000, metadata={"note": part * 5_000}):
                pass

        sampled = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01", "x-request-id": long}
        await call(app, "/nothing", headers=sampled, query_string=(part * 60_000)[:60_000].encode())
        await call(app, "/llm", headers=sampled)
        for _ in range(20):
            await call(app, "/event", headers={"x-request-id": honest})
        assert observability.flush(5)
        kinds = [each["kind"] for each in receiver.signals(request_id=long)]
        tracked = receiver.signals(request_id=honest, kind="track")
    assert {"transaction", "trace"} <= set(kinds)
    assert len(tracked) == 20
