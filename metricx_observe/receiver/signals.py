"""One stored signal, and how its fields are read from values that anybody may have sent."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import orjson
from starlette.exceptions import HTTPException

T = TypeVar("T")

KINDS = (
    *("error", "transaction", "log"),
    *("track", "identify", "group", "alias", "page"),
    *("trace", "generation", "observation", "score"),
)
_LANGFUSE_PLACE = re.compile(r"langfuse\.(?:observation|trace)\.(\w+).*", re.S)
_MARKER = re.compile(rb"\[(?:scrubbed|dropped) ([a-z_]{1,16})\b")
MAX_VALUES = 500_000
"""Of a JSON or protobuf body: each becomes a Python object of up to 250 bytes, whatever few bytes it has on the wire.
512 spans of 100 attributes, the largest that an SDK sends, have 200,000."""
MAX_EPOCH_S = 253_402_300_799.0
"""The end of the year 9999: the last that datetime can show."""


class Refused(HTTPException):
    """A request that is not taken: the HTTP status and the reason, which names no content."""


class Signal(NamedTuple):
    """What is stored of one error, event or observation."""

    key: str
    """The vendor's idempotency key: the same key again replaces the row."""
    kind: str
    vendor: str
    id: str
    time: float
    """Epoch seconds; of a span or transaction its start."""
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


def scrubbed(payload: bytes) -> Counter[tuple[str, str]]:
    """How many markers of the scrubber stand in a payload, by place (request, exception, input, …) and rule."""
    if not _MARKER.search(payload):
        return Counter()
    parts = dict(mapping(orjson.loads(payload)))
    parts |= mapping(parts.pop("attributes", None))  # a span's parts are there
    return Counter(
        (_LANGFUSE_PLACE.sub(r"\1", place), rule.decode())
        for place, part in parts.items()
        for rule in _MARKER.findall(orjson.dumps(part))
    )


class Decoded(NamedTuple):
    """What one post held, what is answered to it, and how many items of types that are not shown."""

    signals: list[Signal]
    answer: Any = None
    others: Mapping[str, int] = MappingProxyType({})


def load(body: bytes, what: str) -> Any:
    """`body` as strict JSON (no NaN, no lone surrogate). Raises Refused: 400, and 413 over MAX_VALUES values."""
    if count_values(body) > MAX_VALUES:
        raise Refused(413, f"{what} has over {MAX_VALUES} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"{what} is not valid JSON: {error.msg} at {error.pos}") from None


def count_values(body: bytes) -> int:
    """At least as many values as `body` holds when it is JSON, without parsing it: separators outside of strings."""
    separators = sum(map(body.count, (b",", b"[", b"{")))
    if separators <= MAX_VALUES:  # counting also what stands in strings, as text mostly does
        return separators
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = unescaped.count(b'"') // 2
    if strings > 2 * MAX_VALUES:  # each value may have a key
        return strings
    outside = b"".join(unescaped.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))


def within(signals: Iterable[Signal], size: int) -> Iterator[Signal]:
    """`signals`, while their payloads have no more than `size` bytes in all. Raises Refused(413)."""
    for signal in signals:
        size -= len(signal.payload)
        if size < 0:
            raise Refused(413, "what the signals have in common makes them too large")
        yield signal


def at_most(items: Iterable[T], rows: int) -> Iterator[T]:
    """`items`, while there are no more than `rows`. Raises Refused(413): a batch can be halved and sent again."""
    for number, item in enumerate(items):
        if number == rows:
            raise Refused(413, f"more than {rows} signals in one post")
        yield item


def expect(value: object, wanted: type[T], what: str) -> T:
    """`value` when it is a `wanted` (dict or list). Raises Refused(400)."""
    if not isinstance(value, wanted):
        raise Refused(400, f"{what} is not a JSON {'object' if wanted is dict else 'array'}")
    return value


def dump(payload: object) -> bytes:
    """`payload` as JSON. Raises Refused(400) for what could not be shown again."""
    try:
        dumped = orjson.dumps(payload)
    except orjson.JSONEncodeError:
        raise Refused(400, "a message is nested over 250 levels deep, or holds an integer over 64 bits") from None
    return b"%b" % dumped if len(dumped) < 4096 else dumped  # what orjson returns keeps 4 KB at least


def mapping(value: object) -> Mapping[str, Any]:
    """`value` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(*values: object) -> str | None:
    """The first of `values` that is a number or not blank, as text of at most 500 characters."""
    for value in values:
        if (isinstance(value, str) and value) or isinstance(value, int | float):
            return str(value)[:500]
    return None


def content_id(payload: bytes) -> str:
    """An id for what came without one, so that the same bytes again are the same row."""
    return hashlib.sha256(payload).hexdigest()[:32]


def epoch(*values: object) -> float:
    """Epoch seconds of the first of `values` that is a time; now, when none is."""
    return next((found for value in values if (found := parse_time(value)) is not None), time.time())


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
