"""RudderStack: our messages are those of its own SDK, with what the request knows filled in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from rudderstack.analytics.client import Client

from metricx_observe import ContextDep, TrackerDep
from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext
from metricx_observe.delivery.channel import Importance
from metricx_observe.events import UserSignedUp
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import load_settings
from metricx_observe.signals.tracker import Tracker
from metricx_observe.vendors.rudderstack.channel import RudderStackChannel
from metricx_observe.vendors.vendor import Target

from .odd_values import ODD_VALUES
from .receiver_server import Receiver
from .support import call, info_of, observed, scope_of

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
LIMIT = 32 << 10
"""Of a message, says RudderStack."""


def channel(note: Callable[[str, list[str]], None] = lambda call, faults: None, **more: Any) -> RudderStackChannel:
    """A channel to a host that is never called."""
    given = load_settings({"environment": "Production", "service": "shop", "release": "1.2.3", **more})
    target = Target("on", url="https://rudder.example", key="write-key")
    return RudderStackChannel(given, target, Scrubber(), note)


def messages(make: Callable[[Tracker], object], cell: Context | None = None, **more: Any) -> list[dict[str, Any]]:
    """What the channel makes of the calls in `make`."""
    records: list[bytes] = []

    def put(record: bytes, size: int) -> bool:
        records.append(record)
        return size > 0

    make(Tracker(put, Boundary(), cell))
    coder = channel(**more)
    return [orjson.loads(message.payload) for record in records for message in coder.encode(record)]


def cell(user_id: str | None = "bob", **more: Any) -> Context:
    """A request's cell."""
    found = Context(RequestContext("r1", "a" * 32))
    found.bind_user(user_id, **more)
    return found


SDK = Client("write-key", host="https://rudder.example", send=False)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda t: t.track("feature_used", {"a": 1}, user_id="u1", anonymous_id="anon", timestamp=WHEN),
         lambda: SDK.track("u1", "feature_used", {"a": 1}, timestamp=WHEN, anonymous_id="anon")),
        (lambda t: t.identify("u1", email="a@example.com", traits={"plan": "pro"}),
         lambda: SDK.identify("u1", {"email": "a@example.com", "plan": "pro"})),
        (lambda t: t.group("w1", traits={"name": "Acme"}),
         lambda: SDK.group("u1", "w1", {"name": "Acme"})),
        (lambda t: t.alias("before", "u1"), lambda: SDK.alias("before", "u1")),
        (lambda t: t.page("Pricing", category="docs", properties={"a": 1}),
         lambda: SDK.page("u1", "docs", "Pricing", {"a": 1})),
    ],
    ids=["track", "identify", "group", "alias", "page"],
)  # fmt: skip
def test_messages_are_the_sdks_own(ours: Callable[[Tracker], object], theirs: Callable[[], Any]) -> None:
    """Same fields, same values, same library and channel as RudderStack's client makes for the same call."""
    (mine,) = messages(ours, cell("u1"))
    wanted = orjson.loads(orjson.dumps(theirs()[1]))
    assert mine.keys() == wanted.keys()
    assert mine["context"].keys() >= wanted["context"].keys()
    assert mine["context"]["library"] == wanted["context"]["library"]
    assert mine["context"].get("traits") == wanted["context"].get("traits")
    loose = ("context", "messageId", "timestamp")
    assert {key: mine[key] for key in mine if key not in loose} == {
        key: wanted[key] for key in wanted if key not in loose
    }
    assert datetime.fromisoformat(mine["timestamp"]).utcoffset() == timedelta(0)


def test_the_context_says_who_and_which_request() -> None:
    """Request id, trace id, workspace, tags, service, release and environment are in the message's context."""
    bound = cell(workspace_id="w1")
    bound.set_tag("plan", "pro")
    (message,) = messages(lambda tracker: tracker.track("feature_used"), bound)
    context = message["context"]
    assert message["userId"] == "bob"
    assert (context["request_id"], context["trace_id"], context["workspace_id"]) == ("r1", "a" * 32, "w1")
    assert context["tags"] == {"plan": "pro"}
    assert context["app"] == {"name": "shop", "version": "1.2.3"}
    assert context["environment"] == "production"
    assert "ip" not in context


def test_an_event_never_carries_anothers_traits() -> None:
    """Traits are on `identify` only, and those of the bound user only on their own."""
    bound = cell("alice", email="alice@example.com", traits={"plan": "pro"})

    def make(tracker: Tracker) -> None:
        tracker.identify("bob", traits={"plan": "free"})
        tracker.track("feature_used", user_id="bob")
        tracker.identify()
        tracker.track("feature_used")

    bob, event_of_bob, alice, event = messages(make, bound)
    assert (bob["userId"], bob["context"]["traits"]) == ("bob", {"plan": "free"})
    assert alice["context"]["traits"] == {"email": "alice@example.com", "plan": "pro"}
    assert "traits" not in {**event_of_bob["context"], **event["context"]}


def test_the_callers_own_objects_stay_as_they_are() -> None:
    """The SDK's `identify` writes into the dict that it is given: never into the caller's."""
    traits = {"plan": "pro"}
    bound = cell("bob", traits=traits)
    messages(lambda tracker: tracker.identify(traits=traits), bound)
    assert traits == {"plan": "pro"}
    assert bound.user is not None
    assert bound.user.traits == {"plan": "pro"}


def test_an_event_without_anybody_has_the_requests_id() -> None:
    """RudderStack wants a user or an anonymous id: events of one request share the request's."""
    first, second = messages(lambda tracker: [tracker.track("a"), tracker.track("b")], cell(None))
    assert first["userId"] is None
    assert first["anonymousId"] == second["anonymousId"] == "r1"
    (alone,) = messages(lambda tracker: tracker.track("a"))
    assert alone["anonymousId"] == alone["messageId"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep", " Ann@Example.com"),
        ("hash", sha256(b"ann@example.com").hexdigest()),
        ("drop", None),
    ],
)
def test_personal_data_follows_the_setting(policy: Any, expected: str | None) -> None:
    """METRICX_PERSONAL_DATA decides about fields marked Personal, also of a documented event given by name."""
    event = UserSignedUp(email=" Ann@Example.com", workspace_id="w1")

    def make(tracker: Tracker) -> None:
        tracker.track(event, user_id="u1")
        tracker.track("user_signed_up", {"email": " Ann@Example.com", "workspace_id": "w1"}, user_id="u1")

    for message in messages(make, personal_data=policy):
        assert message["properties"].get("email") == expected
        assert message["properties"]["workspace_id"] == "w1"


def test_an_address_in_a_plain_event_follows_the_setting_too() -> None:
    """An e-mail address is personal data in any property."""

    def make(tracker: Tracker) -> object:
        return tracker.track("x", {"note": "ask ann@example.com"}, user_id="u")

    assert "ann@example.com" in str(messages(make))
    assert "ann@example.com" not in str(messages(make, personal_data="drop"))
    assert "ann@example.com" not in str(messages(make, personal_data="hash"))


def test_secrets_do_not_leave() -> None:
    """Properties, tags and the page's address pass the scrubber."""
    bound = cell()
    bound.set_tag("note", "Bearer abcdefghijklmnop1234")
    found = str(messages(lambda tracker: tracker.track("x", {"api_key": "0123456789abcdef"}), bound))
    assert "0123456789abcdef" not in found
    assert "abcdefghijklmnop1234" not in found


def test_what_a_browser_says_is_scrubbed_and_counted_in_each_message() -> None:
    """Headers that come again and hold a secret are counted again, and by the policy of their own channel."""
    secret, address = "sk_live_abcdefghijklmnop1234", "ann@example.com"

    def shown(coder: RudderStackChannel, times: int) -> list[dict[str, Any]]:
        records: list[Any] = []

        def put(record: Any, size: int) -> bool:
            records.append(record)
            return size > 0

        for _ in range(times):
            headers = {"user-agent": f"app {secret}", "referer": f"https://shop.example/?utm_id={address}"}
            info = info_of(scope_of("/", method="POST", headers=headers))
            bound = Context(RequestContext("r1", "a" * 32), info)
            Tracker(put, Boundary(), bound).track("opened")
        found = [orjson.loads(message.payload)["context"] for record in records for message in coder.encode(record)]
        assert not [context for context in found if secret in str(context)]
        return found

    keep, drop = channel(), channel(personal_data="drop")
    for coder in (keep, drop):
        for context in shown(coder, 3):
            assert (address.replace("@", "%40") in context["page"]["url"]) == (coder is keep)
    assert keep._scrubber.report.as_dict() == {"track": {"page": {"vendor_key": 3}}}
    assert drop._scrubber.report.as_dict() == {"track": {"page": {"vendor_key": 3, "email": 3}}}


@pytest.mark.parametrize(
    "properties",
    [
        {"a": "x" * 500_000}, {"a": "\U0001f600" * 30_000}, {"a": "\x00" * 100_000}, {"a": [0.123456789] * 100_000},
        {f"key {n}": "v" * 50 for n in range(5_000)}, {"a": '"\\' * 30_000}, {"a" * 40_000: 1},
        {"a": [{"b": None}] * 50_000},
    ],
    ids=["text", "emoji", "control", "numbers", "keys", "escapes", "name", "nulls"],
)  # fmt: skip
def test_a_message_that_is_too_large_is_cut(properties: dict[str, Any]) -> None:
    """A message over 32 KiB would be refused: its properties are cut, everything else arrives."""
    bound = cell(workspace_id="w1")
    for n in range(200):
        bound.set_tag(f"tag{n}", "\U0001f600" * 200 if n < 5 else "x")
    (message,) = messages(lambda tracker: tracker.track("feature_used", properties), bound)
    assert len(orjson.dumps(message)) <= LIMIT
    assert "cut" in str(message["properties"])
    assert (message["event"], message["userId"], message["context"]["workspace_id"]) == ("feature_used", "bob", "w1")


def test_what_ga4_drops_is_counted_and_sent() -> None:
    """RudderStack has other destinations: the event goes, and what GA4 has against its properties is counted."""
    counted: dict[str, list[str]] = {}
    properties = {"ga_x": 1, "b": "v" * 101}
    (message,) = messages(lambda tracker: tracker.track("opened", properties), note=counted.__setitem__)
    assert message["properties"] == properties
    assert len(counted["track opened"]) == 2


def test_a_message_that_cannot_be_cut_is_refused() -> None:
    """An event whose context alone is too large costs itself only, and says so without its content."""
    bound = cell()
    for n in range(50):
        bound.set_tag(f"tag{n}", "\U0001f600" * 200)
    with pytest.raises(ValueError, match="too large"):
        messages(lambda tracker: tracker.track("feature_used"), bound)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters(), max_size=2000) | st.decimals()
    | st.sampled_from([name for name in ODD_VALUES if "huge" not in name]).map(lambda name: ODD_VALUES[name]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=20)))  # fmt: skip
def test_every_message_is_strict_json_within_the_limit(properties: Mapping[str, Any]) -> None:
    """Whatever the properties are, the message is strict JSON of at most 32 KiB, and is one message."""
    (message,) = messages(lambda tracker: tracker.track("feature_used", properties, user_id="u1"))
    assert len(orjson.dumps(message)) <= LIMIT
    json.loads(json.dumps(message), parse_constant=lambda name: pytest.fail(name))


def test_a_post_joins_what_was_stored() -> None:
    """The batch is the stored messages as they are, with the time of the post; the key is in the header only."""
    coder = channel()
    post = coder.post([b'{"a":1}', b'{"a":2}'])
    body = orjson.loads(post.body)
    assert post.url == "https://rudder.example/v1/batch"
    assert body["batch"] == [{"a": 1}, {"a": 2}]
    assert datetime.fromisoformat(body["sentAt"]).utcoffset() == timedelta(0)
    assert base64.b64decode(post.headers["Authorization"].removeprefix("Basic ")) == b"write-key:"
    assert "write-key" not in coder.destination
    assert coder.destination.startswith("rudder.example#")
    assert coder.importance("event") is Importance.SIGNAL
    assert coder.rate_limits(429, {}) == {}


def test_what_may_be_shown_of_a_stored_message() -> None:
    """Message id, name and user; no property."""
    coder = channel()
    assert coder.describe("event", b'{"messageId":"m","event":"e","userId":"u"}') == ("m", "e", "u")
    assert coder.describe("event", b'{"messageId":"m","type":"alias","userId":null}') == ("m", "alias", None)


def test_events_of_a_browser_request_arrive_with_its_ids(receiver: Receiver) -> None:
    """The browser's anonymous id, GA4's client and session, page, locale and user agent come from the request."""
    app, user = FastAPI(), uuid4().hex
    with observed(receiver, release="1.2.3", send_client_ip=True) as observability:
        observability.install(app)

        @app.post("/buy/{item}")
        async def buy(item: int, context: ContextDep, tracker: TrackerDep) -> list[str | None]:
            context.bind_user(user, email="ann@example.com", workspace_id="w1")
            return [
                tracker.track("feature_used", {"when": WHEN, "amount": Decimal("1.5"), "id": UUID(int=1)}),
                tracker.identify(traits={"plan": "pro"}),
                tracker.group(),
                tracker.alias("visitor"),
                tracker.page("Shop"),
            ]

        encoded = base64.b64encode(json.dumps("visitor-1").encode()).decode()
        headers = {
            "cookie": f"_ga=GA1.1.111.222; _ga_AB12=GS2.1.s1700000000$o1$g0; rl_anonymous_id=RS_ENC_v3_{encoded}",
            "user-agent": "Firefox", "accept-language": "de-DE,de;q=0.9", "x-request-id": f"r-{user}",
            "referer": "https://shop.example/cart?token=s3cret&utm_source=mail", "sec-fetch-mode": "cors",
        }  # fmt: skip
        ids = orjson.loads(asyncio.run(call(app, "/buy/3?secret=1", method="POST", headers=headers)).body)
        assert observability.flush(10)
    signals = {signal["kind"]: signal for signal in receiver.wait_for(5, user=user, workspace="w1")}
    kinds = ("track", "identify", "group", "alias", "page")
    assert [signals[kind]["id"] for kind in kinds] == ids
    for kind in kinds:
        context = signals[kind]["payload"]["context"]
        assert signals[kind]["request_id"] == f"r-{user}"
        assert signals[kind]["payload"]["userId"] == user
        assert context["externalId"] == [{"type": "ga4ClientId", "id": "111.222"}]
        assert context["sessionId"] == 1700000000
        assert (context["userAgent"], context["locale"]) == ("Firefox", "de-DE")
        assert context["page"] == {"url": "https://shop.example?utm_source=mail"}
        assert context["ip"] == "127.0.0.1"
        assert (context["app"]["version"], context["environment"]) == ("1.2.3", "development")
    track = signals["track"]["payload"]
    assert track["anonymousId"] == "visitor-1"
    assert track["properties"] == {
        "when": WHEN.isoformat(), "amount": 1.5, "id": "00000000-0000-0000-0000-000000000001",
    }  # fmt: skip
    assert signals["identify"]["payload"]["context"]["traits"] == {"email": "ann@example.com", "plan": "pro"}
    assert signals["group"]["payload"]["groupId"] == "w1"
    assert signals["alias"]["payload"]["previousId"] == "visitor"
    assert signals["page"]["payload"]["name"] == "Shop"


def test_the_time_of_an_event_is_utc() -> None:
    """A naive time is taken as UTC, another zone's is converted, none means now."""

    def make(tracker: Tracker) -> None:
        for when in (WHEN, WHEN.replace(tzinfo=None), None):
            tracker.track("x", user_id="u", timestamp=when)

    aware, naive, now = (datetime.fromisoformat(message["timestamp"]) for message in messages(make))
    assert aware == WHEN
    assert naive == WHEN.replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)
    assert {time.utcoffset() for time in (aware, naive, now)} == {timedelta(0)}
