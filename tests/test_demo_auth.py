"""The demo's sign-up, log-in, session and its refusal of other sites' forms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session, select

from demo_app.models import User
from tests.demo_server import PASSWORD, Demo, running_demo


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setenv("ENVIRONMENT", "test")
    with running_demo(tmp_path) as running:
        yield running


def test_signing_up_logs_in_and_shows_the_workspace(demo: Demo) -> None:
    """A new user lands on the dashboard, and comes back to it after logging out and in."""
    with demo.browser() as browser:
        page = demo.sign_up(browser, "Ada@Example.com")
        assert page.url.path == "/"
        assert "No account is connected" in page.text
        for path in ("/connections", "/copilot", "/debug"):
            assert browser.get(path).url.path == path
        assert browser.post("/logout").url.path == "/login"
        assert browser.get("/").url.path == "/login"
        page = browser.post("/login", data={"email": "ADA@example.com", "password": PASSWORD})
        assert page.url.path == "/"
        assert "ada@example.com" in page.text


def test_passwords_are_kept_as_argon2(demo: Demo) -> None:
    """The database holds a salted hash: two users with one password have different ones."""
    with demo.browser() as first, demo.browser() as second:
        demo.sign_up(first, "a@example.com")
        demo.sign_up(second, "b@example.com")
    with Session(demo.app.state.engine) as session:
        hashes = set(session.exec(select(User.password_hash)))
    assert len(hashes) == 2
    assert all(value.startswith("$argon2id$") for value in hashes)


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(demo: Demo, email: str) -> None:
    """The answer does not tell whether an address has an account."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        browser.post("/logout")
        page = browser.post("/login", data={"email": email, "password": "not the password"})
        assert page.status_code == 401
        assert "do not fit" in page.text
        assert browser.get("/").url.path == "/login"


def test_an_address_signs_up_once(demo: Demo) -> None:
    """The second sign-up with an address is refused, whatever its case."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        browser.post("/logout")
        assert demo.sign_up(browser, "ADA@EXAMPLE.COM").status_code == 409
        assert browser.get("/").url.path == "/login"


@pytest.mark.parametrize(
    "form",
    [
        {"workspace": "N", "email": "no address", "password": PASSWORD},
        {"workspace": "N", "email": "ada@example.com", "password": "short"},
        {"workspace": "", "email": "ada@example.com", "password": PASSWORD},
    ],
)
def test_a_bad_form_is_refused(demo: Demo, form: dict[str, str]) -> None:
    """What the page's own checks let through by mistake, the server refuses."""
    with demo.browser() as browser:
        assert browser.post("/signup", data=form).status_code == 422


def test_the_session_cookie_is_protected(demo: Demo) -> None:
    """Scripts cannot read the cookie, other sites' forms do not carry it, and a changed one counts as none."""
    with demo.browser() as browser:
        (signed_up, _) = (*demo.sign_up(browser).history, None)
        assert signed_up is not None
        cookie = signed_up.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        value = browser.cookies["metricx_session"]
        browser.cookies.clear()
        browser.cookies.set("metricx_session", ("B" if value[0] == "A" else "A") + value[1:])
        assert browser.get("/").url.path == "/login"


def test_https_only_cookies_are_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind HTTPS the cookie is marked secure."""
    monkeypatch.setenv("ENVIRONMENT", "test")
    with running_demo(tmp_path, secure_cookies=True) as demo, demo.browser() as browser:
        assert "secure" in demo.sign_up(browser).history[0].headers["set-cookie"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({}, True),
    ],
)
def test_other_sites_forms_are_refused(demo: Demo, headers: dict[str, str], allowed: bool) -> None:
    """A POST that a browser marks as coming from another site does nothing, with or without a session."""
    form = {"workspace": "Northwind", "email": "ada@example.com", "password": PASSWORD}
    with demo.browser() as browser:
        page = browser.post("/signup", data=form, headers=headers)
        assert page.status_code == (200 if allowed else 403)
        assert (browser.get("/").url.path == "/") is allowed


def test_the_own_origin_is_allowed_and_links_from_elsewhere_too(demo: Demo) -> None:
    """Browsers without Sec-Fetch-Site send Origin; a plain link from another site still opens a page."""
    with demo.browser() as browser:
        form = {"workspace": "Northwind", "email": "ada@example.com", "password": PASSWORD}
        assert browser.post("/signup", data=form, headers={"Origin": demo.url}).status_code == 200
        assert browser.get("/", headers={"Sec-Fetch-Site": "cross-site"}).url.path == "/"


def test_what_is_refused_is_a_page_for_a_person_and_json_for_a_program(demo: Demo) -> None:
    """A wrong address, and a form whose field does not fit, signed in or not; markup in an address stays text."""
    form = {"workspace": "N", "email": "ada@localhost", "password": PASSWORD}  # a browser lets this address through
    with demo.browser() as browser:
        for user in ("", "ada@example.com"):
            missing = browser.get("/no<b>where")
            assert (missing.status_code, "There is no such page" in missing.text) == (404, True)
            assert browser.post("/copilot", headers={"accept": "text/html"}).headers["allow"] == "GET"
            assert "/no%3Cb%3Ewhere" in missing.text or "/no&lt;b&gt;where" in missing.text
            assert user in missing.text
            refused = browser.post("/signup", data=form)
            assert (refused.status_code, "does not fit: email." in refused.text) == (422, True)
            for accept in ("application/json", "*/*"):
                missing = browser.get("/nowhere", headers={"Accept": accept})
                assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
                refused = browser.post("/signup", data=form, headers={"Accept": accept})
                assert refused.json()["detail"][0]["loc"] == ["body", "email"]
            demo.sign_up(browser)


def test_without_a_user_pages_lead_to_log_in_and_calls_get_401(demo: Demo) -> None:
    """A person is led to the log-in page, a script is told."""
    with demo.browser() as browser:
        for path in ("/", "/connections", "/copilot", "/debug"):
            assert browser.get(path).url.path == "/login"
        assert browser.get("/signup").status_code == 200
        refused = browser.post("/qa", json={"question": "roas?"}, headers={"Accept": "application/json"})
        assert refused.status_code == 401
