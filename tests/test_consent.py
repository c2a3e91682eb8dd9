"""Consent is honoured by every destination: analytics, LLM content, and the personal data in errors."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope, Send
from starlette.types import Receive as ReceiveMessage

from metricx_observe import Consent, ContextDep, ErrorReporterDep, LLMTracerDep, Observability, TrackerDep

from .receiver_server import Receiver
from .support import call, observed

EMAIL, PHONE, ADDRESS = "ann@example.com", "+1 202 555 0146", "203.0.113.9"


def consenting_app(observability: Observability, consent: Any = None) -> FastAPI:
    """One route that sends every kind of signal, with personal data in native places and in free text, and fails."""
    app = FastAPI()
    observability.install(app, consent=consent)

    @app.get("/")
    async def everything(context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep) -> None:
        context.bind_user("user-1", email=EMAIL, workspace_id="workspace-1")
        context.set_tag("reply_to", EMAIL)
        sentry_sdk.set_user({"id": "user-1", "email": EMAIL, "username": "ann"})
        contact = {"phone": PHONE, "note": f"write to {EMAIL} from {ADDRESS}"}
        tracker.track("seen")
        with llm.trace("asked", input=contact["note"]) as trace:
            trace.update(output="done")
        errors.capture_message(f"no answer from {EMAIL}", extra={"contact": contact})
        raise ValueError(f"{EMAIL} is not known")

    return app


async def signals_of(receiver: Receiver, consent: Any, **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """What one request of that application sends, by kind."""
    request_id = uuid4().hex
    with observed(receiver, **settings) as observability:
        app = consenting_app(observability, consent)
        await call(app, "/", headers={"x-request-id": request_id, "x-real-ip": ADDRESS}, client=(ADDRESS, 5000))
        observability.flush()
        found: dict[str, list[dict[str, Any]]] = {}
        for signal in receiver.signals(request_id=request_id):
            found.setdefault(signal["kind"], []).append(signal["payload"])
    return found


@pytest.mark.parametrize("consent", [lambda _: False, lambda _: None, lambda _: 1 / 0], ids=["no", "unasked", "fails"])
async def test_without_consent_errors_go_without_personal_data_and_analytics_stay(
    receiver: Receiver, consent: Any
) -> None:
    """Error and transaction arrive with the request's id and workspace; nobody's id, address or number is in them."""
    found = await signals_of(receiver, consent, send_client_ip=True)
    assert set(found) == {"error", "transaction", "trace"}
    assert len(found["error"]) == 2
    for payload in (*found["error"], *found["transaction"]):
        assert payload["tags"]["workspace_id"] == "workspace-1"
        assert not payload.get("user")
        for personal in (EMAIL, PHONE, ADDRESS, "user-1", "username"):
            assert personal not in json.dumps(payload)


async def test_with_consent_errors_name_the_user_and_hash_what_is_in_free_text(receiver: Receiver) -> None:
    """`user` is Sentry's own place for a person; elsewhere equal addresses can still be told to be equal."""
    found = await signals_of(receiver, lambda _: True, send_client_ip=True)
    assert len(found["track"]) == 1
    (raised,) = (payload for payload in found["error"] if "exception" in payload)
    # `username` is what the application itself told Sentry of the same person
    assert raised["user"] == {"id": "user-1", "email": EMAIL, "username": "ann", "ip_address": ADDRESS}
    del raised["user"]
    for personal in (EMAIL, PHONE, ADDRESS):
        assert personal not in json.dumps(raised)
    hashed = raised["exception"]["values"][0]["value"].split(" ")[0]
    assert len(hashed) == 64
    assert hashed in raised["tags"]["reply_to"]


@pytest.mark.parametrize(
    ("consent", "allowed", "denied"),
    [
        (Consent(analytics=True, llm_content=False), ["analytics"], ["llm_content"]),
        (Consent(analytics=True, llm_content=True), ["analytics", "llm_content"], []),
        (True, ["analytics"], []),
    ],
)
async def test_rudderstack_is_told_what_was_consented_to(
    receiver: Receiver, consent: Any, allowed: list[str], denied: list[str]
) -> None:
    """`context.consentManagement`, by which RudderStack filters its destinations."""
    (event,) = (await signals_of(receiver, lambda _: consent))["track"]
    assert event["context"]["consentManagement"] == {
        "provider": "custom", "resolutionStrategy": "and", "allowedConsentIds": allowed, "deniedConsentIds": denied,
    }  # fmt: skip


async def test_where_nobody_asks_nothing_is_said_of_consent(receiver: Receiver) -> None:
    """Without `consent=` an event is sent, and names no consent."""
    (event,) = (await signals_of(receiver, None))["track"]
    assert "consentManagement" not in event["context"]


@pytest.mark.parametrize("allowed", [True, False, None])
async def test_content_of_llm_calls_goes_only_where_it_was_not_refused(
    receiver: Receiver, allowed: bool | None
) -> None:
    """Times, names and tokens arrive either way."""
    (trace,) = (await signals_of(receiver, lambda _: Consent(analytics=False, llm_content=allowed)))["trace"]
    assert trace["name"] == "asked"
    assert ("langfuse.observation.input" in trace["attributes"]) is (allowed is not False)
    assert ("langfuse.observation.output" in trace["attributes"]) is (allowed is not False)


async def test_a_handler_may_withdraw_and_give_consent(receiver: Receiver) -> None:
    """`context.set_consent` holds from then on in this request, whatever `consent=` said."""
    run = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app, consent=lambda _: True)

        @app.get("/")
        async def settings(context: ContextDep, tracker: TrackerDep) -> list[bool]:
            sent = [tracker.track(f"{run}_1")]
            context.set_consent(analytics=False)
            sent.append(tracker.track(f"{run}_2"))
            context.set_consent(analytics=True)
            return [each is not None for each in (*sent, tracker.track(f"{run}_3"))]

        assert (await call(app, "/")).body == b"[true,false,true]"
        observability.flush()
        names = {signal["name"] for signal in receiver.signals(kind="track")}
    assert {name for name in names if name.startswith(run)} == {f"{run}_1", f"{run}_3"}


async def test_what_runs_before_consent_was_asked_sends_no_analytics(receiver: Receiver) -> None:
    """A middleware outside, and one that answers by itself, are not yet allowed to."""
    with observed(receiver) as observability:
        app, sent = FastAPI(), list[str | None]()
        observability.install(app, consent=lambda _: True)

        class Outside:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: Scope, receive: ReceiveMessage, send: Send) -> None:
                sent.append(observability.tracker.track("before"))
                await self.app(scope, receive, send)
                sent.append(observability.tracker.track("after"))

        app.add_middleware(Outside)
        await call(app, "/")
    assert sent[0] is None
    assert sent[1] is not None


async def test_a_mounted_applications_own_consent_counts_too(receiver: Receiver) -> None:
    """Also where the outer application identifies, and asks for no consent."""
    asked: list[str] = []

    def no(connection: HTTPConnection) -> bool:
        asked.append(connection.url.path)
        return False

    with observed(receiver) as observability:
        app, inner = FastAPI(), FastAPI()
        observability.install(app, identify=lambda _: "user-1")
        observability.install(inner, consent=no)

        @inner.get("/track")
        async def track(tracker: TrackerDep, context: ContextDep) -> list[bool]:
            return [tracker.track("seen") is None, context.user is not None]

        app.mount("/inner", inner)
        assert (await call(app, "/inner/track")).body == b"[true,true]"
    assert asked == ["/inner/track"]


async def test_what_the_application_adds_to_its_user_is_scrubbed(receiver: Receiver) -> None:
    """Sentry's `user` takes any field; an id stays as it was bound, even one that looks like a card's number."""
    request_id, token = uuid4().hex, uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def fails() -> None:
            sentry_sdk.set_user({"id": "4242424242424242", "email": EMAIL, "data": {"plan": "pro", "api_key": token}})
            raise ValueError("seen")

        await call(app, "/", headers={"x-request-id": request_id})
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
    user = error["payload"]["user"]
    assert (user["id"], user["email"], user["data"]["plan"]) == ("4242424242424242", EMAIL, "pro")
    assert token not in json.dumps(user)
