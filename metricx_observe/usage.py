"""Token usage as Langfuse counts it, and what a provider's response says.

Langfuse adds up every key that contains `input`, so a count that includes its cached part must not stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {"input_tokens": "input", "prompt_tokens": "input", "output_tokens": "output", "completion_tokens": "output",
          "total_tokens": "total"}  # fmt: skip


def usage_details(usage: object) -> dict[str, int]:
    """`usage` (a mapping or a provider's usage object) as Langfuse's usage details: whole numbers by kind.

    Anthropic's `input_tokens` leaves out what was cached; OpenAI's `prompt_tokens` and `input_tokens` include it when
    there are `…_tokens_details`, so the cached part is taken off.
    """
    details = {_NAMES.get(key, key): count for key, count in _counts(usage)}
    for side, total in (("input", ("prompt", "input")), ("output", ("completion", "output"))):
        for prefix in total:
            parts = {key: count for key, count in _counts(_get(usage, f"{prefix}_tokens_details")) if count}
            kept = {key: count for key, count in parts.items() if key in ("cached_tokens", "reasoning_tokens")}
            for key, count in kept.items():
                details[f"{side}_{key}"] = count
                details[side] = max(details.get(side, 0) - count, 0)
    return details


def read_response(response: object) -> dict[str, Any]:
    """`model`, `output` and `usage` of a provider's response, for `Generation.update`."""
    found: dict[str, Any] = {"model": _get(response, "model"), "usage": _get(response, "usage")}
    choices = _get(response, "choices")
    if choices:  # OpenAI chat completions
        found["output"] = _get(choices[0], "message") or _get(choices[0], "text")
    else:  # Anthropic messages, OpenAI responses
        found["output"] = _get(response, "content") or _get(response, "output")
    parameters = {"stop_reason": _get(response, "stop_reason")}
    metadata = {key: value for key, value in parameters.items() if value is not None}
    return {key: value for key, value in {**found, "metadata": metadata or None}.items() if value is not None}


def _counts(usage: object) -> Iterator[tuple[str, int]]:
    fields: Any = usage if isinstance(usage, Mapping) else getattr(usage, "__dict__", {})
    for key, count in fields.items():
        if isinstance(count, (int, float)) and not isinstance(count, bool) and 0 <= count < 2**53:
            yield str(key), int(count)


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
