"""Nobody becomes somebody else by a header: each that is known for it is tried alone, and changes nothing."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from metricx_observe import ContextDep, LLMTracerDep, Observability, TrackerDep
from metricx_observe.logs import ContextFormatter

from .processes import run_python
from .receiver_server import Receiver
from .support import call, keys_for, observed, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VICTIM = "victim"
BAGGAGE = (
    "langfuse_user_id=victim,langfuse_session_id=victim,langfuse_tags=victim,langfuse_trace_name=victim,"
    "langfuse_environment=victim,langfuse_metadata_workspace_id=victim"
)
FORGED = {
    "baggage of langfuse": {"baggage": BAGGAGE},
    "baggage of sentry": {
        "baggage": f"sentry-trace_id={'1' * 32},sentry-user_id=victim,sentry-sampled=true,sentry-sample_rate=1,"
        "sentry-sample_rand=0.000001,sentry-environment=victim,sentry-release=victim"
    },
    "baggage of opentelemetry": {"baggage": "user.id=victim,enduser.id=victim,session.id=victim"},
    "tracestate": {"tracestate": "victim=victim", "traceparent": f"00-{TRACE}-{SPAN}-01"},
    "traceparent, not sampled": {"traceparent": f"00-{TRACE}-{SPAN}-00"},
    "sentry-trace, not sampled": {"sentry-trace": f"{TRACE}-{SPAN}-0"},
    "sentry-trace, sampled": {"sentry-trace": f"{TRACE}-{SPAN}-1"},
    "b3": {"b3": f"{TRACE}-{SPAN}-1", "x-b3-traceid": TRACE, "x-b3-sampled": "1", "x-b3-flags": "1"},
    "posthog": {"x-posthog-distinct-id": VICTIM, "x-posthog-session-id": VICTIM, "x-posthog-window-id": VICTIM},
    "user id": {"x-user-id": VICTIM, "x-user": VICTIM, "user-id": VICTIM, "from": "victim@example.com"},
    "proxies' users": {"x-forwarded-user": VICTIM, "x-forwarded-email": "victim@example.com", "remote-user": VICTIM},
    "workspace": {"x-workspace-id": VICTIM, "x-tenant-id": VICTIM, "x-org-id": VICTIM},
    "session": {"x-session-id": VICTIM, "langfuse-session-id": VICTIM, "mcp-session-id": VICTIM},
    "langfuse": {"x-langfuse-public-key": VICTIM, "x-langfuse-user-id": VICTIM, "langfuse_user_id": VICTIM},
    "rudderstack": {"anonymousid": VICTIM, "x-anonymous-id": VICTIM, "x-rudder-user-id": VICTIM},
    "address": {
        "x-forwarded-for": "203.0.113.9", "x-real-ip": "203.0.113.9", "forwarded": "for=203.0.113.9",
        "cf-connecting-ip": "203.0.113.9", "true-client-ip": "203.0.113.9", "x-client-ip": "203.0.113.9",
    },
    "cookies": {"cookie": "user_id=victim; rl_user_id=victim; rl_trait=victim; ph_posthog=victim; ajs_user_id=victim"},
    "sampling": {"x-sampled": "1", "x-cloud-trace-context": f"{TRACE}/1;o=1", "x-amzn-trace-id": "Sampled=1"},
    "basic": {"authorization": "Basic dmljdGltOnZpY3RpbQ=="},
    "message id": {"x-message-id": VICTIM, "idempotency-key": VICTIM, "x-correlation-id": VICTIM},
}  # fmt: skip


def identify(connection: HTTPConnection) -> str | None:
    """The server's own authentication: by the path, which no header changes."""
    return "alice" if connection.url.path == "/alice" else None


def app_of(observability: Observability) -> FastAPI:
    """Every kind of signal: of nobody, and of somebody who is signed in."""
    app = FastAPI()
    observability.install(app, identify=identify)

    @app.get("/nobody")
    @app.get("/alice")
    async def everything(tracker: TrackerDep, llm: LLMTracerDep) -> None:
        tracker.track("seen")
        with observability.llm.client.start_as_current_observation(name="own"):
            pass
        own = observability.llm.client.start_as_current_observation(name="nested")
        with llm.trace("seen") as trace, trace.generation("call", model="m"), own:
            raise ValueError("seen")

    return app


def who_and_what(signals: list[dict[str, Any]]) -> list[Any]:
    """Of each signal what no header may change: kind, user, workspace, tags, session; ids and times left out."""
    found = []
    for signal in signals:
        payload, attributes = signal["payload"], signal["payload"].get("attributes", {})
        tags = {name: value for name, value in (payload.get("tags") or {}).items() if not name.endswith(("_id", "id"))}
        context = payload.get("context", {})
        found.append((
            signal["kind"], signal["name"], signal["user_id"], signal["workspace_id"], tags, payload.get("user"),
            {key: value for key, value in attributes.items() if "metadata" not in key and "id" not in key},
            attributes.get("user.id"), attributes.get("session.id"), payload.get("environment"), payload.get("release"),
            context.get("sessionId"), context.get("ip"), context.get("traits"), payload.get("level"),
        ))  # fmt: skip
    return sorted(found, key=repr)


NEGATIVE = {"traceparent, not sampled", "sentry-trace, not sampled"}


async def effect(receiver: Receiver, app: FastAPI, observability: Observability, path: str, **headers: str) -> Any:
    request_id = uuid4().hex
    await call(app, path, headers={**headers, "x-request-id": request_id})
    observability.flush()
    return receiver.signals(request_id=request_id)


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_header_changes_nothing(receiver: Receiver, name: str) -> None:
    """Neither for nobody nor for who is signed in; a negative decision leaves out the transaction, and no more."""
    with observed(receiver, traces_sample_rate=1.0) as observability:
        app = app_of(observability)
        for path in ("/nobody", "/alice"):
            honest = who_and_what(await effect(receiver, app, observability, path))
            signals = await effect(receiver, app, observability, path, **FORGED[name])
            if name in NEGATIVE:
                honest = [each for each in honest if each[0] != "transaction"]
            assert who_and_what(signals) == honest
            for signal in signals:  # a request header is shown in errors as what it is, and nowhere else
                request = (signal["payload"].pop("request", None) or {}).get("headers", {})
                assert VICTIM not in json.dumps(signal)
                assert not {"x-forwarded-for", "x-real-ip", "forwarded", "cookie", "authorization"} & set(request)


def test_forged_headers_change_nothing_under_uvicorn(receiver: Receiver) -> None:
    """All at once, as a real server hands them on; uvicorn itself trusts proxies on its own machine."""
    ids = {path: uuid4().hex for path in ("/nobody", "/alice")}
    forged = {key: value for headers in FORGED.values() for key, value in headers.items() if key != "baggage"}
    with observed(receiver, **keys_for(receiver)) as observability, serving(app_of(observability)) as url:
        for path, request_id in ids.items():
            headers = {**forged, "baggage": BAGGAGE, "x-request-id": request_id}
            httpx.get(url + path, headers=headers, trust_env=False)
    for path, request_id in ids.items():
        signals = receiver.signals(request_id=request_id)
        assert {signal["user_id"] for signal in signals} == ({"alice"} if path == "/alice" else {None})
        assert {signal["workspace_id"] for signal in signals} == {None}
        assert "203.0.113.9" not in json.dumps(signals)


OWN_PROVIDER = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())  # as an application that has OpenTelemetry does: FastAPI's own spans begin
from tests.receiver_server import running_receiver
from tests.support import observed
from tests.test_spoofing import app_of, effect, who_and_what

async def main() -> None:
    headers = json.loads(sys.argv[1])
    with running_receiver() as receiver, observed(receiver, traces_sample_rate=1.0) as observability:
        app = app_of(observability)
        for path in ("/nobody", "/alice"):
            found = [who_and_what(await effect(receiver, app, observability, path, **each)) for each in ({}, headers)]
            llm = [[each for each in signals if each[0] in ("trace", "generation", "observation")] for signals in found]
            assert len(llm[0]) == 4, llm
            assert llm[0] == llm[1], llm
        print("the same")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"baggage": BAGGAGE}, id="baggage"),
        pytest.param({"traceparent": f"00-{TRACE}-{SPAN}-00"}, id="traceparent"),
        pytest.param({"traceparent": f"00-{TRACE}-{SPAN}-01"}, id="sampled"),
    ],
)
def test_nor_where_the_application_has_opentelemetry(headers: dict[str, str], tmp_path: Path) -> None:
    """With a global provider FastAPI reads baggage and the upstream's decision from the request, and Langfuse's SDK
    took the user, and whether to record at all, from there."""
    done = run_python("-c", OWN_PROVIDER, json.dumps(headers), folder=tmp_path)
    assert done.stdout.endswith("the same\n"), done.stderr


async def test_a_forged_positive_decision_is_limited_and_does_not_touch_our_own_rate(receiver: Receiver) -> None:
    """METRICX_TRACES_MAX_PER_SECOND bounds what clients make us trace; what we sample ourselves comes on top."""
    run = uuid4().hex[:8]
    with observed(receiver, traces_sample_rate=1e-9, traces_max_per_second=4) as observability:
        app, began = app_of(observability), time.monotonic()
        for number in range(60):
            headers = {"sentry-trace": f"{TRACE}-{SPAN}-1", "x-request-id": f"{run}-{number}"}
            await call(app, "/nobody", headers=headers)
        took = time.monotonic() - began
        observability.flush()
        found = [each for each in receiver.signals(kind="transaction") if (each["request_id"] or "").startswith(run)]
    assert 4 <= len(found) <= 4 + 4 * took + 1
    with observed(receiver, traces_sample_rate=1.0, traces_max_per_second=0) as observability:
        app = app_of(observability)
        kinds = [each["kind"] for each in await effect(receiver, app, observability, "/nobody")]
    assert "transaction" in kinds


async def test_no_header_puts_a_line_into_the_log(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Neither our own records nor the request's id on the application's have a line break of a client's in them."""
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    evil = "x\r\nERROR:forged\x1b[31m\x00"
    with observed(receiver) as observability:
        app = app_of(observability)

        @app.get("/log")
        async def log(context: ContextDep) -> None:
            record = logging.makeLogRecord({"msg": "said %s", "args": (evil,), "levelname": "INFO", "name": "app"})
            lines.append(ContextFormatter().format(record))

        for name in ("x-request-id", "traceparent", "sentry-trace", "user-agent", "referer", "host", "cookie"):
            await call(app, "/log", headers={name: evil})
        observability.flush()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("metricx_observe")]
    assert ours
    for line in (*ours, *lines):
        assert line.isprintable(), line
