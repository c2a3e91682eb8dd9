"""One stored signal, and how its fields are read from values that anybody may have sent."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

KINDS = (
    "error", "transaction", "log",
    "track", "identify", "group", "alias", "page",
    "trace", "generation", "observation", "score",
)  # fmt: skip
VENDORS = ("sentry", "rudderstack", "langfuse")

MAX_EPOCH_S = 253_402_300_799.0
"""The end of the year 9999: the last that datetime can show."""


class Refused(Exception):
    """A post that is not taken: the HTTP status and the reason, which names no content."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Signal(NamedTuple):
    """What is stored of one error, event or observation."""

    key: str
    """The vendor's idempotency key: the same key again replaces the row."""
    kind: str
    vendor: str
    id: str
    time: float
    """Epoch seconds; of a span its start."""
    name: str
    payload: bytes
    """The whole of it, as JSON."""
    trace_id: str | None = None
    request_trace_id: str | None = None
    """The request's own trace id on a Langfuse row, whose `trace_id` is that of the LLM trace."""
    parent_id: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    workspace_id: str | None = None


class Decoded(NamedTuple):
    """What one post held: the signals, and how many of each other item."""

    signals: list[Signal]
    others: Counter[str]


def load_json(body: bytes, what: str) -> Any:
    """`body` as JSON, strictly (no NaN, no lone surrogate). Raises Refused(400)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"{what} is not valid JSON: {error.msg} at byte {error.pos}") from None


def load_object(body: bytes, what: str) -> dict[str, Any]:
    """`body` as a JSON object. Raises Refused(400)."""
    return expect_object(load_json(body, what), what)


def expect_object(value: object, what: str) -> dict[str, Any]:
    """`value` when it is a JSON object. Raises Refused(400)."""
    if not isinstance(value, dict):
        raise Refused(400, f"{what} is not a JSON object")
    return value


def expect_list(value: object, what: str) -> list[Any]:
    """`value` when it is a JSON array. Raises Refused(400)."""
    if not isinstance(value, list):
        raise Refused(400, f"{what} is not a JSON array")
    return value


def dump_json(payload: object) -> bytes:
    """`payload` as JSON. Raises Refused(400) for what cannot be shown again (nested over 250 levels, huge integers)."""
    try:
        return orjson.dumps(payload)
    except (orjson.JSONEncodeError, RecursionError):
        raise Refused(400, "a message is nested too deeply, or holds a number over 64 bits") from None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """A name or id for a column: at most 500 characters; None for blanks and for what is neither text nor a number."""
    if isinstance(value, str):
        return value[:500] or None
    return str(value) if isinstance(value, int | float) else None


def first(*values: object) -> str | None:
    """The first of `values` that gives a text."""
    return next((found for value in values if (found := text(value)) is not None), None)


def content_id(payload: bytes) -> str:
    """An id for what came without one, so that the same bytes again are the same row."""
    return hashlib.sha256(payload).hexdigest()[:32]


def epoch(value: object) -> float:
    """Epoch seconds of an ISO time or a number of seconds; now, when it is neither."""
    found = parse_time(value)
    return time.time() if found is None else found


def parse_time(value: object) -> float | None:
    """Epoch seconds of an ISO time (naive is UTC) or of a number of seconds, else None."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_EPOCH_S else None


def iso(seconds: float) -> str:
    """An ISO time in UTC with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
