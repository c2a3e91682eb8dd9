"""The receiver's page in a real browser: it fills by itself, and what was sent to it never runs."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from .receiver_server import running_receiver
from .receiver_wire import RUDDERSTACK, post
from .test_browser import page, pytestmark
from .test_receiver_pages import EVIL, evil_signals

__all__ = ["page", "pytestmark"]


def test_the_list_fills_by_itself_and_clears(page: Page) -> None:
    """What arrives shows without a reload, under the strict policy; Clear asks first and empties the list."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(error.message))
    with running_receiver() as receiver:
        page.goto(receiver.url)
        expect(page.get_by_role("heading", name="Nothing has arrived yet")).to_be_visible()
        message = {"type": "track", "event": "bought", "userId": "ann", "messageId": "1"}
        post(receiver, RUDDERSTACK, {"batch": [message]})
        expect(page.locator("tr", has_text="bought")).to_be_visible(timeout=10_000)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_role("heading", name="Nothing has arrived yet")).to_be_visible()
        assert receiver.signals() == []
        assert complaints == []


def test_the_filters_lead_to_a_request(page: Page) -> None:
    """Filtering by kind and user leaves what matches; a row's request leads to its story."""
    with running_receiver() as receiver:
        batch = [
            {"type": kind, "event": kind, "userId": user, "messageId": kind + user, "context": {"request_id": user}}
            for kind in ("track", "group")
            for user in ("ann", "bob")
        ]
        post(receiver, RUDDERSTACK, {"batch": batch})
        page.goto(receiver.url)
        page.get_by_label("Kind").select_option("group")
        page.get_by_label("User").fill("bob")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.locator("td.id").get_by_role("link", name="bob").click()
        expect(page.get_by_role("heading", name="Request bob")).to_be_visible()
        expect(page.locator("ol.story > li")).to_have_count(2)


def test_scripts_in_every_field_never_run(page: Page, tmp_path: Path) -> None:
    """With scripts in every field of every kind of signal no dialog opens and no element of theirs exists."""
    dialogs: list[str] = []

    def opened(dialog: object) -> None:
        dialogs.append(str(dialog))

    page.on("dialog", opened)
    with running_receiver() as receiver:
        evil_signals(receiver)
        for path in ("/", "/requests/evil"):
            page.goto(receiver.url + path)
            expect(page.get_by_text(EVIL[:20]).first).to_be_visible()
            for summary in page.locator("summary").all():
                summary.click()
            assert page.locator("main script, main img, main [onerror]").count() == 0
        assert dialogs == []
