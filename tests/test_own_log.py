"""Our own log and status repeat no user's text: a name is shown where it looks like one from the application's code."""

from __future__ import annotations

import json
import logging
from typing import ClassVar

import pytest
from fastapi import FastAPI

from metricx_observe.events import DOCUMENTED, Event, UserSignedUp

from .receiver_server import Receiver
from .support import call, observed

TEXTS = {
    "a person": "search: ann smith",
    "an address": "invited ann@example.com",
    "an address alone": "ann@example.com",
    "a phone number": "call +12025550146",
    "digits": "order_4111111111111111",
    "a vendor's key": "sk-ant-api03-0123456789abcdefghij",
    "a random text": "used_9f8a7b6c5d4e3f2a1b0c",
    "an uuid": "job-0f8fad5b-d9cb-469f-a165-70867728950e",
    "another language": "поиск: анна",
    "lines": "one\ntwo",
    "quotes": 'it\'s "quoted"',
    "an assignment": "token=hunter2",
    "a long one": "word_" * 60,
    "markup": "[/bold]x",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
async def test_a_users_text_as_a_name_is_nowhere(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """As the name of an event, page, trace, generation, tool or score, of a property or a field: only its length."""
    caplog.set_level(logging.DEBUG, logger="metricx_observe")
    app = FastAPI()
    with observed(receiver) as observability:
        observability.install(app, health_path="/health/observability")
        tracker, llm = observability.tracker, observability.llm
        tracker.track(text, {text: "x" * 200, f"{text}-": 1, "bad": float("nan")})
        tracker.page(text, category=text)
        with llm.trace(text, tags=[text], metadata={text: text}) as trace:
            with trace.generation(text, model=text) as generation:
                generation.update(**{text: 1})
            with trace.tool(text):
                pass
            trace.update(**{text: 1}, level=text, completion_start_time=text)
            trace.score(text, float("nan"))
        observability.errors.capture_message("no", level=text)
        assert observability.flush(10)
        health = await call(app, "/health/observability")
        metrics = await call(app, "/health/observability", headers={"accept": "text/plain"})
        status = observability.status()
    part = text.split()[-1][:20].strip("'\"")
    shown = [json.dumps(status, ensure_ascii=False), health.body.decode(), metrics.body.decode(), caplog.text]
    assert [part in each for each in shown] == [False] * 4
    assert "[name of " in caplog.text
    assert any("[name of " in kind for kind in status["faults"])


class PlanChosen(Event):
    """An event of the application's."""

    name: ClassVar[str] = "plan_chosen2b3c"
    plan: str


def test_names_from_code_are_shown(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Documented and declared events, and plain names of the usual forms."""
    caplog.set_level(logging.INFO, logger="metricx_observe")
    plain = [*DOCUMENTED, "feature_used", "Checkout.step-2", "cart:add", "app/orders/v2", "viewItem", "step_3b", "_own"]
    with observed(receiver) as observability:
        ids = [observability.tracker.track(name) for name in plain]
        plan = observability.tracker.track(PlanChosen(plan="pro"))
        signed_up = observability.tracker.track(UserSignedUp(email="ann@example.com", workspace_id="w-1"))
        page = observability.tracker.page("pricing")
        with observability.llm.trace("copilot-query") as trace:
            pass
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    for name, id in zip([*plain, PlanChosen.name, "user_signed_up"], [*ids, plan, signed_up], strict=True):
        assert f"track {name} id={id}" in lines
    assert f"page pricing id={page}" in lines
    assert any(f"copilot-query trace_id={trace.trace_id}" in each for each in lines)


def test_kinds_of_fault_stay_few(receiver: Receiver) -> None:
    """Names without number lead to as many kinds as they have lengths."""
    with observed(receiver) as observability:
        for number in range(300):
            observability.tracker.track(f"search: {number:06}")
        assert len(observability.status()["faults"]) == 1
