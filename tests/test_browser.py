"""A person's way through it all, in a real browser: the demo, and then the receiver's page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from .demo_server import PASSWORD, running_demo
from .receiver_server import Receiver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a new Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        try:
            yield context.new_page()
        finally:
            context.close()


def test_a_person_finds_their_four_signals_on_the_receivers_page(
    page: Page, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sign up, connect, ask and fail in the demo: both events, the trace and the error are on the page."""
    monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
    monkeypatch.setenv("METRICX_OUTBOX_URL", f"sqlite:///{tmp_path}/outbox.db")
    monkeypatch.setenv("ENVIRONMENT", "development")
    with running_demo(tmp_path) as demo:
        page.goto(f"{demo.url}/signup")
        page.locator("[name=workspace]").fill("Northwind")
        page.locator("[name=email]").fill("grace@example.com")
        page.locator("[name=password]").fill(PASSWORD)
        page.locator("main").get_by_role("button").click()
        expect(page.get_by_role("heading", name="No account is connected")).to_be_visible()
        page.screenshot(path=tmp_path / "before.png", full_page=True)

        page.get_by_role("link", name="Connect an account").click()
        for provider in ("shopify", "google_ads"):
            page.locator(f"#{provider}").get_by_role("button", name="Connect").click()
            page.get_by_role("button", name="Allow").click()
            expect(page.locator(f"#{provider} .connected")).to_be_visible()
        page.get_by_role("link", name="Dashboard").click()
        expect(page.get_by_role("heading", name=re.compile("Last .* days"))).to_be_visible()
        page.screenshot(path=tmp_path / "dashboard.png", full_page=True)

        page.get_by_role("link", name="Copilot").click()
        own_request = page.locator("#request code").inner_text()
        page.get_by_label("Question").fill("Which campaign has the best ROAS?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("article.answer .steps")).to_contain_text("trace", timeout=20_000)
        expect(page.locator("#request")).to_contain_text("Request of the last question")
        expect(page.locator("#request code")).not_to_have_text(own_request)
        answer = page.locator("article.answer .text").inner_text()
        assert "Brand Search" in answer
        page.screenshot(path=tmp_path / "copilot.png", full_page=True)
        trace_url = page.locator("article.answer .steps a").get_attribute("href")
        request_url = page.locator("#request a").get_attribute("href")

        page.get_by_role("link", name="Errors").click()
        page.get_by_role("button", name="Raise a test error").click()
        expect(page.get_by_role("heading", name="Something went wrong")).to_be_visible()
        with page.expect_popup() as popup:
            page.get_by_role("link", name="See what was recorded").click()
        receivers_page = popup.value

        (signed_up,) = [s for s in receiver.wait_for(1, kind="track") if s["name"] == "user_signed_up"][:1]
        user = signed_up["user_id"]
        for kind, name in [
            ("track", "user_signed_up"),
            ("track", "connected_shopify"),
            ("trace", "copilot"),
            ("error", "DemoError"),
        ]:
            receivers_page.goto(f"{receiver.url}/?user={user}&kind={kind}")
            row = receivers_page.locator("tr", has_text=name).first
            expect(row).to_be_visible(timeout=20_000)
            expect(row).to_contain_text(user)

        receivers_page.locator("tr", has_text="DemoError").first.get_by_role("link").last.click()
        expect(receivers_page.get_by_role("heading", name="Request")).to_be_visible()
        expect(receivers_page.locator("main")).to_contain_text(user)
        expect(receivers_page.locator("main")).to_contain_text("/debug/error")
        receivers_page.screenshot(path=tmp_path / "request.png", full_page=True)

        assert trace_url
        assert request_url
        receivers_page.goto(trace_url)
        expect(receivers_page.locator("tr", has_text="answer")).to_contain_text(re.compile(r"input \d+, output \d+"))
        receivers_page.goto(request_url)
        line = receivers_page.locator(".line", has_text="copilot")
        trace = receivers_page.locator("main > .story > li", has=line).first
        expect(trace.locator("> .text.output")).to_contain_text(answer)
        call = trace.locator("li", has=receivers_page.locator("strong", has_text=re.compile("^answer$")))
        expect(call.locator(".facts").first).to_contain_text(re.compile(r"tokens\s*input [1-9]\d*, output [1-9]\d*"))
        expect(call.locator(".facts").first).to_contain_text("metricx-offline-1")
        expect(call.locator("> .text.output")).to_contain_text(answer)
        receivers_page.screenshot(path=tmp_path / "trace.png", full_page=True)

        page.goto(f"{demo.url}/debug")
        page.get_by_role("button", name="Report a handled error").click()
        with page.expect_popup() as popup:
            page.locator(".connected a").click()
        event_id = page.locator(".connected code").inner_text()
        popup.value.wait_for_load_state()
        receiver.wait_for(2, kind="error", user=user)
        popup.value.reload()
        expect(popup.value.locator("li:target")).to_contain_text(event_id)
        expect(popup.value.locator("li:target")).to_contain_text("This error was caught.")
        page.screenshot(path=tmp_path / "debug.png", full_page=True)
        page.goto(f"{demo.url}/nowhere")
        expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
        page.screenshot(path=tmp_path / "missing.png", full_page=True)

        page.goto(f"{demo.url}/copilot")
        page.get_by_label("Question").fill("What is the meaning of life?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("article.answer .text")).to_contain_text("I can answer questions about spend")
        page.screenshot(path=tmp_path / "declined.png", full_page=True)
