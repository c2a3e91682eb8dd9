"""Sentry's logs, metrics and streamed spans as they arrive: without secrets, another's path, and data not allowed."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk import logger as sentry_logger
from sentry_sdk.traces import start_span

from metricx_observe import ContextDep, Observability

from .faults import FaultyVendor
from .receiver_server import Receiver
from .support import call, keys_for, observed, with_option

log = logging.getLogger("shop")
EMAIL = "ann@example.com"


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    """Keeps what is posted to it."""
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


def items(vendor: FaultyVendor) -> list[dict[str, Any]]:
    """Every item with attributes that was posted."""
    found: list[dict[str, Any]] = []
    for _, body in vendor.requests:
        for part in body.split(b"\n"):
            content = orjson.loads(part) if part.startswith(b"{") else {}
            found += content.get("items", ())
    return found


def sent(
    vendor: FaultyVendor, receiver: Receiver, do: Callable[[Observability], object], **options: Any
) -> list[dict[str, Any]]:
    """What `do` sends to Sentry's endpoint."""
    settings = {**keys_for(receiver), "sentry_dsn": f"http://public@127.0.0.1:{vendor.port}/1"}
    with observed(receiver, **settings, sentry_options={"enable_logs": True, **options}) as observability:
        observability.start()
        do(observability)
        assert observability.flush(10)
    return items(vendor)


def _with_attribute(secret: str) -> None:
    sentry_sdk.get_isolation_scope().set_attribute("api_key", secret)
    log.error("in")


STYLES: dict[str, Callable[[str], object]] = {
    "positional": lambda s: log.error("failed: password=%s", s),
    "positional with spaces": lambda s: log.error("failed: password=%s, %d", f"correct horse {s}", 3),
    "a mapping": lambda s: log.error("in: %(password)s", {"password": s}),
    "a mapping below": lambda s: log.error("in: %(login)s", {"login": {"password": s}}),
    "extra": lambda s: log.error("failed with %s", s, extra={"password": s}),
    "the SDK's own": lambda s: sentry_logger.error("failed: {password}", password=s),
    "an attribute": lambda s: sentry_logger.error(f"failed: {s}", attributes={"password": s}),
    "a list": lambda s: sentry_logger.error("failed", attributes={"passwords": [s, s]}),
    "a vendor's key": lambda s: sentry_logger.error("{key}", key=f"sk-ant-api03-{s}{s}"),
    "a scope's attribute": _with_attribute,
    "a metric": lambda s: sentry_sdk.metrics.count("sign-ins", 1, attributes={"password": s, "plan": "pro"}),
}


def test_deliverys_threads_leave_the_deployment_on_logs_alone(vendor: FaultyVendor, receiver: Receiver) -> None:
    """They run with a client of nobody's, whose environment and server are not the application's."""

    def do(observability: Observability) -> None:
        with observability._pipeline.isolated():
            pass
        log.error("after")

    found = sent(vendor, receiver, do, environment="staging", server_name="box")
    (told,) = [item["attributes"] for item in found if item.get("body") == "after"]
    assert {name: told[name]["value"] for name in ("sentry.environment", "server.address")} == {
        "sentry.environment": "staging",
        "server.address": "box",
    }


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_a_secret_is_nowhere_and_types_stay(
    vendor: FaultyVendor, receiver: Receiver, style: Callable[[str], object]
) -> None:
    """Not in the body, the parameters or the attributes; beside each value stands its type."""
    secret = secrets.token_hex(10)

    def do(observability: Observability) -> None:
        with observability.context():
            style(secret)

    found = sent(vendor, receiver, do)
    assert len(found) == 1
    text = json.dumps(found)
    assert secret not in text
    assert "[scrubbed" in text
    types = {attribute["type"] for attribute in found[0]["attributes"].values()}
    assert types <= {"string", "integer", "double", "boolean", "array"}
    assert "metricx" not in text


def test_what_is_no_secret_arrives_as_it_was(vendor: FaultyVendor, receiver: Receiver) -> None:
    """Body, template, parameters by place and by name, numbers and lists."""

    def do(observability: Observability) -> None:
        log.error("%s bought %d for %s", "u-1", 3, 1.5, extra={"tier": "pro"})
        sentry_logger.warning("{who} left {room}", who="u-2", room=7, attributes={"tags": ["a", "b"], "ok": True})

    first, second = sent(vendor, receiver, do)
    attributes = first["attributes"]
    assert first["body"] == "u-1 bought 3 for 1.5"
    assert attributes["sentry.message.template"] == {"value": "%s bought %d for %s", "type": "string"}
    assert attributes["sentry.message.parameter.0"] == {"value": "u-1", "type": "string"}
    assert attributes["sentry.message.parameter.1"] == {"value": 3, "type": "integer"}
    assert attributes["sentry.message.parameter.2"] == {"value": 1.5, "type": "double"}
    assert attributes["tier"] == {"value": "pro", "type": "string"}
    assert second["body"] == "u-2 left 7"
    assert second["attributes"]["sentry.message.parameter.room"] == {"value": 7, "type": "integer"}
    assert second["attributes"]["tags"] == {"value": ["a", "b"], "type": "array"}
    assert second["attributes"]["ok"] == {"value": True, "type": "boolean"}


def _app(observability: Observability) -> FastAPI:
    app = FastAPI()
    observability.install(app)

    @app.get("/reset/{token}")
    async def reset(token: str, context: ContextDep) -> None:
        context.bind_user("u-1", email=EMAIL)
        sentry_sdk.set_user({"id": "u-1", "email": EMAIL, "ip_address": "203.0.113.9"})
        if token.startswith("refused"):
            context.set_consent(analytics=False)
        log.error("reset by %s from %s with %s", EMAIL, "203.0.113.9", token)
        sentry_sdk.metrics.count(f"reset.{token}", 1, attributes={"link": f"/reset/{token}"})
        context.set_consent(analytics=True)

    return app


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_what_depends_on_the_request_is_settled_at_the_call(
    vendor: FaultyVendor, receiver: Receiver, refused: bool
) -> None:
    """The path's token is in no item, and without consent neither are address and user, whatever is true later."""
    token = f"{'refused' if refused else 'granted'}-{uuid4().hex}"
    settings = {**keys_for(receiver), "sentry_dsn": f"http://public@127.0.0.1:{vendor.port}/1"}
    options = {"enable_logs": True, "send_default_pii": True, "traces_sample_rate": 0.0}
    with observed(receiver, **settings, sentry_options=options) as observability:
        assert (await call(_app(observability), f"/reset/{token}")).status == 200
        log.error("of nobody")
        assert observability.flush(10)
    found = items(vendor)
    text = json.dumps(found)
    assert token not in text
    (line,) = (item for item in found if item.get("body", "").startswith("reset by"))
    users = {name for name in line["attributes"] if name.startswith("user.")}
    assert users == (set() if refused else {"user.id", "user.email", "user.ip_address"})
    assert (EMAIL in text) is not refused
    assert EMAIL not in line["body"]
    assert "203.0.113.9" not in line["body"]
    assert ("203.0.113.9" in text) is not refused
    assert ("[dropped email]" in line["body"]) is refused
    (metric,) = (item for item in found if "unit" in item or item.get("type") == "counter")
    assert metric["name"].startswith("reset.[scrubbed")


async def test_before_the_route_is_known_no_path_leaves(vendor: FaultyVendor, receiver: Receiver) -> None:
    """A middleware that logs first, and a request that nothing matches: the path and its telling parts are left out."""
    token = uuid4().hex
    settings = {**keys_for(receiver), "sentry_dsn": f"http://public@127.0.0.1:{vendor.port}/1"}
    with observed(receiver, **settings, sentry_options={"enable_logs": True}) as observability:
        app = _app(observability)

        @app.middleware("http")
        async def logs(request: Any, call_next: Any) -> Any:
            log.error("called: %s, the last part is %s", request.url.path, token)
            return await call_next(request)

        await call(app, f"/reset/{token}")
        await call(app, f"/nowhere/{token}")
        assert observability.flush(10)
    assert len([item for item in items(vendor) if item.get("body", "").startswith("called")]) == 2
    assert token not in json.dumps(items(vendor))


def test_a_thread_of_a_request_keeps_to_its_consent(vendor: FaultyVendor, receiver: Receiver) -> None:
    """The SDK gives a thread the scopes of who started it, and with them goes whose request it is."""

    def do(observability: Observability) -> None:
        with observability.context(user_id="u-1") as cell:
            cell.set_consent(analytics=False)
            thread = threading.Thread(target=lambda: log.error("mail to %s", EMAIL))
            thread.start()
            thread.join()

    (line,) = sent(vendor, receiver, do)
    assert line["body"] == "mail to [dropped email]"


def test_the_applications_hooks_run_first(vendor: FaultyVendor, receiver: Receiver) -> None:
    """They see nothing of ours, may drop an item, and what they add is scrubbed."""
    seen: list[Any] = []

    def hook(item: Any, hint: Any) -> Any:
        seen.append(json.dumps(item, default=str))
        item["attributes"]["password"] = "hunter2-hunter2"
        return None if "dropped" in item["body"] else item

    def do(observability: Observability) -> None:
        with observability.context() as cell:
            cell.set_consent(analytics=False)
            log.error("kept")
            log.error("dropped")

    (line,) = sent(vendor, receiver, do, before_send_log=hook)
    assert line["body"] == "kept"
    assert line["attributes"]["password"]["value"].startswith("[scrubbed name")
    assert "metricx" not in "".join(seen)


@with_option("trace_lifecycle")
def test_streamed_spans_are_items_too(vendor: FaultyVendor, receiver: Receiver) -> None:
    """With `trace_lifecycle="stream"` a span's name and attributes are scrubbed as a log's are."""
    secret = secrets.token_hex(10)

    def do(observability: Observability) -> None:
        with observability.context() as cell:
            cell.set_consent(analytics=False)
            with start_span(name=f"mail to {EMAIL}", attributes={"password": secret}):
                pass

    found = sent(vendor, receiver, do, trace_lifecycle="stream", traces_sample_rate=1.0)
    text = json.dumps(found)
    assert found[0]["name"] == "mail to [dropped email]"
    assert secret not in text
    assert "metricx" not in text


def test_a_log_behind_one_that_took_all_of_the_scrubbers_time_arrives(
    vendor: FaultyVendor, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share an envelope, and so its time: what was not read is cut, and nothing is lost."""
    monkeypatch.setattr("metricx_observe.scrubber.budget.MAX_CHARACTERS", 20_000)

    def do(_: Observability) -> None:
        sentry_logger.warning("large", attributes={f"k{n}": n for n in range(2_000)})
        log.error("behind %s", "it")

    behind = next(each for each in sent(vendor, receiver, do) if each["body"] == "behind it")
    assert behind["attributes"]["sentry.message.parameter.0"]["value"] == "[cut]"
