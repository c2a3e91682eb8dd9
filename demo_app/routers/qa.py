"""The copilot: understand the question, query the data, answer. Streamed, and traced step by step."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from demo_app.copilot.model import Model, ModelDep
from demo_app.copilot.query import Declined, Plan, run_query
from demo_app.database import EngineDep
from demo_app.pages import page
from demo_app.security import CurrentUser, SignedIn, require_user
from metricx_observe import ErrorReporter, ErrorReporterDep, LLMTracer, LLMTracerDep, Trace, Tracker, TrackerDep
from metricx_observe.events import CopilotQuerySent

router = APIRouter(tags=["qa"])

UNDERSTAND = (
    "Turn the question about ad metrics into a query. Reply with JSON only, by this schema: "
    + json.dumps(Plan.model_json_schema())
    + ' Where it is about anything else, reply with {"declined": "..."}: say in a sentence what you can answer.'
)
ANSWER = "Answer the question about ad metrics in two sentences at most, from the rows given and nothing else."


REPLY: TypeAdapter[Plan | Declined] = TypeAdapter(Plan | Declined)


class Question(BaseModel):
    question: str = Field(min_length=1, max_length=4_000)
    conversation_id: str | None = Field(None, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    """Made by the page: one per visit, so that the questions of a visit are one session in the traces."""


@router.get("/copilot", dependencies=[Depends(require_user)])
async def copilot_page(request: Request, model: ModelDep) -> Response:
    return page(request, "copilot.html", model=model.name)


@router.post("/qa")
async def ask(
    body: Question,
    user: CurrentUser,
    model: ModelDep,
    engine: EngineDep,
    llm: LLMTracerDep,
    tracker: TrackerDep,
    errors: ErrorReporterDep,
) -> StreamingResponse:
    """Server-sent events: `plan`, `rows`, `text` for each piece of the answer, then `done` or `failed`.

    A question that is not about the data has neither plan nor rows, and its answer is one `text`.
    """
    events = _told(body, user, model, engine, llm, tracker, errors)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _told(
    body: Question,
    user: SignedIn,
    model: Model,
    engine: Engine,
    llm: LLMTracer,
    tracker: Tracker,
    errors: ErrorReporter,
) -> AsyncIterator[str]:
    trace = llm.trace("copilot", input=body.question, session_id=body.conversation_id)
    try:
        with trace:
            async for event in answer(model, trace, engine, user.workspace_id, body.question):
                yield event
    except Exception as error:
        # The answer has begun, so no error handler can make it a 500: the page is told in the stream, and the error is
        # reported here. The `with` has marked the trace failed already.
        errors.capture_exception(error, extra={"llm_trace_id": trace.trace_id})
        yield _event("failed", {"message": "The copilot could not answer.", "url": trace.url})
        return
    tracker.track(CopilotQuerySent(question_length=len(body.question), workspace_id=user.workspace_id))
    yield _event("done", {"trace_id": trace.trace_id, "url": trace.url})


def _event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(jsonable_encoder(data))}\n\n"


async def answer(model: Model, trace: Trace, engine: Engine, workspace_id: str, question: str) -> AsyncIterator[str]:
    """The three steps, and what the page is told of each."""
    plan = await understand(model, trace, question)
    if isinstance(plan, Declined):
        trace.update(output=plan.declined)
        yield _event("text", plan.declined)
        return
    yield _event("plan", plan)

    with trace.tool("query_ad_metrics", input=plan.model_dump()) as tool:
        rows = await run_in_threadpool(run_query, engine, workspace_id, plan)
        tool.update(output=rows)
    yield _event("rows", rows)

    output, facts = "", {"question": question, "query": plan.model_dump(), "rows": rows}
    async for text in phrase(model, trace, facts):
        output += text
        yield _event("text", text)
    trace.update(output=output)


async def understand(model: Model, trace: Trace, question: str) -> Plan | Declined:
    """The first call: the question becomes a query, or a word on why it does not.

    Raises:
        pydantic.ValidationError: the model replied with something else.
    """
    with trace.generation("understand", model=model.name, input=_messages(UNDERSTAND, question)) as generation:
        async with model.stream(UNDERSTAND, question) as stream:
            reply = await stream.get_final_message()
        generation.record(reply)
        # Some models put their JSON between words or code fences.
        return REPLY.validate_json(re.sub(r"^[^{]*|[^}]*$", "", reply.content[0].text))


async def phrase(model: Model, trace: Trace, facts: dict[str, Any]) -> AsyncIterator[str]:
    """The second call: the rows become an answer, piece by piece."""
    prompt = json.dumps(facts)
    with trace.generation("answer", model=model.name, input=_messages(ANSWER, prompt)) as generation:
        async with model.stream(ANSWER, prompt) as stream:
            async for text in stream.text_stream:
                yield text
            generation.record(await stream.get_final_message())


def _messages(system: str, prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
