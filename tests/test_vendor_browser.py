"""What a browser's request says for analytics."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match, Route, Router

from metricx_observe.vendors.rudderstack.browser import Browser, read_browser

from .support import info_of, scope_of

SHOP = Router([Route(path, print) for path in ("/a", "/cart", "/reset/{token}", "/files/{name:path}")])
"""The application whose pages are looked at."""


def context(browser: Browser) -> dict[str, Any]:
    """What it says in RudderStack's `context`."""
    return {**browser.context, **browser.ids}


def read(path: str = "/a", method: str = "GET", cookie: str = "", **headers: str) -> Browser:
    """Of a request with these headers (`_` for `-`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = scope_of(path, method=method, headers={**named, **({"cookie": cookie} if cookie else {})}, router=SHOP)
    for route in SHOP.routes:  # as the router leaves it
        match, found = route.matches(scope)
        scope.update(found if match is Match.FULL else {})
    return read_browser(info_of(scope).facts(), marked)


def marked(name: str, text: str) -> str:
    """Tokens replaced."""
    return "[token]" if name == "token" else text


def encoded(value: Any) -> str:
    """As RudderStack's JavaScript SDK stores it."""
    return "RS_ENC_v3_" + base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (f"rl_anonymous_id={encoded('visitor')}", "visitor"),
        (f"rl_anonymous_id={quote(encoded('visitor'))}", "visitor"),
        ("rl_anonymous_id=visitor", "visitor"),
        (f"rl_anonymous_id={quote(json.dumps('visitor'))}", "visitor"),
        ("a=b;rl_anonymous_id=visitor;c=d", "visitor"),
        ("rl_anonymous_id=12345", "12345"),
        ("rl_anonymous_id=RudderEncrypt%3AU2FsdGVkX18", None),
        ("rl_anonymous_id=RS_ENC_v3_%%%", None),
        (f"rl_anonymous_id={encoded({'a': 1})}", None),
        (f"rl_anonymous_id={encoded('  ')}", None),
        ("rl_anonymous_id=", None),
        ("", None),
    ],
)
def test_the_anonymous_id_is_rudderstacks(cookie: str, expected: str | None) -> None:
    """Plain and encoded forms are read; what its older SDK encrypts, and what is broken, is no id."""
    assert read(cookie=cookie).anonymous_id == expected


@pytest.mark.parametrize(
    ("cookie", "client", "session"),
    [
        ("_ga=GA1.1.111.222", "111.222", None),
        ("_ga=GA1.2.shop.111.222", "111.222", None),
        ("_ga=GA1.1.abc.222", None, None),
        ("_ga=111.222", None, None),
        ("_ga=GA1.1.²1.222", None, None),
        ("_ga_AB=GS1.1.1700000000.3.1.1700000100.0.0.0", None, 1700000000),
        ("_ga_AB=GS2.1.s1700000000$o3$g1$t1700000100", None, 1700000000),
        ("_ga_AB=GS3.1.1700000000", None, None),
        ("_ga_AB=GS1.1.notanumber", None, None),
        ("_ga_AB=GS1.1.99999999999999999999", None, None),
        (f"rl_session={encoded({'id': 1700000001, 'autoTrack': True})}", None, 1700000001),
        (f"rl_session={encoded({'sessionId': 1700000002})}", None, 1700000002),
        ("rl_session=1700000003", None, 1700000003),
        (f"_ga_A=GS1.1.1700000000.1; rl_session={encoded({'id': 5})}", None, 1700000000),
        (f"rl_session={encoded([1])}", None, None),
    ],
)
def test_ga4s_ids_come_from_its_cookies(cookie: str, client: str | None, session: int | None) -> None:
    """Client id from `_ga`, session from `_ga_<ID>` in both of its forms, else RudderStack's own session."""
    found = context(read(cookie=cookie))
    assert found.get("externalId") == (None if client is None else [{"type": "ga4ClientId", "id": client}])
    assert found.get("sessionId") == session


def test_cookies_in_several_headers_are_one() -> None:
    """HTTP/2 may split the cookie header."""
    scope = scope_of("/")
    scope["headers"] = [(b"cookie", b"_ga=GA1.1.1.2"), (b"cookie", b"rl_anonymous_id=v")]
    found = read_browser(info_of(scope).facts(), marked)
    assert (found.anonymous_id, context(found)["externalId"][0]["id"]) == ("v", "1.2")


@pytest.mark.parametrize(
    ("request_of", "page"),
    [
        ({"path": "/a?utm_source=x&token=secret"}, {"url": "http://shop.example/a?utm_source=x", "path": "/a"}),
        ({"referer": "https://user:pw@other.example:8443/p?token=secret#frag"},
         {"url": "http://shop.example/a", "path": "/a", "referrer": "https://other.example:8443"}),
        ({"method": "POST", "referer": "https://shop.example/cart?utm_medium=y&id=1"},
         {"url": "https://shop.example/cart?utm_medium=y", "path": "/cart"}),
        ({"sec_fetch_mode": "cors", "referer": "https://shop.example/cart"},
         {"url": "https://shop.example/cart", "path": "/cart"}),
        ({"method": "POST", "referer": "https://[broken"}, {"url": "http://shop.example/a", "path": "/a"}),
        ({"method": "POST", "referer": "https://[::1]:80/x"}, {"url": "https://[::1]:80"}),
        ({"method": "POST", "referer": "https://shop.example/reset/hunter2?a=1"},
         {"url": "https://shop.example/reset/[token]", "path": "/reset/[token]"}),
        ({"method": "POST", "referer": "https://shop.example/nowhere/hunter2"}, {"url": "https://shop.example"}),
        ({"path": "/reset/hunter2"},
         {"url": "http://shop.example/reset/[token]", "path": "/reset/[token]"}),
        ({"path": "/nowhere/hunter2"}, {"url": "http://shop.example"}),
        ({"path": "/files/a/hunter2"}, {"url": "http://shop.example/files/{name}", "path": "/files/{name}"}),
        ({"method": "POST", "referer": "nothing"}, {"url": "http://shop.example/a", "path": "/a"}),
    ],
)  # fmt: skip
def test_the_page_is_the_one_that_the_user_sees(request_of: dict[str, str], page: dict[str, str]) -> None:
    """A navigation's own address, else the referring page's; no credentials, fragment or query but campaigns.

    Of a path what the application's own templates say; of any other page no more than the origin.
    """
    assert context(read(**request_of))["page"] == page


def test_locale_and_user_agent() -> None:
    """The first language and the user agent, each one line and bounded."""
    found = context(read(accept_language="de-CH;q=0.9, en", user_agent="x" * 500))
    assert (found["locale"], found["userAgent"]) == ("de-CH", "x" * 200)
    assert context(read()).keys() == {"page"}


def test_one_browsers_headers_are_never_taken_for_anothers() -> None:
    """Requests that differ in one of their headers differ in what it says, and in nothing else."""
    alike = {"referer": "https://shop.example/a", "sec_fetch_mode": "cors", "user_agent": "Firefox"}
    ann = read(cookie="session=1; rl_anonymous_id=ann; _ga=GA1.1.1.2", **alike)
    bob = read(cookie="session=1; rl_anonymous_id=bob; _ga=GA1.1.3.4", **alike)
    elsewhere = read(cookie="session=2; rl_anonymous_id=ann; _ga=GA1.1.1.2", **{**alike, "user_agent": "Safari"})
    assert (ann.anonymous_id, bob.anonymous_id, elsewhere.anonymous_id) == ("ann", "bob", "ann")
    assert ann.context == bob.context
    assert ann.ids == elsewhere.ids != bob.ids
    assert context(elsewhere)["userAgent"] == "Safari"


@given(st.binary(), st.binary(), st.text(st.characters(codec="latin-1")))
def test_no_header_makes_it_fail(cookie: bytes, referer: bytes, path: str) -> None:
    """Whatever a client sends, there is a page and nothing is raised."""
    scope = {**scope_of("/"), "path": path, "headers": [
        (b"cookie", b"rl_session=" + cookie), (b"cookie", b"rl_anonymous_id=" + cookie + b"; _ga=" + cookie),
        (b"referer", referer), (b"accept-language", referer), (b"user-agent", referer),
    ]}  # fmt: skip
    found = read_browser(info_of(scope).facts(), marked)
    assert context(found)["page"].keys() <= {"url", "path", "referrer"}
