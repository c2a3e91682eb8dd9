"""The receiver's pages: the list, one request's story, and that nothing shown is ever markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from metricx_observe.receiver.pages import duration
from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import (
    INGESTION,
    JSON,
    OTLP,
    RUDDERSTACK,
    SCORES,
    SENTRY,
    attribute,
    envelope,
    export,
    post,
    refusal,
    span,
)

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{71*1409}}javascript:alert(1)"


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


class Page(HTMLParser):
    """Elements with their attributes, and the text, of a page as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        """The text with each run of white space as one space."""
        return re.sub(r"\s+", " ", self.text)


def page(receiver: Receiver, path: str) -> Page:
    return Page(receiver.get(path).text)


def evil_signals(receiver: Receiver) -> None:
    """Scripts in every field of every kind of signal."""
    trace = {"trace_id": EVIL, "parent_span_id": EVIL, "status": EVIL, "op": EVIL}
    event = {
        "event_id": EVIL,
        "level": EVIL,
        "transaction": EVIL,
        "message": EVIL,
        "user": {"id": EVIL, "email": EVIL},
        "tags": {"request_id": "evil", "workspace_id": EVIL, EVIL: EVIL},
        "contexts": {"trace": trace, "workspace": {"id": EVIL}, EVIL: {EVIL: EVIL}},
        "exception": {"values": [{"type": EVIL, "value": EVIL}]},
        "request": {"method": EVIL, "url": EVIL},
    }
    log = {"body": EVIL, "level": EVIL, "trace_id": EVIL, "attributes": {"request_id": {"value": "evil"}, EVIL: EVIL}}
    bodies = [
        envelope(("event", event)),
        envelope(("transaction", event | {"event_id": EVIL + "t"})),
        envelope(("log", {"items": [log]}), (EVIL, {})),
    ]
    for body in bodies:
        assert post(receiver, SENTRY, body).status_code == 200
    context = {"request_id": "evil", "trace_id": EVIL, "workspace_id": EVIL, "page": {"path": EVIL, "url": EVIL}}
    fields = {"event": EVIL, "name": EVIL, "groupId": EVIL, "previousId": EVIL, "userId": EVIL, "context": context}
    more = {"properties": {EVIL: EVIL}, "traits": {EVIL: EVIL}}
    kinds = ("track", "identify", "group", "alias", "page", EVIL)
    batch = [{"type": kind, "messageId": EVIL + kind, **fields, **more} for kind in kinds]
    assert post(receiver, RUDDERSTACK, {"batch": batch}).status_code == 200
    names = ("type", "model.name", "usage_details", "level", "status_message", "input", "output", EVIL)
    observed = [attribute(f"langfuse.observation.{name}", stringValue=EVIL) for name in names]
    usage = attribute("langfuse.observation.usage_details", stringValue=json.dumps({EVIL: EVIL}))
    meta = [("request_id", "evil"), ("workspace_id", EVIL), ("request_trace_id", EVIL)]
    shared = [attribute(f"langfuse.trace.metadata.{name}", stringValue=value) for name, value in meta]
    shared += [attribute(name, stringValue=EVIL) for name in ("user.id", "session.id", "gen_ai.usage." + EVIL, EVIL)]
    generation = [*observed, usage, attribute("langfuse.observation.type", stringValue="generation"), *shared]
    spans = [
        span(name=EVIL, attributes=observed + shared, status={"code": 2, "message": EVIL}),
        span(name=EVIL, spanId="1" * 16, parentSpanId="b" * 16, attributes=generation),
        span(name=EVIL, spanId="2" * 16, parentSpanId="b" * 16, attributes=observed + shared),
    ]
    assert post(receiver, OTLP, export(*spans), **JSON).status_code == 200
    score = {"id": EVIL, "name": EVIL, "value": EVIL, "comment": EVIL, "traceId": "a" * 32, "metadata": {EVIL: EVIL}}
    assert post(receiver, SCORES, [score]).status_code == 202
    assert post(receiver, INGESTION, {"batch": [{"type": EVIL, "id": EVIL}]}).status_code == 207


def test_scripts_in_every_field_are_shown_as_text(receiver: Receiver) -> None:
    """No value of any signal, and no filter, becomes an element, an attribute or a foreign address."""
    evil_signals(receiver)
    assert len({each["kind"] for each in receiver.signals()}) == 12
    found = receiver.get("/requests/evil").text, receiver.get("/").text, receiver.get("/", {"user": EVIL}).text
    for html in found:
        shown = Page(html)
        assert "<script>alert(1)</script>" in shown.text + str(shown.elements)
        assert "100039" not in html
        scripts = [attributes for tag, attributes in shown.elements if tag == "script"]
        assert scripts == [{"src": "/static/htmx.min.js", "defer": None}]
        for tag, attributes in shown.elements:
            assert tag != "style"
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            for name in ("href", "src", "action", "hx-get", "hx-delete"):
                assert (attributes.get(name) or "/").startswith("/")
                assert not (attributes.get(name) or "").startswith("//")
        assert [attributes["src"] for tag, attributes in shown.elements if tag == "img"] == ["/static/icon.svg"]
    assert Page(found[0]).text.count("javascript:alert(1)") > 50


def test_the_empty_page_says_what_to_do_next(receiver: Receiver) -> None:
    """With no signal at all it names the one line, and the addresses for the SDKs."""
    shown = page(receiver, "/")
    assert "Nothing has arrived yet" in shown.words
    assert "Observability.from_env().install(app)" in shown.words
    assert f"RUDDERSTACK_DATA_PLANE_URL={receiver.url}" in shown.words
    assert "No signal matches" in page(receiver, "/?kind=error").words


def test_the_list_shows_a_row_for_each_signal(receiver: Receiver) -> None:
    """Kind, name, user, workspace and request, and of a generation model, tokens and latency."""
    attributes = [
        attribute("user.id", stringValue="ann"),
        attribute("langfuse.observation.type", stringValue="generation"),
        attribute("langfuse.observation.model.name", stringValue="model-1"),
        attribute("langfuse.observation.usage_details", stringValue='{"input": 100, "output": 50}'),
        attribute("langfuse.trace.metadata.request_id", stringValue="r 1/2"),
        attribute("langfuse.trace.metadata.workspace_id", stringValue="acme"),
    ]
    post(receiver, OTLP, export(span(name="write", attributes=attributes)), **JSON)
    shown = page(receiver, "/")
    row = "22:13:20.000 generation write model-1 input 100, output 50 1.0 s ann acme r 1/2"
    assert row in shown.words
    links = [attributes["href"] for tag, attributes in shown.elements if tag == "a"]
    assert "/requests/r%201%2F2" in links
    assert "/?user=ann" in links


def test_filters_stay_in_the_form_and_in_the_links(receiver: Receiver) -> None:
    """The form shows what is filtered, and the pages to older and newest keep it."""
    batch = [{"type": "track", "event": f"e{n}", "userId": "ann", "messageId": str(n)} for n in range(5)]
    post(receiver, RUDDERSTACK, {"batch": batch})
    shown = page(receiver, "/?kind=track&user=ann&limit=3")
    assert ("input", {"name": "user", "value": "ann", "autocomplete": "off", "spellcheck": "false"}) in shown.elements
    assert ("option", {"selected": None}) in shown.elements
    older = next(str(each["href"]) for tag, each in shown.elements if tag == "a" and "cursor" in str(each["href"]))
    rest = page(receiver, older)
    assert [name for name in ("e0", "e1", "e2", "e3", "e4") if name in rest.words] == ["e0", "e1"]
    newest = [each["href"] for tag, each in rest.elements if tag == "a" and "limit=3" in str(each["href"])]
    assert newest == ["/?kind=track&user=ann&limit=3"]


def test_the_list_asks_for_what_is_new_and_is_told_when_nothing_is(receiver: Receiver) -> None:
    """Polling costs a 204 as long as nothing arrives, and a new table once something has."""
    (polled,) = [attributes["hx-get"] for _, attributes in page(receiver, "/").elements if "hx-get" in attributes]
    assert polled is not None
    assert receiver.get(polled).status_code == 204
    post(receiver, RUDDERSTACK, {"batch": [{"type": "track", "event": "new", "messageId": "1"}]})
    answer = receiver.get(polled)
    assert "new" in Page(answer.text).words
    assert "<html" not in answer.text
    assert refusal(httpx.get(receiver.url + "/?kind=nothing"), 400)


def test_a_story_nests_observations_under_their_trace(receiver: Receiver) -> None:
    """One request in time order: the error, the event, and the trace with its generation inside."""
    ns = 1_700_000_000_000_000_000
    meta = [
        attribute("langfuse.trace.metadata.request_id", stringValue="r1"),
        attribute("langfuse.trace.metadata.request_trace_id", stringValue="the-trace"),
    ]
    failed = [
        *meta,
        attribute("langfuse.observation.level", stringValue="ERROR"),
        attribute("langfuse.observation.status_message", stringValue="it broke"),
    ]
    spans = [
        span(name="write", spanId="2" * 16, parentSpanId="1" * 16, startTimeUnixNano=ns + 5_000_000, attributes=failed),
        span(name="answer", spanId="1" * 16, startTimeUnixNano=ns + 2_000_000, attributes=meta),
        span(name="orphan", spanId="3" * 16, parentSpanId="9" * 16, startTimeUnixNano=ns + 9_000_000, attributes=meta),
    ]
    post(receiver, OTLP, export(*spans), **JSON)
    tags = {"request_id": "r1", "workspace_id": "acme"}
    event = {
        "timestamp": 1_700_000_000,
        "transaction": "/api/qa",
        "request": {"method": "POST"},
        "user": {"id": "ann"},
        "tags": tags,
        "exception": {"values": [{"type": "KeyError", "value": "'x'"}]},
    }
    post(receiver, SENTRY, envelope(("event", event)))
    html = receiver.get("/requests/r1").text
    words = Page(html).words
    assert "user ann workspace acme method POST route /api/qa trace the-trace began 2023-11-14 22:13:20 UTC" in words
    order = [words.index(each) for each in ("KeyError: 'x'", "+2.00 ms trace answer", "+5.00 ms observation write")]
    assert order == sorted(order)
    nested = re.search(r"answer.*?<ol.*?write.*?it broke.*?</ol>.*?orphan", html, re.DOTALL)
    assert nested
    missing = httpx.get(receiver.url + "/requests/none")
    assert missing.status_code == 404
    assert "Nothing is stored of this request" in missing.text


def test_circles_and_long_chains_of_parents_are_shown(receiver: Receiver) -> None:
    """Parents that lead back to themselves, and a thousand levels, cost nesting but no signal and no stack."""
    meta = [attribute("langfuse.trace.metadata.request_id", stringValue="r1")]
    circle = [("1", "2"), ("2", "3"), ("3", "1"), ("4", "4")]
    spans = [span(spanId=one * 16, parentSpanId=two * 16, attributes=meta) for one, two in circle]
    chain = [f"{n:016x}" for n in range(1, 950)]
    spans += [
        span(spanId=chain[n], parentSpanId=chain[n - 1] if n else None, attributes=meta) for n in range(len(chain))
    ]
    post(receiver, OTLP, export(*spans), **JSON)
    assert page(receiver, "/requests/r1").words.count("langfuse ") == len(spans)


def test_large_and_deep_payloads_are_cut(receiver: Receiver) -> None:
    """A page stays a page: a huge payload is cut with a word about the rest, a deep one is shown."""
    deep: Any = "x" * 100_000
    for _ in range(100):
        deep = {"deep": [deep]}
    message = {"type": "track", "event": "e", "messageId": "1", "context": {"request_id": "r1"}, "properties": deep}
    post(receiver, RUDDERSTACK, {"batch": [message]})
    html = receiver.get("/requests/r1").text
    assert len(html) < 50_000
    assert "more characters" in html


def test_odd_usage_and_values_are_shown_without_an_error(receiver: Receiver) -> None:
    """Usage that is no JSON, usage by OpenTelemetry's names, a boolean score, a span that ends before it starts."""
    meta = [attribute("langfuse.trace.metadata.request_id", stringValue='"r1')]
    usage = attribute("langfuse.observation.usage_details", stringValue="{")
    otel = [attribute("gen_ai.usage.input_tokens", intValue="7"), attribute("gen_ai.request.model", stringValue="m2")]
    spans = [
        span(attributes=[*meta, usage], endTimeUnixNano="1"),
        span(spanId="c" * 16, attributes=[*meta, *otel], endTimeUnixNano=0, startTimeUnixNano=0),
    ]
    post(receiver, OTLP, export(*spans), **JSON)
    post(receiver, SCORES, [{"name": "liked", "value": True, "traceId": "a" * 32}])
    words = page(receiver, '/requests/"r1').words
    assert "model m2" in words
    assert "tokens input_tokens 7" in words
    assert "value true" in words


def test_langfuse_trace_addresses_lead_to_the_trace(receiver: Receiver) -> None:
    """What our `trace.url` and the SDK's `get_trace_url` give with the receiver as their host works."""
    for path in (f"/project/local/traces/{'a' * 32}", f"/trace/{'a' * 32}"):
        answer = httpx.get(receiver.url + path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/?trace_id=" + "a" * 32)


def test_an_error_says_where_in_the_applications_code_it_was_raised(receiver: Receiver) -> None:
    """The innermost frame that is the application's own: the first thing that one looks for."""
    frames = [
        {"filename": "app/main.py", "lineno": 41, "function": "boom", "in_app": True},
        {"filename": "starlette/x.py", "lineno": 7, "function": "call", "in_app": False},
    ]
    event = {
        "event_id": "e" * 32,
        "tags": {"request_id": "raised-here"},
        "exception": {"values": [{"type": "KeyError", "value": "'x'", "stacktrace": {"frames": frames}}]},
    }
    post(receiver, SENTRY, envelope(("event", event)))
    assert "at app/main.py:41 in boom" in page(receiver, "/requests/raised-here").words


def test_static_files_come_with_the_package(receiver: Receiver) -> None:
    """htmx with its licence, our style sheet and icon, and nothing outside that folder."""
    types = {
        "htmx.min.js": "text/javascript",
        "htmx.LICENSE.txt": "text/plain",
        "receiver.css": "text/css",
        "icon.svg": "image/svg+xml",
    }
    for name, media_type in types.items():
        answer = receiver.get(f"/static/{name}")
        assert answer.content
        assert answer.headers["content-type"].partition(";")[0] == media_type
    for path in ("..%2f..%2fapp.py", "nothing.js"):
        assert refusal(httpx.get(f"{receiver.url}/static/{path}"), 404)


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0, "0 ms"), (0.423, "0.42 ms"), (12.4, "12 ms"), (999.6, "1000 ms"), (3_123, "3.1 s")]
)
def test_durations_are_readable(milliseconds: float, shown: str) -> None:
    """Three digits at most, in the unit that fits."""
    assert duration(milliseconds) == shown
