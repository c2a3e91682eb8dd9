"""Of one failing request that holds a secret in every place, none arrives anywhere: not by default, not with bodies.

34 values, each made at run time, are put where applications have them: headers, cookies, query, path, a nested JSON
body, local variables of every sort, log messages and their arguments, addresses of outgoing calls, exception texts.
Every signal is then searched as it arrived, and so is every byte of the outbox's files and of our own log.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from metricx_observe import ContextDep, ErrorReporterDep, LLMTracerDep, Observability, TrackerDep
from metricx_observe.delivery.outbox.upkeep import export, opened

from .receiver_server import Receiver, running_receiver
from .support import call, keys_for, observed, serving

HEADERS = ("x-api-key", "x-shopify-access-token", "x-auth-token", "x-csrf-token", "proxy-authorization")
COOKIES = ("session", "csrftoken", "remember_me")
QUERY = ("code", "state", "token", "access_token", "email")
BODY = ("card_number", "cvv", "ssn", "refresh_token", "password", "client_secret", "note")
LOCALS = ("stripe_key", "db_url", "config", "model", "account", "deep", "pair")
PLACES = (
    *("bearer", "referer", "path"), *HEADERS, *COOKIES, *QUERY, *BODY, *LOCALS,
    *("log_argument", "log_message", "outgoing", "exception_text"),
)  # fmt: skip
MODES: list[tuple[str, dict[str, Any]]] = [
    ("json", {}), ("json", {"send_bodies": True}), ("json", {"send_locals": False}),
    ("form", {"send_bodies": True}), ("multipart", {"send_bodies": True}), ("xml", {"send_bodies": True}),
]  # fmt: skip
in_each_mode = pytest.mark.parametrize(
    ("kind", "mode"), MODES, ids=["by default", "with bodies", "without locals", "forms", "multipart forms", "XML"]
)


class Marked:
    """A value for each place. By its name alone each is a secret, but for the note, which holds a vendor's key.

    No dict: as a local variable of a frame it shows none of them.
    """

    def __init__(self) -> None:
        # one in ten thousand of `token_hex(10)` has no letter, and a number under `state` is no secret
        self.values = {place: f"a{secrets.token_hex(10)}" for place in PLACES}
        self.values["email"] += "@example.com"
        self.values["note"] = f"sk-ant-api03-{secrets.token_urlsafe(40)}"

    def __getitem__(self, place: str) -> str:
        return self.values[place]

    def arrived(self, text: str) -> dict[str, str]:
        """Which values stand in `text`, plainly, quoted or in base64, with what stands before them."""
        found: dict[str, str] = {}
        for place, value in self.values.items():
            for form in (value, quote(value), base64.b64encode(value.encode()).decode()):
                if (at := text.find(form)) >= 0:
                    found[place] = text[max(0, at - 120) : at]
        return found


def test_there_are_34_values() -> None:
    """As many as were counted where nothing is done: 31 of them arrived."""
    assert len(set(PLACES)) == 34


class Login(BaseModel):
    """A model as a local variable: Sentry's SDK shows its repr."""

    name: str
    password: str


@dataclass
class Account:
    """A dataclass as a local variable."""

    name: str
    access_token: str


BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
CONTENT_TYPES = {
    "json": "application/json", "xml": "application/xml", "form": "application/x-www-form-urlencoded",
    "multipart": f"multipart/form-data; boundary={BOUNDARY}",
}  # fmt: skip


def body_of(values: Marked, kind: str) -> bytes:
    """A request's body: JSON nested as applications nest it, the fields of a form, or elements."""
    fields = {"name": "Ann", **{name: values[name] for name in BODY}}
    if kind == "form":
        return urlencode(fields).encode()
    if kind == "multipart":
        form = "".join(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        return f"{form}--{BOUNDARY}--\r\n".encode()
    if kind == "xml":
        return f"<a>{''.join(f'<{name}>{value}</{name}>' for name, value in fields.items())}</a>".encode()
    body = {
        "payment": {"card": {"number": "n", "card_number": values["card_number"], "cvv": values["cvv"]}},
        "people": [{"name": "Ann", "ssn": values["ssn"]}, {"login": {"password": values["password"]}}],
        "oauth": [["refresh_token", values["refresh_token"]], {"client_secret": values["client_secret"]}],
        "note": f"use {values['note']} here",
    }
    return json.dumps(body).encode()


async def parsed(request: Request) -> Any:
    """The body as applications read it."""
    kind = request.headers["content-type"]
    if "form" in kind:
        return dict(await request.form())
    if "xml" in kind:
        return {element.tag: element.text for element in ElementTree.fromstring(await request.body())}
    return await request.json()


def headers_of(values: Marked, kind: str) -> dict[str, str]:
    cookies = "; ".join(f"{name}={values[name]}" for name in COOKIES)
    return {
        "authorization": f"Bearer {values['bearer']}", "cookie": cookies, "content-type": CONTENT_TYPES[kind],
        "referer": f"https://app.example/callback?token={values['referer']}", "user-agent": "Chrome/120.0.0.0",
        **{name: values[name] for name in HEADERS},
    }  # fmt: skip


def address_of(values: Marked) -> str:
    return f"/reset/{values['path']}?" + "&".join(f"{name}={values[name]}" for name in QUERY)


def failing_app(observability: Observability, values: Marked, outgoing: str) -> FastAPI:
    """One route that has every value in hand, sends every kind of signal, and fails."""
    app = FastAPI()
    observability.install(app)
    log = logging.getLogger("tests.secrets")

    def in_hand() -> None:
        stripe_key = values["stripe_key"]
        db_url = f"postgresql://app:{values['db_url']}@db.example/app"
        config = {"host": "db", "password": values["config"]}
        model = Login(name="bob", password=values["model"])
        account = Account("bob", values["account"])
        deep = {"a": {"b": {"c": {"d": {"e": {"api_key": values["deep"]}}}}}}
        pair = [("accept", "*/*"), (b"x-api-key", values["pair"].encode())]
        assert stripe_key
        raise ValueError(
            f"cannot connect: password={values['exception_text']} {db_url}", config, model, account, deep, pair
        )

    @app.post("/reset/{token}")
    async def reset(
        token: str, request: Request, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep,
        errors: ErrorReporterDep,
    ) -> None:  # fmt: skip
        body_bytes = await request.body()
        json_body = await parsed(request)
        query, headers, cookies = dict(request.query_params), dict(request.headers), dict(request.cookies)
        context.bind_user("user-1", email="ann@example.com", workspace_id="workspace-1")
        context.set_tag("session_token", values["session"])
        log.warning("signing in with token=%s", values["log_argument"])
        log.error("signing in with %s", {"password": values["log_message"]})
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{outgoing}/api/health?api_key={values['outgoing']}")
        errors.add_breadcrumb(f"GET https://u:{values['db_url']}@x.example/", data={"headers": headers})
        del query["email"]  # what an event may hold of a person, METRICX_PERSONAL_DATA says; the others say it here
        tracker.track("reset", {**query, "raw": body_bytes, "body": json_body, "cookies": cookies})
        with llm.trace("reset", input=json_body, metadata={"headers": headers, "query": query}) as trace:
            with trace.generation("call", model="m", input=[{"role": "user", "content": body_bytes.decode()}]) as made:
                made.update(output=f"the api_key={values['stripe_key']} is wrong")
            trace.tool("db", input={"url": f"postgresql://app:{values['db_url']}@db/app"}).end()
            trace.score("ok", 1.0, comment=f"Authorization: Bearer {values['bearer']}")
        errors.capture_message(f"failed with {headers}", extra={"request": {"cookies": cookies, "query": query}})
        in_hand()

    return app


KINDS = {"error", "transaction", "track", "trace", "generation", "observation", "score"}


def check(found: list[dict[str, Any]], values: Marked, kind: str, send_bodies: bool) -> None:
    """Every kind came, with something to read in it, and with no value."""
    assert {signal["kind"] for signal in found} == KINDS
    errors = [signal["payload"] for signal in found if signal["kind"] == "error"]
    raised = next(event for event in errors if "exception" in event)
    assert "cannot connect" in json.dumps(raised)
    assert ("data" in raised["request"]) is send_bodies
    if send_bodies and kind == "json":
        assert raised["request"]["data"]["people"][0]["name"] == "Ann"
    elif send_bodies:
        assert all(name in json.dumps(raised["request"]["data"]) for name in ("Ann", *BODY))
    assert values.arrived(json.dumps(found)) == {}


@pytest.fixture
def own_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Our log at its most talkative."""
    caplog.set_level(logging.DEBUG, logger="metricx_observe")
    return caplog


def own_lines(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("metricx_observe")]
    assert lines
    return "\n".join(lines)


@in_each_mode
async def test_no_secret_of_a_failing_request_arrives(
    receiver: Receiver, own_log: pytest.LogCaptureFixture, kind: str, mode: dict[str, Any]
) -> None:
    """In process: errors, transactions, logs, breadcrumbs, LLM traces, events, scores, and our own log."""
    values, request_id = Marked(), secrets.token_hex(16)
    with observed(receiver, **mode) as observability:
        app = failing_app(observability, values, receiver.url)
        headers = {**headers_of(values, kind), "x-request-id": request_id}
        answer = await call(app, address_of(values), method="POST", headers=headers, body=body_of(values, kind))
        assert isinstance(answer.error, ValueError)
        observability.flush()
        check(receiver.signals(request_id=request_id), values, kind, bool(mode.get("send_bodies")))
    assert values.arrived(own_lines(own_log)) == {}


@in_each_mode
def test_no_secret_of_a_failing_request_arrives_under_uvicorn(
    receiver: Receiver, own_log: pytest.LogCaptureFixture, kind: str, mode: dict[str, Any]
) -> None:
    """Under a real server, as vendors get it."""
    values, request_id = Marked(), secrets.token_hex(16)
    with observed(receiver, **keys_for(receiver), **mode) as observability:
        app = failing_app(observability, values, receiver.url)
        with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
            headers = {**headers_of(values, kind), "x-request-id": request_id}
            answer = client.post(address_of(values), content=body_of(values, kind), headers=headers)
            assert answer.status_code == 500
    check(receiver.signals(request_id=request_id), values, kind, bool(mode.get("send_bodies")))
    assert values.arrived(own_lines(own_log)) == {}


@in_each_mode
async def test_the_outbox_file_holds_no_secret(
    receiver: Receiver, tmp_path: Path, kind: str, mode: dict[str, Any]
) -> None:
    """What waits for vendors that are down is scrubbed already: in its rows, and in every byte of its files."""
    values = Marked()
    with running_receiver() as gone:
        settings = keys_for(gone)
    outbox_url = f"sqlite:///{tmp_path}/outbox.db"
    with observed(receiver, **settings, outbox_url=outbox_url, **mode) as observability:
        app = failing_app(observability, values, receiver.url)
        await call(app, address_of(values), method="POST", headers=headers_of(values, kind), body=body_of(values, kind))
    with opened(outbox_url) as outbox:
        waiting = [(each["vendor"], base64.b64decode(each["payload"]).decode()) for each in export(outbox)]
    assert {vendor for vendor, _ in waiting} == {"sentry", "rudderstack", "langfuse", "langfuse_scores"}
    assert values.arrived("\n".join(payload for _, payload in waiting)) == {}
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert any(b"user-1" in data for data in files)
    assert values.arrived(b"\n".join(files).decode("latin-1")) == {}


async def test_a_page_view_tells_no_secret_of_its_path(receiver: Receiver) -> None:
    """Where a browser navigates to `/reset/{token}`, analytics see the page without the token."""
    token, request_id = f"a{secrets.token_hex(10)}", secrets.token_hex(16)
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/reset/{token}")
        async def reset(token: str, tracker: TrackerDep) -> None:
            tracker.page("reset")

        await call(app, f"/reset/{token}", headers={"x-request-id": request_id})
        observability.flush()
        (page,) = receiver.signals(request_id=request_id, kind="page")
    assert page["payload"]["context"]["page"]["path"].startswith("/reset/[scrubbed")
    assert token not in json.dumps(page)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"name": "Ann"}', {"name": "Ann"}),
        (b"name=Ann&age=7", [{"name": "name", "value": "Ann"}, {"name": "age", "value": "7"}]),
        (b"\xff\xfe", {"content_type": None, "size": 2}),
        (b"x" * (16 << 10), {"content_type": None, "size": 16384}),
        (b"x" * (16 << 10) + b"y", "[body of more than 16384 bytes]"),
        (b"", None),
    ],
    ids=["json", "form", "binary", "the largest", "too large", "none"],
)
async def test_a_body_is_collected_up_to_a_limit(receiver: Receiver, body: bytes, shown: Any) -> None:
    """METRICX_SEND_BODIES: on an error's event only, and nothing of one that would have to be cut."""
    request_id = secrets.token_hex(16)
    with observed(receiver, send_bodies=True) as observability:
        app = FastAPI()
        observability.install(app)
        cells: list[Any] = []

        @app.post("/")
        async def fails(request: Request, context: ContextDep) -> None:
            cells.append(context)
            assert await request.body() == body
            raise ValueError("seen")

        await call(app, "/", method="POST", headers={"x-request-id": request_id}, body=body)
        observability.flush()
        found = {each["kind"]: each["payload"]["request"] for each in receiver.signals(request_id=request_id)}
    assert cells[0].info.body == b""  # nothing outlives the request
    assert "data" not in found["transaction"]
    sent = found["error"].get("data")
    assert sent == shown if not isinstance(shown, str) else str(sent).startswith(shown)


async def test_the_address_behind_trusted_proxies(receiver: Receiver) -> None:
    """METRICX_SEND_CLIENT_IP sends the client's address; X-Forwarded-For counts as far as our own proxies wrote it."""
    cases = [
        (("10.0.0.0/8",), "10.1.1.1", "6.6.6.6, 203.0.113.9, 10.2.2.2", "203.0.113.9"),
        (("10.0.0.0/8",), "198.51.100.7", "203.0.113.9", "198.51.100.7"),
        (("10.0.0.0/8",), "10.1.1.1", "", "10.1.1.1"),
        (("10.0.0.0/8",), "10.1.1.1", "203.0.113.9, nonsense", "10.1.1.1"),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", "203.0.113.9", "203.0.113.9"),
        ((), "10.1.1.1", "203.0.113.9", "10.1.1.1"),
    ]
    for trusted, peer, header, expected in cases:
        request_id = secrets.token_hex(16)
        with observed(receiver, send_client_ip=True, trusted_proxies=",".join(trusted)) as observability:
            app = FastAPI()
            observability.install(app)

            @app.get("/")
            async def fails(tracker: TrackerDep) -> None:
                tracker.track("seen")
                raise ValueError("seen")

            headers = {"x-request-id": request_id, **({"x-forwarded-for": header} if header else {})}
            await call(app, "/", headers=headers, client=(peer, 5000))
            observability.flush()
            found = {each["kind"]: each["payload"] for each in receiver.signals(request_id=request_id)}
        assert found["error"]["user"]["ip_address"] == expected
        assert found["track"]["context"]["ip"] == expected


async def test_by_default_no_address_of_the_client_is_sent(receiver: Receiver) -> None:
    """Neither the peer's nor one that a header names."""
    request_id, hidden = secrets.token_hex(16), Marked()
    hidden.values = {"peer": f"10.1.{secrets.randbelow(200)}.77", "named": f"203.0.{secrets.randbelow(200)}.77"}
    with observed(receiver, trusted_proxies="10.0.0.0/8") as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def fails(request: Request, tracker: TrackerDep) -> None:
            peer = request.client
            tracker.track("seen")
            raise ValueError(f"refused {peer}")

        names = ("x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip", "x-client-ip")
        headers = {"x-request-id": request_id, **dict.fromkeys(names, hidden["named"])}
        await call(app, "/", headers=headers, client=(hidden["peer"], 5000))
        observability.flush()
        found = json.dumps(receiver.signals(request_id=request_id))
    assert hidden.arrived(found) == {}


@pytest.mark.parametrize(
    "place",
    [
        "query",
        "local",
    ],
)
def test_an_encoded_address_does_not_arrive(receiver: Receiver, place: str) -> None:
    """Browsers write `?email=ann%40example.com`, and an application's own ASGI middleware has that in its frames."""
    request_id, values = secrets.token_hex(16), Marked()
    with observed(receiver, **keys_for(receiver)) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def fails() -> None:
            query_string = f"email={quote(values['email'])}" if place == "local" else ""
            raise ValueError(query_string[:0])

        path = f"/?email={quote(values['email'])}" if place == "query" else "/"
        with serving(app) as url:
            httpx.get(url + path, headers={"x-request-id": request_id}, trust_env=False)
    (error,) = receiver.signals(request_id=request_id, kind="error")
    assert values.arrived(json.dumps(error)) == {}


async def test_what_only_looks_like_somebodys_address_stays(receiver: Receiver) -> None:
    """A browser's version, source code and this machine are nobody's address, and needed to understand an error."""
    request_id = secrets.token_hex(16)
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def fails() -> None:
            every_second = [1, 2, 3][0::2]
            raise ValueError(f"{every_second} of http://127.0.0.1:8000/x")

        headers = {"x-request-id": request_id, "host": "127.0.0.1:8000", "user-agent": "Chrome/120.0.0.0 Safari/537.36"}
        await call(app, "/", headers=headers)
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
    payload = error["payload"]
    assert payload["request"]["headers"]["user-agent"] == headers["user-agent"]
    assert payload["request"]["url"] == "http://127.0.0.1:8000/"
    raised = payload["exception"]["values"][0]
    assert "http://127.0.0.1:8000/x" in raised["value"]
    assert "[0::2]" in json.dumps(raised["stacktrace"]["frames"][-1]["pre_context"])
