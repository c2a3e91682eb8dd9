"""The demo's copilot: the offline model, the query, the stream, and Claude through its SDK."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from sqlmodel import Session

from demo_app.copilot.model import Claude
from demo_app.copilot.offline import CONTEXT_WINDOW, DECLINED, ContextWindowError, OfflineModel, count_tokens
from demo_app.copilot.query import Declined, Plan, run_query
from demo_app.database import open_database
from demo_app.models import AdMetric
from demo_app.routers.qa import UNDERSTAND
from demo_app.seed import CAMPAIGNS, DAYS, ad_metrics
from tests.demo_server import Demo, running_demo

TODAY = date(2026, 1, 31)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setenv("ENVIRONMENT", "test")
    with running_demo(tmp_path) as running:
        yield running


def test_the_same_workspace_always_gets_the_same_data() -> None:
    """Seeded data is a function of workspace, channel and day, and different for another workspace."""
    first, again, other = (
        [row.model_dump() for channel in CAMPAIGNS for row in ad_metrics(workspace, channel, TODAY)]
        for workspace in ("one", "one", "two")
    )
    assert first == again
    assert first != other
    assert len(first) == DAYS * sum(map(len, CAMPAIGNS.values()))
    assert first[-1]["day"] == TODAY


def test_a_query_sees_its_workspace_and_its_days_only(tmp_path: Path) -> None:
    """Sums are those of the workspace's own rows; another workspace's never count, and no rows are no answer."""
    engine = open_database(f"sqlite:///{tmp_path}/q.db")
    rows = [row for channel in ("google_ads", "meta_ads") for row in ad_metrics("one", channel, TODAY)]
    week = [row for row in rows if (TODAY - row.day).days < 7 and row.channel == "meta_ads"]
    expected = round(sum(row.revenue_cents for row in week) / 100, 2)
    with Session(engine) as session:
        session.add_all([*rows, *ad_metrics("two", "meta_ads", TODAY)])
        session.commit()
        plan = Plan(metric="revenue", channel="meta_ads", days=7)
        assert run_query(engine, "one", plan) == [{"label": "meta_ads", "value": expected}]
    daily = run_query(engine, "one", Plan(metric="clicks", days=5, group_by="day"))
    assert [row["label"] for row in daily] == [f"2026-01-{day}" for day in range(27, 32)]
    for metric in ("roas", "cpa", "conversions", "spend"):
        campaigns = run_query(engine, "one", Plan.model_validate({"metric": metric, "group_by": "campaign"}))
        ranked = [row["value"] for row in campaigns]
        assert ranked == sorted(ranked, reverse=True)
    assert run_query(engine, "nobody", plan) == []
    engine.dispose()


def test_ratios_survive_days_without_spend(tmp_path: Path) -> None:
    """Nothing spent and nothing sold is no row, not a division by zero, and not the worst of all."""
    engine = open_database(f"sqlite:///{tmp_path}/q.db")
    nothing: dict[str, Any] = {"spend_cents": 0, "revenue_cents": 0, "clicks": 0, "conversions": 0}
    with Session(engine) as session:
        session.add(AdMetric(workspace_id="w", day=TODAY, channel="google_ads", campaign="c", **nothing))
        session.commit()
    for metric in ("roas", "cpa"):
        plan = Plan.model_validate({"metric": metric})
        assert run_query(engine, "w", plan) == []
    engine.dispose()


@pytest.mark.parametrize(
    ("question", "plan"),
    [
        ("Which campaign has the best ROAS?", Plan(metric="roas", group_by="campaign")),
        ("How much did we spend on Google in the last 14 days?", Plan(metric="spend", channel="google_ads", days=14)),
        ("Which channel brought the most revenue this week?", Plan(metric="revenue", days=7)),
        ("What is the cost per order of each campaign?", Plan(metric="cpa", group_by="campaign")),
        ("How many orders did the shop get?", Plan(metric="conversions", channel="shopify")),
        ("Show me the daily clicks from Meta", Plan(metric="clicks", channel="meta_ads", group_by="day")),
        ("How many conversions today?", Plan(metric="conversions", days=1)),
        ("How are our ads doing in 99 days?", Plan(metric="revenue", days=60)),
    ],
)
async def test_the_offline_model_understands(question: str, plan: Plan) -> None:
    """The demo's questions become the queries that a person would run, with true token counts."""
    async with OfflineModel(0).stream(UNDERSTAND, question) as stream:
        pieces = [piece async for piece in stream.text_stream]
        reply = await stream.get_final_message()
    text = reply.content[0].text
    assert "".join(pieces) == text
    assert Plan.model_validate_json(text) == plan
    assert reply.usage.input_tokens == count_tokens(UNDERSTAND) + count_tokens(question)
    assert reply.usage.output_tokens == count_tokens(text)


@pytest.mark.parametrize(
    "question",
    ["What is the meaning of life?", "Tell me about metaphysics", "Who learns from conversations?", "Hello", "?"],
)
async def test_the_offline_model_says_what_it_can_answer(question: str) -> None:
    """A question that names nothing of the data gets no figures."""
    async with OfflineModel(0).stream(UNDERSTAND, question) as stream:
        text = (await stream.get_final_message()).content[0].text
    assert Declined.model_validate_json(text).declined == DECLINED


def test_a_token_is_a_word_or_a_mark() -> None:
    """The rule that the offline model's counts state."""
    assert count_tokens("Which campaign has the best ROAS?") == 7
    assert count_tokens("") == 0


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ([], "There is no data"),
        ([{"label": "meta_ads", "value": 3}], r"^Meta Ads had the highest ROAS of the last 7 days with 3\.$"),
        ([{"label": "Shop", "value": 3}, {"label": "Brand", "value": 2}], r"^Shop .* Brand had the lowest with 2\.$"),
    ],
)
async def test_the_offline_model_answers_from_the_rows(rows: list[dict[str, Any]], answer: str) -> None:
    """It names what it was given and nothing else."""
    prompt = json.dumps({"question": "?", "query": {"metric": "roas", "days": 7}, "rows": rows})
    async with OfflineModel(0).stream("", prompt) as stream:
        assert re.search(answer, (await stream.get_final_message()).content[0].text)


async def test_the_offline_model_has_a_context_window() -> None:
    """A prompt that is too long is refused, as by a real one."""
    with pytest.raises(ContextWindowError, match="1001 tokens"):
        async with OfflineModel().stream("", "word " * (CONTEXT_WINDOW + 1)):
            raise AssertionError("it should have refused")


def test_the_answer_is_streamed(demo: Demo) -> None:
    """The page hears the query, the rows, the pieces of the answer and the end, in this order."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        demo.connect(browser, "google_ads")
        assert "metricx-offline-1" in browser.get("/copilot").text
        response, events = demo.ask(browser, "Which campaign has the best ROAS?")
    assert response.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in events]
    assert names[:2] == ["plan", "rows"]
    assert names[-1] == "done"
    assert set(names[2:-1]) == {"text"}
    assert len(names) > 5
    rows = events[1][1]
    assert "".join(data for name, data in events if name == "text").startswith(rows[0]["label"])


def test_before_a_connection_the_answer_says_what_is_missing(demo: Demo) -> None:
    """There are no figures to answer from."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        _, events = demo.ask(browser, "Which campaign has the best ROAS?")
    assert events[1] == ("rows", [])
    assert "connect an account" in "".join(data for name, data in events if name == "text")


def test_what_is_not_about_the_data_gets_no_figures(demo: Demo) -> None:
    """No query is run for it: one text says what can be asked, and the stream ends as that of any answer."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        _, events = demo.ask(browser, "What is the meaning of life?")
    assert events[0] == ("text", DECLINED)
    assert [name for name, _ in events] == ["text", "done"]


def test_a_failing_model_ends_the_stream_with_a_failure(demo: Demo) -> None:
    """The page hears of it in the stream, without the error's text."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        _, events = demo.ask(browser, "word " * 799)
    assert [name for name, _ in events] == ["failed"]
    assert "tokens" not in json.dumps(events)


def test_an_empty_question_is_refused(demo: Demo) -> None:
    """There is nothing to ask."""
    with demo.browser() as browser:
        demo.sign_up(browser)
        assert browser.post("/qa", json={"question": ""}).status_code == 422


@contextmanager
def anthropic_stand_in(replies: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that streams these texts as the Messages API does; yields its address and the requests it got."""
    app, requests = FastAPI(), []

    @app.post("/v1/messages")
    async def messages(request: Request) -> Response:
        requests.append({"key": request.headers["authorization"], **await request.json()})
        if not replies:
            return JSONResponse({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, 400)
        text = replies.pop(0)
        half = len(text) // 2
        message: dict[str, Any] = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-as-served", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 42, "output_tokens": 1},
        }  # fmt: skip
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text[:half]}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text[half:]}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 17},
            },
            {"type": "message_stop"},
        ]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return Response(body, media_type="text/event-stream")

    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            server.should_exit = True
            thread.join(20)


PLAN = '{"metric": "spend", "channel": null, "days": 7, "group_by": "channel"}'


def test_with_a_key_claude_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real SDK asks the address it is given, with the key and the model of the settings; fences are no obstacle."""
    monkeypatch.setenv("ENVIRONMENT", "test")
    replies = [f"```json\n{PLAN}\n```", "Google was the largest."]
    with anthropic_stand_in(replies) as (url, requests):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        with running_demo(tmp_path, ANTHROPIC_API_KEY="key-1", anthropic_model="claude-x") as demo:
            assert isinstance(demo.app.state.model, Claude)
            with demo.browser() as browser:
                demo.sign_up(browser)
                _, events = demo.ask(browser, "What did we spend?")
                assert events[0] == ("plan", json.loads(PLAN))
                assert "".join(data for name, data in events if name == "text") == "Google was the largest."
                assert [(sent["key"], sent["model"]) for sent in requests] == [("Bearer key-1", "claude-x")] * 2
                replies.append('{"declined": "Ask me about ads."}')
                _, events = demo.ask(browser, "Why?")
                assert events[0] == ("text", "Ask me about ads.")
                _, events = demo.ask(browser, "And now?")
                assert [name for name, _ in events] == ["failed"]
