"""Token usage and costs as Langfuse counts them, and what a provider's response says.

Langfuse adds up every key that contains `input`, so a count that includes its cached part must not stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metricx_observe.interrupts import suppress_faults
from metricx_observe.normalise import Notes, plain

_NAMES = {"input_tokens": "input", "prompt_tokens": "input", "output_tokens": "output", "completion_tokens": "output",
          "total_tokens": "total"}  # fmt: skip
_DETAILS = {"prompt_tokens_details": "input", "input_tokens_details": "input",
            "completion_tokens_details": "output", "output_tokens_details": "output"}  # fmt: skip
_PLAIN = frozenset({"input", "output", "total"})
_MOST = 2**53
"""What a JSON number holds exactly."""
_PARTS = ("cached_tokens", "reasoning_tokens")
_COUNTS = (*_NAMES, *_DETAILS, *_PLAIN, *_PARTS, "cache_read_input_tokens", "cache_creation_input_tokens")
_CONTENT = ("type", "role", "text", "content", "tool_calls", "function", "id", "name", "arguments", "input", "refusal")
"""What usages, messages and content blocks have. Of an object of no known kind nothing else is read."""


def usage_details(usage: object) -> dict[str, int]:
    """`usage` (a mapping or an object with a provider's attributes) as Langfuse's usage details: whole numbers by kind.

    Anthropic's `input_tokens` leaves out what was cached; OpenAI's `prompt_tokens` and `input_tokens` include it when
    there are `…_tokens_details`, so the cached part is taken off.
    """
    fields = usage if type(usage) is dict else plain(usage, attributes=_COUNTS)
    details = {_NAMES.get(key, key): int(count) for key, count in _numbers(fields).items()}
    for name in _DETAILS.keys() & fields if isinstance(fields, dict) else ():
        side, parts = _DETAILS[name], _numbers(plain(fields[name], attributes=_COUNTS))
        for key in _PARTS:
            if count := int(parts.get(key, 0)):
                details[f"{side}_{key}"] = count
                details[side] = max(details.get(side, 0) - count, 0)
    return details


def cost_details(cost: object) -> dict[str, float]:
    """Costs in USD by kind; a plain number is the total."""
    found = plain(cost)
    return _numbers(found if isinstance(found, dict) else {"total": found})


def read_response(response: object, notes: Notes) -> dict[str, Any]:
    """`model`, `output`, `usage` and the stop reason of a provider's response, for `Generation.update`.

    Keys and attributes are read alike. A response with neither output nor usage is the output itself, and noted.
    """
    output = _field(response, "content")  # Anthropic messages
    if output is None:
        output = _field(response, "output")  # OpenAI responses
    choices = _field(response, "choices")  # OpenAI chat completions
    if isinstance(choices, (list, tuple)) and choices:
        message = _field(choices[0], "message")
        output = _field(choices[0], "text") if message is None else message
    usage, stopped = _field(response, "usage"), _field(response, "stop_reason")
    if output is None and usage is None:
        notes.append("unreadable response")
        output = response
    if type(output) is not str:
        output = plain(output, notes, attributes=_CONTENT)
    metadata = None if stopped is None else {"stop_reason": stopped}
    return {"model": _field(response, "model"), "usage": usage, "output": output, "metadata": metadata}


def _field(value: object, name: str) -> Any:
    with suppress_faults():  # somebody's own method
        return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return None


def _numbers(fields: object) -> dict[str, float]:
    found = fields.items() if isinstance(fields, dict) else ()
    return {
        str(key): n for key, n in found if isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n < _MOST
    }
