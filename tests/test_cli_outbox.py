"""`metricx-observe outbox` and `scrub`, on an outbox that an application has left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metricx_observe import cli
from metricx_observe.delivery.outbox.upkeep import opened
from metricx_observe.observability import Observability
from metricx_observe.settings import load_settings

from .receiver_server import running_receiver

KEYS = {
    "ENVIRONMENT": "production",
    "RUDDERSTACK_WRITE_KEY": "first-write-key",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
}
"""Nothing listens on port 9: what is put waits."""


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outbox with three events, of an application that has ended; the environment is still the application's."""
    path = tmp_path / "outbox.db"
    for name, value in {**KEYS, "METRICX_OUTBOX_URL": f"sqlite:///{path}"}.items():
        monkeypatch.setenv(name, value)
    observability = Observability(load_settings({}))
    for n in range(3):
        observability.tracker.track(f"event_{n}", {"secret_note": "Ada's own words"}, user_id=f"user-{n}")
    observability.close(deadline_s=0.0)
    return path


def run(*arguments: str, code: int = 0) -> str:
    """What the command prints."""
    result = CliRunner().invoke(cli.app, ["outbox", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_status_and_list_show_what_waits_and_no_content(left: Path) -> None:
    """Ids, names, users and counts; nothing of a message's properties."""
    assert "3" in run("status")
    listed = run("list")
    assert all(f"event_{n}" in listed and f"user-{n}" in listed for n in range(3))
    assert "own words" not in listed + run("status")


NAMES = [
    "[/x]", "[bold red]a[/]", "[link=https://example.org]b", ":smile:", "\x1b[2Jc", "\x1b]0;d\x07", "e\nf", "\r\tg",
    "\u202eh", "\u2066i", "\x9b31mj", "\x00k", "\u2028l", "[", "\\[m]", "\U000e0041n", "\u200bo",
]  # fmt: skip
"""Rich markup, an emoji code, control sequences, ends of lines and changes of direction."""


def test_names_are_shown_as_they_are_and_control_nothing(left: Path) -> None:
    """What a user's text says is text: no markup, no escape sequence, no new row, whatever it holds."""
    with opened(f"sqlite://{left}") as outbox:
        stream = next(stream for stream, _ in outbox.scan())
        fields = ({key: f"{key} {name}" for key in ("event", "userId", "messageId")} for name in NAMES)
        outbox.add([(stream, json.dumps({"type": "track", **each}).encode()) for each in fields])
    listed = run("list", "--limit", "1000")
    assert "[/x]" in listed
    assert ":smile:" in listed
    assert r"\u001b[2Jc" in listed
    assert r"\u202eh" in listed
    assert all(each.isprintable() for each in listed.replace("\n", ""))
    assert len([row for row in listed.splitlines() if "user" in row]) == 3 + len(NAMES)


def test_rows_of_a_rotated_key_are_shown_and_moved_to_the_current_one(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose destination is gone say so; `retry --to-current` gives them to today's key, and they arrive."""
    with running_receiver() as receiver:
        monkeypatch.setenv("RUDDERSTACK_WRITE_KEY", "second-write-key")
        monkeypatch.setenv("RUDDERSTACK_DATA_PLANE_URL", receiver.url)
        assert "gone" in run("status")
        assert "3 messages" in run("retry", "--to-current")
        assert "gone" not in run("status")
        observability = Observability(load_settings({}))
        observability.start()
        assert {each["name"] for each in receiver.wait_for(3, kind="track")} == {"event_0", "event_1", "event_2"}
        observability.close()


def test_export_writes_whole_messages_and_purge_deletes_them(left: Path) -> None:
    """Each line of the export is one message; a purge asks first, and leaves what waits unless told otherwise."""
    lines = [json.loads(line) for line in run("export").splitlines()]
    assert [line["vendor"] for line in lines] == ["rudderstack"] * 3
    assert run("purge", code=1)
    assert "0 messages" in run("purge", "--yes")
    assert "3 messages" in run("purge", "--waiting", "--yes")
    assert run("export") == ""


@pytest.mark.parametrize(("url", "told"), [("memory://", "in memory"), ("sqlite:////nowhere/x.db", "no outbox at")])
def test_an_outbox_that_cannot_be_looked_at_is_named(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has nothing to look at from outside, and a wrong path is not made into an empty outbox."""
    monkeypatch.setenv("METRICX_OUTBOX_URL", url)
    monkeypatch.setenv("ENVIRONMENT", "development")  # under pytest all is in memory
    result = CliRunner().invoke(cli.app, ["outbox", "status"])
    assert told in str(result.exception)


def test_scrub_shows_what_is_left_and_the_rules_that_took_the_rest(tmp_path: Path) -> None:
    """The secret is a marker, the rest is as it was, and the report goes to stderr; what is no JSON is named."""
    file = tmp_path / "mine.json"
    file.write_text('{"password": "hunter22", "token_count": 7}')
    result = CliRunner().invoke(cli.app, ["scrub", str(file)])
    assert json.loads(result.stdout)["token_count"] == 7
    assert "hunter22" not in result.output
    assert "name: 1" in result.stderr
    file.write_text("{")
    assert "no JSON" in str(CliRunner().invoke(cli.app, ["scrub", str(file)]).exception)
    assert "cannot be read" in str(CliRunner().invoke(cli.app, ["scrub", str(tmp_path / "none")]).exception)
