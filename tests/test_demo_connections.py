"""The demo's OAuth flow against its stand-in providers, and what these check."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import Session, select

from demo_app import standins
from demo_app.models import Connection, OAuthState
from demo_app.routers.dashboard import axis_top
from demo_app.settings import Settings
from tests.demo_server import Demo, callback, running_demo

NAMES = ("google_ads", "meta_ads", "shopify")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setenv("ENVIRONMENT", "test")
    with running_demo(tmp_path) as running:
        yield running


def connections(demo: Demo) -> list[tuple[str, str, str]]:
    with Session(demo.app.state.engine) as session:
        return [(row.provider, row.account_id, row.account_name) for row in session.exec(select(Connection))]


def test_each_provider_connects(demo: Demo) -> None:
    """Allow on the consent page leads to the account on the connections page; connecting again replaces it."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        for name in (*NAMES, "shopify"):
            assert demo.connect(browser, name).url.path == "/connections"
        assert "Northwind Search" in browser.get("/connections").text
    assert connections(demo) == [
        ("google_ads", "8123456789", "Northwind Search"),
        ("meta_ads", "2090417755", "Northwind Social"),
        ("shopify", "northwind.myshopify.com", "Northwind Outdoor"),
    ]


def test_the_dashboard_shows_what_is_connected(demo: Demo) -> None:
    """No figure before a connection, only the way to one; after it that account's, and the same after it came again."""
    with demo.browser() as browser:
        page = demo.sign_up(browser).text
        assert "No account is connected" in page
        assert 'href="/connections"' in page.partition("<main>")[2]
        assert "€" not in page
        demo.connect(browser, "shopify")
        page = browser.get("/").text
        assert re.search(r"Shopify</span>\s*<strong>€\d", page)
        assert "Connect an ad account" in page
        assert "Brand Search" not in page
        demo.connect(browser, "google_ads")
        page = browser.get("/").text
        assert re.search(r"Google Ads</span>\s*<strong>\d\.\d+×", page)
        assert "Brand Search" in page
        assert "Retargeting" not in page
        demo.connect(browser, "google_ads")
        assert figures(browser.get("/").text) == figures(page)


def test_the_bars_have_an_axis_with_figures(demo: Demo) -> None:
    """Nothing, the half and the top in euros, and the first, middle and last day; no bar is higher than the axis."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        demo.connect(browser, "meta_ads")
        page = browser.get("/").text
    top, half, zero = (int(text.replace(",", "")) for text in re.findall(r"<span>€([\d,]+)</span>", page))
    assert (zero, half) == (0, top / 2)
    heights = [float(text) for text in re.findall(r"<i style=\"height: ([\d.]+)%", page)]
    days = re.findall(r"<span>(\d{4}-\d\d-\d\d)</span>", page)
    assert len(heights) == 30
    assert 50 <= max(heights) <= 100
    assert days == sorted(days)
    assert len(days) == 3


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.5, 0.6), (1, 1), (1.01, 2), (4_100, 6_000), (9_999, 10_000), (10_000, 10_000)]
)
def test_an_axis_ends_at_a_round_figure(highest: float, top: float) -> None:
    """One digit and zeros, at most twice what is shown."""
    assert axis_top(highest) == pytest.approx(top)


def figures(page: str) -> list[str]:
    """The numbers on a dashboard."""
    return re.findall(r"<strong>(.*?)</strong>", page)


def test_a_connection_belongs_to_its_workspace(demo: Demo) -> None:
    """Another workspace does not see it."""
    with demo.browser() as ada, demo.browser() as bob:
        demo.sign_up(ada, "ada@example.com")
        demo.sign_up(bob, "bob@example.com")
        demo.connect(ada, "google_ads")
        assert "Northwind Search" in ada.get("/connections").text
        assert "Northwind Search" not in bob.get("/connections").text


def test_the_request_carries_state_and_pkce_and_the_verifier_stays_on_the_server(demo: Demo) -> None:
    """What the browser sees is a challenge; the session cookie holds no verifier."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/google_ads")
        assert consent.url.params["code_challenge_method"] == "S256"
        assert len(consent.url.params["state"]) >= 22
        with Session(demo.app.state.engine) as session:
            (state,) = session.exec(select(OAuthState))
        verifier = state.value.split('"code_verifier": "')[1].split('"')[0]
        cookie = base64.b64decode(browser.cookies["metricx_session"].split(".")[0] + "==").decode()
        assert verifier not in cookie
        assert consent.url.params["state"] in cookie


@pytest.mark.parametrize("name", NAMES)
def test_a_denial_connects_nothing_and_uses_the_state_up(demo: Demo, name: str) -> None:
    """Deny leads back with a notice, and nothing of the started authorization is left."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        page = demo.connect(browser, name, "deny")
        assert "access was denied" in page.text
    assert connections(demo) == []
    with Session(demo.app.state.engine) as session:
        assert session.exec(select(OAuthState)).all() == []


def test_a_callback_is_good_once(demo: Demo) -> None:
    """The same address again is refused, even with a session cookie from before the first use."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/google_ads")
        before = browser.cookies["metricx_session"]
        used = callback(browser.post(consent.url, data={"decision": "allow"}))
        assert used.status_code == 303
        assert browser.get(used.url).status_code == 400
        browser.cookies.clear()
        browser.cookies.set("metricx_session", before)
        refused = browser.get(used.url)
        assert refused.status_code == 400
        assert "used before" in refused.text
    assert len(connections(demo)) == 1


def test_of_two_callbacks_at_once_one_connects(demo: Demo) -> None:
    """A double click on the way back cannot use a state twice."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/google_ads")
        back = browser.post(consent.url, data={"decision": "allow"}, follow_redirects=False).headers["location"]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: browser.get(back, follow_redirects=False).status_code, range(4)))
    assert sorted(answers) == [303, 400, 400, 400]


def test_a_callback_in_another_session_is_refused(demo: Demo) -> None:
    """Nobody can be made to connect the attacker's account: the state belongs to the session that began."""
    with demo.browser() as ada, demo.browser() as mallory:
        demo.sign_up(ada, "ada@example.com")
        demo.sign_up(mallory, "mallory@example.com")
        consent = mallory.post("/connections/google_ads")
        back = mallory.post(consent.url, data={"decision": "allow"}, follow_redirects=False).headers["location"]
        assert ada.get(back).status_code == 400
    assert connections(demo) == []


def test_an_expired_state_is_refused_and_swept(demo: Demo) -> None:
    """A state that came back too late is no good, and the next start removes it."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/google_ads")
        with Session(demo.app.state.engine) as session:
            (state,) = session.exec(select(OAuthState))
            state.expires_at = 0
            session.add(state)
            session.commit()
        assert browser.post(consent.url, data={"decision": "allow"}).status_code == 400
        browser.post("/connections/google_ads")
        with Session(demo.app.state.engine) as session:
            assert len(session.exec(select(OAuthState)).all()) == 1


def test_an_unknown_provider_is_refused(demo: Demo) -> None:
    """Only the three have routes."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        assert browser.post("/connections/tiktok").status_code == 422


def test_the_stand_in_answers_registered_addresses_only(demo: Demo) -> None:
    """A consent page for another redirect address would send codes to it: there is none."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        url = browser.post("/connections/google_ads").url
        evil = url.copy_set_param("redirect_uri", "http://evil.example/callback")
        assert browser.get(evil).status_code == 400
        assert browser.post(evil, data={"decision": "allow"}).status_code == 400
        assert browser.get(url.copy_remove_param("code_challenge")).status_code == 422
        assert browser.get(url.copy_with(path="/providers/tiktok/authorize")).status_code == 400


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"code": "wrong"}, "invalid_grant"),
        ({"code_verifier": "wrong"}, "invalid_grant"),
        ({"redirect_uri": "http://evil.example/callback"}, "invalid_grant"),
    ],
)
def test_the_stand_in_checks_the_exchange(demo: Demo, change: dict[str, str], error: str) -> None:
    """A code needs its client, its redirect address and its verifier."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        consent = browser.post("/connections/meta_ads")
        back = browser.post(consent.url, data={"decision": "allow"}, follow_redirects=False).headers["location"]
        with Session(demo.app.state.engine) as session:
            (state,) = session.exec(select(OAuthState))
        form = {
            "grant_type": "authorization_code",
            "code": httpx.URL(back).params["code"],
            "redirect_uri": f"{demo.url}/connections/meta_ads/callback",
            "client_id": standins.CLIENT_ID,
            "client_secret": standins.CLIENT_SECRET,
            "code_verifier": state.value.split('"code_verifier": "')[1].split('"')[0],
        }
        answer = browser.post("/providers/meta_ads/token", data=form | change)
        assert answer.status_code in (400, 401)
        assert answer.json() == {"error": error}


def test_the_stand_in_api_wants_its_own_token(demo: Demo) -> None:
    """No token, no account; and a token opens only what its provider has."""
    with demo.browser() as browser:
        assert browser.get("/providers/meta_ads/account/me/adaccounts").status_code == 401
        standins._tokens["of-meta"] = (float("inf"), "meta_ads")
        headers = {"Authorization": "Bearer of-meta"}
        assert browser.get("/providers/meta_ads/account/me/adaccounts", headers=headers).status_code == 200
        assert browser.get("/providers/meta_ads/account/me/secrets", headers=headers).status_code == 404
        assert browser.get("/providers/shopify/account/shop.json", headers=headers).status_code == 401
        standins._tokens["of-meta"] = (0, "meta_ads")
        assert browser.get("/providers/meta_ads/account/me/adaccounts", headers=headers).status_code == 401


def test_a_provider_that_fails_connects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured provider is used instead of the stand-in; when it does not answer the page is the error page."""
    monkeypatch.setenv("ENVIRONMENT", "test")
    meta: dict[str, Any] = {
        "client_id": "ours",
        "client_secret": "s",
        "token_url": "http://127.0.0.1:9/token",
        "api_url": "http://127.0.0.1:9",
    }
    with running_demo(tmp_path, meta_ads=meta) as demo, demo.browser() as browser:
        demo.sign_up(browser)
        start = browser.post("/connections/meta_ads", follow_redirects=False)
        target = httpx.URL(start.headers["location"])
        assert (target.host, target.params["client_id"]) == ("www.facebook.com", "ours")
        failed = browser.get("/connections/meta_ads/callback", params={"code": "c", "state": target.params["state"]})
        assert failed.status_code == 500
        assert "Something went wrong" in failed.text
        assert connections(demo) == []


def test_real_providers_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client id and secret are enough for Google and Meta; Shopify needs the shop's addresses as well."""
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setenv("DEMO_GOOGLE_ADS__CLIENT_ID", "ours")
    monkeypatch.setenv("DEMO_GOOGLE_ADS__CLIENT_SECRET", "hidden")
    settings = Settings()
    assert settings.google_ads is not None
    assert settings.google_ads.token_url == "https://oauth2.googleapis.com/token"
    assert settings.meta_ads is None
    assert "hidden" not in repr(settings)
    monkeypatch.setenv("DEMO_SHOPIFY__CLIENT_ID", "ours")
    monkeypatch.setenv("DEMO_SHOPIFY__CLIENT_SECRET", "hidden")
    with pytest.raises(ValueError, match="authorize_url") as refused:
        Settings()
    assert "hidden" not in str(refused.value)
