"""Token usage and costs as Langfuse counts them, and what a provider's response says.

Langfuse adds up every key that contains `input`, so a count that includes its cached part must not stand beside it.
"""

from __future__ import annotations

from typing import Any

from .normalise import plain

_NAMES = {"input_tokens": "input", "prompt_tokens": "input", "output_tokens": "output", "completion_tokens": "output",
          "total_tokens": "total"}  # fmt: skip
_DETAILS = {"prompt_tokens_details": "input", "input_tokens_details": "input",
            "completion_tokens_details": "output", "output_tokens_details": "output"}  # fmt: skip
_PLAIN = frozenset({"input", "output", "total"})
_MOST = 2**53
"""What a JSON number holds exactly."""
_PARTS = ("cached_tokens", "reasoning_tokens")


def usage_details(usage: object) -> dict[str, int]:
    """`usage` (a mapping or a provider's usage object) as Langfuse's usage details: whole numbers by kind.

    Anthropic's `input_tokens` leaves out what was cached; OpenAI's `prompt_tokens` and `input_tokens` include it when
    there are `…_tokens_details`, so the cached part is taken off.
    """
    if type(usage) is dict and usage.keys() <= _PLAIN and {*map(type, usage.values())} <= {int}:
        return {key: count for key, count in usage.items() if 0 <= count < _MOST}  # what most callers give
    fields = usage if type(usage) is dict else plain(usage)
    details = {_NAMES.get(key, key): int(count) for key, count in _numbers(fields).items()}
    for name in _DETAILS.keys() & fields if isinstance(fields, dict) else ():
        side, parts = _DETAILS[name], _numbers(plain(fields[name]))
        for key in _PARTS:
            if count := int(parts.get(key, 0)):
                details[f"{side}_{key}"] = count
                details[side] = max(details.get(side, 0) - count, 0)
    return details


def cost_details(cost: object) -> dict[str, float]:
    """Costs in USD by kind; a plain number is the total."""
    found = plain(cost)
    return _numbers(found if isinstance(found, dict) else {"total": found})


def read_response(response: object) -> dict[str, Any]:
    """`model`, `output`, `usage` and the stop reason of a provider's response, for `Generation.update`."""
    fields = plain(response)
    if not isinstance(fields, dict):
        return {}
    output = fields.get("content") or fields.get("output")  # Anthropic messages, OpenAI responses
    choices = fields.get("choices")  # OpenAI chat completions
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        output = choices[0].get("message") or choices[0].get("text")
    stopped = {"stop_reason": fields["stop_reason"]} if fields.get("stop_reason") else None
    found = {"model": fields.get("model"), "usage": fields.get("usage"), "output": output, "metadata": stopped}
    return {key: value for key, value in found.items() if value is not None}


def _numbers(fields: object) -> dict[str, float]:
    found = fields.items() if isinstance(fields, dict) else ()
    return {
        str(key): n for key, n in found if isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n < _MOST
    }
