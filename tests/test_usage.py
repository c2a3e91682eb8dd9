"""Token usage of the providers' own response objects."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import CacheCreation, Message, TextBlock, ToolUseBlock, Usage
from pydantic import BaseModel, ConfigDict

from metricx_observe.usage import read_response, usage_details


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
    found = read_response(message)
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


def as_model(value: Any) -> Any:
    """The same as the SDK's objects: attributes instead of keys."""
    if isinstance(value, dict):
        return Loose(**{key: as_model(item) for key, item in value.items()})
    return [as_model(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("make", [dict, as_model], ids=["dict", "model"])
@pytest.mark.parametrize("response", [CHAT, RESPONSE], ids=["chat", "responses"])
def test_openais_responses(response: dict[str, Any], make: Any) -> None:
    """Cached and reasoning tokens are part of the totals there: each token is counted once."""
    found = read_response(make(response))
    assert found["model"] == response["model"]
    assert "because" in str(found["output"])
    details = usage_details(found["usage"])
    assert details == {
        "input": 20, "input_cached_tokens": 80, "output": 20, "output_reasoning_tokens": 30, "total": 150,
    }  # fmt: skip
    assert (summed(details, "input"), summed(details, "output")) == (100, 50)


@pytest.mark.parametrize("response", [{}, "text", None, object(), {"choices": []}, {"choices": [{}]}])
def test_what_is_no_response_gives_nothing(response: object) -> None:
    """Nothing is invented for what a provider did not say."""
    assert read_response(response) == {}
