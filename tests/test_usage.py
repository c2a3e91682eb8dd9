"""Model, output and token usage of the providers' own response objects, and of objects and dicts like theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import make_dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import orjson
import pytest
from anthropic.types import CacheCreation, Message, TextBlock, ToolUseBlock, Usage
from pydantic import BaseModel, ConfigDict

from metricx_observe import InputError, Observability, complete_copilot_trace, create_copilot_trace, log_generation
from metricx_observe.signals.usage import read_response, usage_details

from .receiver_server import Receiver
from .support import observed


def summed(details: dict[str, int], side: str) -> int:
    """As Langfuse adds up: every key that contains the word."""
    return sum(count for key, count in details.items() if side in key)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input": 100, "output": 50, "total": 150}, {"input": 100, "output": 50, "total": 150}),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, {"input": 3, "output": 4, "total": 7}),
        ({"input_tokens": 3, "output_tokens": 4}, {"input": 3, "output": 4}),
        ({"input": 1.9, "output": True, "total": None, "x": "5", "nan": float("nan"), "neg": -1, "big": 1 << 60},
         {"input": 1}),
        ({}, {}), ("many", {}), (None, {}), (7, {}), ([1], {}),
    ],
)  # fmt: skip
def test_counts_are_whole_numbers_by_kind(usage: object, expected: dict[str, int]) -> None:
    """Providers' names become Langfuse's; what is no count is left out."""
    assert usage_details(usage) == expected


def test_anthropics_message() -> None:
    """Its cached tokens stand beside `input_tokens`, so all of them add up; the nested breakdown is not added again."""
    message = Message(
        id="m", model="claude-x", role="assistant", type="message", stop_reason="end_turn",
        content=[TextBlock(type="text", text="because"), ToolUseBlock(type="tool_use", id="t", name="f", input={})],
        usage=Usage(
            input_tokens=10, output_tokens=5, cache_read_input_tokens=100, cache_creation_input_tokens=20,
            cache_creation=CacheCreation(ephemeral_5m_input_tokens=20, ephemeral_1h_input_tokens=0),
        ),
    )  # fmt: skip
    found = read_response(message, [])
    assert (found["model"], found["metadata"]) == ("claude-x", {"stop_reason": "end_turn"})
    assert found["output"] == [block.model_dump() for block in message.content]
    details = usage_details(found["usage"])
    assert details == {
        "input": 10, "output": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20,
    }  # fmt: skip
    assert summed(details, "input") == 130


CHAT: dict[str, Any] = {
    "id": "c", "model": "gpt-x", "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "because"}}],
    "usage": {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 80, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30, "accepted_prediction_tokens": 0},
    },
}  # fmt: skip
RESPONSE: dict[str, Any] = {
    "id": "r", "model": "gpt-y", "object": "response",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "because"}]}],
    "usage": {
        "input_tokens": 100, "output_tokens": 50, "total_tokens": 150,
        "input_tokens_details": {"cached_tokens": 80}, "output_tokens_details": {"reasoning_tokens": 30},
    },
}  # fmt: skip


class Loose(BaseModel):
    """As the SDKs' models: whatever came is an attribute."""

    model_config = ConfigDict(extra="allow")


def made_of(value: Any, make: Any) -> Any:
    """The same with `make(fields)` in place of each dict."""
    if isinstance(value, dict):
        return make({key: made_of(item, make) for key, item in value.items()})
    return [made_of(item, make) for item in value] if isinstance(value, list) else value


class Plain:
    """An object of nobody's making, with something that is nobody's business."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)
        self.api_key = "SECRET"


def with_slots(fields: dict[str, Any]) -> Any:
    """An object without a `__dict__`."""
    made = type("Slotted", (), {"__slots__": tuple(fields)})()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


MAKERS: dict[str, Any] = {
    "dict": dict,
    "model": lambda fields: Loose(**fields),
    "namespace": lambda fields: SimpleNamespace(**fields),
    "dataclass": lambda fields: make_dataclass("Reply", fields)(**fields),
    "object": Plain,
    "slots": with_slots,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("response", [CHAT, RESPONSE], ids=["chat", "responses"])
def test_openais_responses(response: dict[str, Any], make: Any) -> None:
    """Cached and reasoning tokens are part of the totals there: each token is counted once."""
    notes: list[str] = []
    found = read_response(made_of(response, make), notes)
    assert notes == []
    assert found["model"] == response["model"]
    assert "because" in str(found["output"])
    assert "SECRET" not in str(found["output"])
    details = usage_details(found["usage"])
    assert details == {
        "input": 20, "input_cached_tokens": 80, "output": 20, "output_reasoning_tokens": 30, "total": 150,
    }  # fmt: skip
    assert (summed(details, "input"), summed(details, "output")) == (100, 50)


@pytest.mark.parametrize("response", [{}, "text", None, object(), Mock(spec=[]), {"choices": []}, {"choices": [{}]}])
def test_what_is_no_response_is_the_output(response: object) -> None:
    """Nothing is invented for what a provider did not say, nothing is lost, and it is noted."""
    notes: list[str] = []
    found = read_response(response, notes)
    assert (found["model"], found["usage"], found["metadata"]) == (None, None, None)
    assert notes[0] == "unreadable response"
    assert found["output"] == (response if isinstance(response, (dict, str)) else found["output"])


def test_a_mock_ends() -> None:
    """What has every attribute that it is asked for is not followed into the depth."""
    found = read_response(Mock(content=[Mock()], usage=Mock()), [])
    assert len(str(found["output"])) < 1_000
    assert usage_details(found["usage"]) == {}


@pytest.fixture
def running(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observability]:
    """With the documented functions."""
    monkeypatch.setattr(Observability, "default", None)
    with observed(receiver) as observability:
        observability.start()
        yield observability


def generation(running: Observability, receiver: Receiver, user: str) -> tuple[Any, Any, Any]:
    """Model, output and usage of this user's generation, as they arrived."""
    assert running.flush(10)
    (signal,) = receiver.wait_for(1, kind="generation", user=user)
    found = {key.removeprefix("langfuse.observation."): item for key, item in signal["payload"]["attributes"].items()}
    usage = found.get("usage_details")
    return found.get("model.name"), found.get("output"), usage and orjson.loads(usage)


REPLY = {
    "model": "m-1", "content": [{"type": "text", "text": "because"}], "stop_reason": "end_turn",
    "usage": {"input_tokens": 7, "output_tokens": 3},
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_output_model_and_tokens_of_any_object_arrive(running: Observability, receiver: Receiver, make: Any) -> None:
    """`record` sends the same of whatever has the SDK's attributes, and nothing else of it; nothing is a fault."""
    user = uuid4().hex
    with running.llm.trace("copilot", user_id=user) as trace, trace.generation("answer") as call:
        call.record(made_of(REPLY, make))
    model, output, usage = generation(running, receiver, user)
    assert (model, orjson.loads(output), usage) == ("m-1", REPLY["content"], {"input": 7, "output": 3})
    assert running.status()["faults"] == {}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_logged_usage_may_be_any_object(running: Observability, receiver: Receiver, make: Any) -> None:
    """`log_generation(usage=...)` and `update(usage=...)` count what has the attributes of a provider's usage."""
    one, two, usage = uuid4().hex, uuid4().hex, made_of(CHAT["usage"], make)
    trace = create_copilot_trace(one, "w1", "why?")
    log_generation(trace, "answer", "m-1", [], "because", usage)
    complete_copilot_trace(trace, True, "because")
    with running.context(user_id=two):
        running.llm.generation("answer", model="m-1").update(output="because", usage=usage).end()
    counts = {"input": 20, "input_cached_tokens": 80, "output": 20, "output_reasoning_tokens": 30, "total": 150}
    assert generation(running, receiver, one) == generation(running, receiver, two) == ("m-1", "because", counts)
    assert running.status()["faults"] == {}


def test_what_cannot_be_read_is_the_output_and_a_fault(running: Observability, receiver: Receiver) -> None:
    """A response of another shape is kept, with what is inside it, and `status()` counts it."""
    user = uuid4().hex
    with running.context(user_id=user), running.llm.generation("answer", model="m-1") as call:
        call.record({"model": "m-2", "candidates": [SimpleNamespace(said="because")]})
    model, output, usage = generation(running, receiver, user)
    assert (model, usage) == ("m-2", None)
    assert orjson.loads(output) == {"model": "m-2", "candidates": [{"said": "because"}]}
    assert running.status()["faults"] == {"generation: unreadable response": 1}


def test_strict_mode_raises_for_what_cannot_be_read(receiver: Receiver) -> None:
    """With METRICX_STRICT it is an InputError."""
    with observed(receiver, strict=True) as observability, pytest.raises(InputError, match="unreadable response"):
        observability.llm.generation("answer").record("because")
