"""The demo's telemetry, as it arrived at a real receiver: the six documented events, traces and errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import Session, select

from demo_app.models import User
from tests.demo_server import PASSWORD, Demo, callback, running_demo
from tests.receiver_server import Receiver, running_receiver

QUESTION = "Which campaign has the best ROAS?"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def demo(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    """The demo in development without any key, so that everything goes to the receiver."""
    for name in ("SENTRY_DSN", "RUDDERSTACK_WRITE_KEY", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
    monkeypatch.setenv("METRICX_OUTBOX_URL", f"sqlite:///{tmp_path}/outbox.db")
    receiver.clear()
    with running_demo(tmp_path) as running:
        yield running


def user_of(demo: Demo, email: str = "ada@example.com") -> User:
    with Session(demo.app.state.engine) as session:
        return session.exec(select(User).where(User.email == email)).one()


def sign_up(demo: Demo, browser: httpx.Client) -> httpx.Response:
    return demo.sign_up(browser).history[0]


def log_in(demo: Demo, browser: httpx.Client) -> httpx.Response:
    demo.sign_up(browser)
    browser.post("/logout")
    return browser.post("/login", data={"email": "ada@example.com", "password": PASSWORD}).history[0]


def connecting(name: str, decision: str) -> Callable[[Demo, httpx.Client], httpx.Response]:
    def act(demo: Demo, browser: httpx.Client) -> httpx.Response:
        demo.sign_up(browser)
        return callback(demo.connect(browser, name, decision))

    return act


def ask(demo: Demo, browser: httpx.Client) -> httpx.Response:
    demo.sign_up(browser)
    return demo.ask(browser, QUESTION)[0]


DOCUMENTED: list[tuple[str, Callable[[Demo, httpx.Client], httpx.Response], dict[str, Any]]] = [
    ("user_signed_up", sign_up, {"email": "ada@example.com", "workspace_id": ...}),
    ("user_logged_in", log_in, {"email": "ada@example.com", "workspace_id": ...}),
    (
        "connected_google_ads",
        connecting("google_ads", "allow"),
        {"account_id": "8123456789", "account_name": "Northwind Search"},
    ),
    (
        "connected_meta_ads",
        connecting("meta_ads", "allow"),
        {"account_id": "2090417755", "account_name": "Northwind Social"},
    ),
    ("connected_shopify", connecting("shopify", "allow"), {"shop_domain": "northwind.myshopify.com"}),
    ("copilot_query_sent", ask, {"question_length": len(QUESTION), "workspace_id": ...}),
]


@pytest.mark.parametrize(("event", "act", "properties"), DOCUMENTED, ids=[event for event, _, _ in DOCUMENTED])
def test_each_documented_event_fires_once_with_its_properties(
    demo: Demo,
    receiver: Receiver,
    event: str,
    act: Callable[[Demo, httpx.Client], httpx.Response],
    properties: dict[str, Any],
) -> None:
    """By its trigger, of this user and workspace, under the id of the request that caused it."""
    with demo.browser() as browser:
        response = act(demo, browser)
    user = user_of(demo)
    tracked = settled(demo, receiver)
    (signal,) = [signal for signal in tracked if signal["name"] == event]
    expected = {key: user.workspace_id if value is ... else value for key, value in properties.items()}
    assert signal["payload"]["properties"] == expected
    assert signal["user_id"] == user.id
    assert signal["workspace_id"] == user.workspace_id
    assert signal["request_id"] == response.headers["x-request-id"]
    others = {"user_signed_up", event}
    assert {signal["name"] for signal in tracked} == others


@pytest.mark.parametrize("name", ["google_ads", "meta_ads", "shopify"])
def test_a_denial_fires_no_event(demo: Demo, receiver: Receiver, name: str) -> None:
    """Denied access is no connection."""
    with demo.browser() as browser:
        connecting(name, "deny")(demo, browser)
    assert [signal["name"] for signal in settled(demo, receiver)] == ["user_signed_up"]


@pytest.mark.parametrize("name", ["google_ads", "meta_ads", "shopify"])
def test_a_replayed_callback_fires_no_second_event(demo: Demo, receiver: Receiver, name: str) -> None:
    """One connection is one event, however often the provider's answer is sent."""
    with demo.browser() as browser:
        used = connecting(name, "allow")(demo, browser)
        assert browser.get(used.url).status_code == 400
    names = [signal["name"] for signal in settled(demo, receiver)]
    assert sorted(names) == sorted(["user_signed_up", f"connected_{name}"])


def test_what_failed_fires_no_event(demo: Demo, receiver: Receiver) -> None:
    """A second sign-up, a wrong password, an empty question and a question without an answer are none."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        demo.sign_up(browser)
        browser.post("/login", data={"email": "ada@example.com", "password": "not the password"})
        browser.post("/qa", json={"question": ""})
        demo.ask(browser, "word " * 799)
    assert [signal["name"] for signal in settled(demo, receiver)] == ["user_signed_up"]


@pytest.mark.parametrize("act", [sign_up, log_in])
def test_signing_up_and_logging_in_identify_the_user(
    demo: Demo, receiver: Receiver, act: Callable[[Demo, httpx.Client], httpx.Response]
) -> None:
    """The user's e-mail address and workspace become traits."""
    with demo.browser() as browser:
        response = act(demo, browser)
    user = user_of(demo)
    settled(demo, receiver)
    (signal,) = receiver.signals(kind="identify", request_id=response.headers["x-request-id"])
    traits = signal["payload"]["context"]["traits"]
    assert signal["user_id"] == user.id
    assert (traits["email"], traits["workspace_id"]) == ("ada@example.com", user.workspace_id)


def test_an_answer_is_a_trace_with_its_calls(demo: Demo, receiver: Receiver) -> None:
    """Understand, query and answer stand under one trace, with the model's own counts, of this user and request."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        demo.connect(browser, "google_ads")
        response, events = demo.ask(browser, QUESTION)
    settled(demo, receiver)
    user, trace_id = user_of(demo), events[-1][1]["trace_id"]
    signals = receiver.signals(request_id=response.headers["x-request-id"])
    found = {signal["name"]: signal for signal in signals if signal["trace_id"] == trace_id}
    assert set(found) == {"copilot", "understand", "query_ad_metrics", "answer"}
    assert found["copilot"]["kind"] == "trace"
    assert found["understand"]["kind"] == found["answer"]["kind"] == "generation"
    for signal in found.values():
        assert (signal["user_id"], signal["workspace_id"]) == (user.id, user.workspace_id)
    text = str(found["answer"]["payload"])
    assert "metricx-offline-1" in text
    assert "Brand Search" in text
    assert QUESTION in str(found["copilot"]["payload"])


def test_a_failing_model_is_a_failed_trace_and_an_error(demo: Demo, receiver: Receiver) -> None:
    """The trace says why, and the error of the same request names the trace."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        response, _ = demo.ask(browser, "word " * 799)
    settled(demo, receiver)
    request_id = response.headers["x-request-id"]
    (trace,) = receiver.signals(kind="trace", request_id=request_id)
    (error,) = receiver.signals(kind="error", request_id=request_id)
    assert "ContextWindowError" in str(trace["payload"])
    assert error["payload"]["exception"]["values"][-1]["type"] == "ContextWindowError"
    assert error["payload"]["extra"]["llm_trace_id"] == trace["trace_id"]
    assert error["user_id"] == trace["user_id"] == user_of(demo).id


@pytest.mark.parametrize("path", ["/debug/error", "/debug/handled"])
def test_an_error_is_reported_once_with_its_user(demo: Demo, receiver: Receiver, path: str) -> None:
    """The button's error carries user, workspace and the request id that the page names."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        response = browser.post(path)
    assert response.headers["x-request-id"] in response.text
    receiver.wait_for(1, kind="error")  # what nobody catches is reported after its 500 has gone out
    settled(demo, receiver)
    user = user_of(demo)
    (error,) = receiver.signals(kind="error")
    assert error["payload"]["exception"]["values"][-1]["type"] == "DemoError"
    assert (error["user_id"], error["workspace_id"]) == (user.id, user.workspace_id)
    assert error["request_id"] == response.headers["x-request-id"]


def test_a_reported_error_is_linked_where_it_is(demo: Demo, receiver: Receiver) -> None:
    """ "Reported as" leads to that very error on the receiver's page of this request."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        response = browser.post("/debug/handled")
    settled(demo, receiver)
    (error,) = receiver.wait_for(1, kind="error")
    path, anchor = f"/requests/{response.headers['x-request-id']}", error["id"]
    assert f'href="{receiver.url}{path}#{anchor}"' in response.text
    assert f'id="{anchor}"' in receiver.get(path).text


def test_nothing_is_linked_to_a_receiver_that_gets_nothing(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no service sends to the local receiver, the id of the error is there without a link."""
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
    with running_demo(tmp_path) as demo, demo.browser() as browser:
        demo.sign_up(browser)
        text = browser.post("/debug/handled").text + browser.post("/debug/error").text
    assert re.search(r"Reported as\s+<code>[0-9a-f]{32}</code>", text)
    assert receiver.url not in text


def test_no_secret_of_the_demo_arrives(demo: Demo, receiver: Receiver) -> None:
    """Password, session cookie, OAuth code, state and token are in nothing that was sent."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/meta_ads")
        used = callback(browser.post(consent.url, data={"decision": "allow"}))
        browser.post("/debug/error")
        cookie = browser.cookies["metricx_session"]
    settled(demo, receiver)
    sent = str(receiver.signals())
    for secret in (PASSWORD, cookie, used.url.params["code"], used.url.params["state"]):
        assert secret not in sent


def settled(demo: Demo, receiver: Receiver) -> list[dict[str, Any]]:
    """The events, when everything that was put so far has arrived."""
    assert demo.observability.flush(20)
    return receiver.signals(kind="track")
