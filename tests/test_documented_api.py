"""The users' document: every Python block of it runs as it stands, and what it sends arrives."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

import metricx_observe
from metricx_observe import Observability, events
from metricx_observe.ids import new_id

from .processes import CHECKOUT
from .receiver_server import Receiver
from .support import call, observed

DOCUMENT = (CHECKOUT / "docs" / "observability-stack.md").read_text()


def blocks(section: str, language: str = "python") -> list[str]:
    """The code blocks under a heading of the document, up to the next heading of any level."""
    text = re.split(r"^##+ ", DOCUMENT, flags=re.M)  # one # is a comment in a block
    (body,) = (part for part in text if part.startswith(f"{section}\n"))
    return re.findall(rf"^```{language}\n(.*?)^```$", body, re.M | re.S)


class _Returned(ast.NodeTransformer):
    """Keeps what each call on a line of its own returns, which the document lets fall."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        keep = ast.Name("_returned", ast.Load())
        call = ast.Call(ast.Attribute(keep, "append", ast.Load()), [node.value], [])
        return ast.copy_location(ast.Expr(call), node)


def run(code: str, names: dict[str, Any]) -> list[Any]:
    """Run a block with these names; what its calls returned, in order."""
    tree = ast.fix_missing_locations(_Returned().visit(ast.parse(code)))
    returned = names["_returned"] = []
    exec(compile(tree, "observability-stack.md", "exec"), names)
    return returned


def risky_operation() -> None:
    raise RuntimeError("the risky operation failed")


def users_names() -> dict[str, Any]:
    """What the document's blocks take for granted, with a user of this test's own."""
    user = SimpleNamespace(id=f"user-{new_id()}", email="ada@example.com")
    return {
        "__name__": "app.main",
        "user": user,
        "workspace": SimpleNamespace(id="w-7"),
        "workspace_id": "w-7",
        "question": "Which campaign has the best ROAS?",
        "messages": [{"role": "user", "content": "Which campaign?"}],
        "response": "the ROAS of each campaign",
        "answer": "Summer Sale",
        "risky_operation": risky_operation,
    }


@pytest.fixture
def running(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observability]:
    monkeypatch.setattr(Observability, "default", None)
    with observed(receiver) as observability:
        observability.start()
        yield observability


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def run_in(place: str, observability: Observability, code: str, names: dict[str, Any]) -> list[Any]:
    """Run a block of the document in a script, in an `async def` route or in a `def` route."""
    if place == "script":
        return run(code, names)
    app = FastAPI()
    observability.install(app)
    returned: list[Any] = []

    async def in_async_route() -> None:
        returned.extend(run(code, names))

    def in_sync_route() -> None:
        returned.extend(run(code, names))

    app.get("/block")(in_async_route if place == "async route" else in_sync_route)
    answer = await call(app, "/block", headers={"x-request-id": names["user"].id})
    assert answer.status == 200
    return returned


async def sent(observability: Observability, receiver: Receiver, n: int, **filters: Any) -> list[dict[str, Any]]:
    """What arrived of this user or request."""
    assert await asyncio.to_thread(observability.flush, 10)
    return await receiver.await_for(n, **filters)


def arrived(signal: dict[str, Any], place: str, user_id: str) -> bool:
    """Whether a signal has the user, the workspace, and in a request its id."""
    request_id = None if place == "script" else user_id
    return (signal["user_id"], signal["request_id"]) == (user_id, request_id)


def attributes(signal: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = signal["payload"]["attributes"]
    return {key.removeprefix("langfuse."): value for key, value in found.items()}


everywhere = pytest.mark.parametrize("place", ["script", "async route", "sync route"], indirect=True)


@everywhere
async def test_tracking_user_events(running: Observability, receiver: Receiver, place: str) -> None:
    """`identify` and `track` send what the document shows, under the ids that they return."""
    names = users_names()
    (block,) = blocks("Tracking User Events")
    identified, tracked = await run_in(place, running, block, names)
    signals = {signal["kind"]: signal for signal in await sent(running, receiver, 2, user=names["user"].id)}
    assert {kind: signal["id"] for kind, signal in signals.items()} == {"identify": identified, "track": tracked}
    assert all(arrived(signal, place, names["user"].id) for signal in signals.values())
    traits = signals["identify"]["payload"]["context"]["traits"]
    assert traits == {"email": "ada@example.com", "workspace_id": "w-7"}
    track = signals["track"]["payload"]
    assert (track["event"], track["properties"]) == ("feature_used", {"feature": "export", "format": "csv"})


@everywhere
async def test_tracking_llm_calls(running: Observability, receiver: Receiver, place: str) -> None:
    """The trace and its generation arrive with model, input, output, usage, latency, user and workspace."""
    names = users_names()
    first, _ = blocks("Tracking LLM Calls")
    generation_id, _ = await run_in(place, running, first, names)
    signals = {signal["kind"]: signal for signal in await sent(running, receiver, 2, user=names["user"].id)}
    trace, generation = signals["trace"], signals["generation"]
    assert (trace["id"], trace["trace_id"]) == (names["trace"].id, names["trace"].trace_id)
    assert (generation["id"], generation["trace_id"]) == (generation_id, names["trace"].trace_id)
    assert generation["parent_id"] == trace["id"]
    for signal in (trace, generation):
        assert arrived(signal, place, names["user"].id)
        assert signal["workspace_id"] == "w-7"
    call = attributes(generation)
    assert call["observation.model.name"] == "claude-sonnet-4-20250514"
    assert json.loads(call["observation.input"]) == names["messages"]
    assert call["observation.output"] == names["response"]
    assert json.loads(call["observation.usage_details"]) == {"input": 100, "output": 50, "total": 150}
    whole = attributes(trace)
    assert (whole["observation.input"], whole["observation.output"]) == (names["question"], names["answer"])
    assert whole["trace.metadata.total_tokens"] == "150"
    payload = trace["payload"]
    assert int(payload["endTimeUnixNano"]) - int(payload["startTimeUnixNano"]) == 1_500_000_000


@everywhere
async def test_an_answer_that_failed(running: Observability, receiver: Receiver, place: str) -> None:
    """`success=False` makes the trace an ERROR with the given reason."""
    names = {**users_names(), **vars(metricx_observe)}
    await run_in(place, running, blocks("Tracking LLM Calls")[1], {**names, "__name__": "app.main"})
    (trace,) = await sent(running, receiver, 1, user=names["user"].id, kind="trace")
    assert attributes(trace)["observation.level"] == "ERROR"
    assert attributes(trace)["observation.status_message"] == "The model did not answer in time"


@everywhere
async def test_error_context(running: Observability, receiver: Receiver, place: str) -> None:
    """The exception arrives with the user of `set_user_context`, and `extra` as Sentry's extra."""
    names = users_names()
    (block,) = blocks("Error Context")
    _, captured = await run_in(place, running, block, names)
    (error,) = await sent(running, receiver, 1, user=names["user"].id, kind="error")
    assert error["id"] == captured
    assert error["workspace_id"] == "w-7"
    if place != "script":
        assert arrived(error, place, names["user"].id)
    event = error["payload"]
    assert event["user"] == {"id": names["user"].id, "email": "ada@example.com"}
    assert event["extra"]["operation"] == "risky"
    assert event["exception"]["values"][-1]["value"] == "the risky operation failed"


async def test_initialize_and_the_dependencies(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`init_observability(app)` of the document's app/main.py serves its route with the three dependencies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Observability, "default", None)
    monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
    monkeypatch.setenv("METRICX_OUTBOX_URL", "memory://")
    monkeypatch.setenv("ENVIRONMENT", "development")
    names = users_names()
    (states,) = run(blocks("3. Initialize")[0], names)
    assert Observability.default is not None
    try:
        assert states == dict.fromkeys(("sentry", "analytics", "langfuse"), f"local: {receiver.url}")
        (line,) = (record for record in caplog.records if "Observability:" in record.getMessage())
        assert (line.name, line.levelname) == ("app.main", "WARNING")
        run(blocks("The same by dependency")[0], names)
        answer = await call(names["app"], "/qa?question=why", method="POST")
        assert json.loads(answer.body) == names["answer"]
        signals = await sent(Observability.default, receiver, 4, request_id=answer.headers["x-request-id"])
        assert {signal["kind"] for signal in signals} == {"track", "generation", "trace", "transaction"}
        assert {(signal["user_id"], signal["workspace_id"]) for signal in signals} == {(names["user"].id, "w-7")}
    finally:
        Observability.default.close()


def test_the_log_format(running: Observability, capsys: pytest.CaptureFixture[str]) -> None:
    """The block on logging gives the application's lines their request and user."""
    logger = logging.getLogger("app")
    before = list(logger.handlers)
    try:
        run(blocks("Logging Levels")[0], {"__name__": "app.main"})
        with running.context(user_id="42") as context:
            logging.getLogger("app.billing").warning("paid")
        assert capsys.readouterr().err == f"WARNING:app.billing:paid [request_id={context.request_id} user_id=42]\n"
    finally:
        logger.handlers[:] = before


def test_every_python_block_is_tested() -> None:
    """No Python block stands in the document that no test here runs."""
    sections = (
        "3. Initialize", "Logging Levels", "Tracking User Events", "Tracking LLM Calls", "Error Context",
        "The same by dependency",
    )  # fmt: skip
    assert sum(len(blocks(section)) for section in sections) == DOCUMENT.count("```python")


def test_the_documented_events_are_classes() -> None:
    """The document's table of events and the classes have the same names and properties."""
    table = re.findall(r"^\| `([a-z_]+)` \|[^|]*\| ([a-z_, ]+) \|$", DOCUMENT.partition("**Events tracked")[2], re.M)
    assert len(table) == 6
    known = {event.name: set(event.model_fields) for event in vars(events).values()
             if isinstance(event, type) and issubclass(event, events.Event) and event is not events.Event}  # fmt: skip
    assert {name: set(properties.split(", ")) for name, properties in table} == known


def test_the_packages_of_the_document_are_what_we_use() -> None:
    """`pip show sentry-sdk langfuse rudder-sdk-python` finds what the extra `all` installs."""
    (command,) = re.findall(r"`pip show ([^`]+)`", DOCUMENT)
    for name in command.split():
        assert version(name)


def test_the_files_of_the_document_exist() -> None:
    """The table of files names no file that is not there."""
    table = re.findall(r"^\| `([\w/]+\.py)` \|", DOCUMENT, re.M)
    assert len(table) == 9
    assert [name for name in table if not (CHECKOUT / name).is_file()] == []
