"""What the page shows of rows: titles, model, tokens and latency, read from payloads that anybody may have sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from .sentry import exceptions
from .signals import first, mapping, parse_time, text
from .store import Row

MAX_SHOWN = 20_000
"""Characters of one payload on the page; the API has all of it."""


@dataclass(slots=True)
class Entry:
    """One signal as the page shows it."""

    row: Row
    payload: Mapping[str, Any]
    facts: list[tuple[str, str]]
    """Names and values that matter for this kind: model, tokens, level, ..."""
    texts: list[tuple[str, str]]
    """Longer texts: input, output, the reason of a failure."""
    failed: bool
    duration_ms: float | None
    offset_ms: float = 0.0
    """Since the request's first signal."""
    children: list[Entry] = field(default_factory=list)

    @property
    def clock(self) -> str:
        """Time of day in UTC."""
        return datetime.fromtimestamp(self.row.time, UTC).strftime("%H:%M:%S.%f")[:-3]

    @property
    def pretty(self) -> str:
        """The payload, indented, cut at MAX_SHOWN characters."""
        return cut(json.dumps(self.payload, indent=2, ensure_ascii=False))


@dataclass(slots=True)
class Story:
    """Everything of one request, in time order, generations under their trace."""

    entries: list[Entry]
    facts: list[tuple[str, str]]
    """User, workspace, route, trace ids, when it began."""


def cut(value: str) -> str:
    """At most MAX_SHOWN characters, and a word about the rest."""
    return value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}\n… {len(value) - MAX_SHOWN} more characters (see the API)"


def entry(row: Row) -> Entry:
    """The row with what is worth showing of its payload."""
    payload = mapping(orjson.loads(row.payload))
    read = {"sentry": _sentry, "rudderstack": _rudderstack, "langfuse": _langfuse}[row.vendor]
    facts, texts, failed = read(row, payload)
    shown = [(name, value) for name, value in facts if value]
    return Entry(row, payload, shown, [(name, cut(value)) for name, value in texts if value], failed, _duration_ms(payload))


def tell(rows: Iterable[Row]) -> Story:
    """The story of one request from its rows in time order."""
    entries = [entry(row) for row in rows]
    by_id = {(each.row.trace_id, each.row.id): each for each in entries if each.row.vendor == "langfuse"}
    start = entries[0].row.time if entries else 0.0
    top = []
    for each in entries:
        each.offset_ms = max(0.0, (each.row.time - start) * 1000)
        parent = _parent(each, by_id)
        (top if parent is None else parent.children).append(each)
    return Story(top, _request_facts(entries))


def _parent(each: Entry, by_id: Mapping[tuple[str | None, str], Entry]) -> Entry | None:
    """The observation that this one belongs under; None for a root and for one whose ancestors come back to itself."""
    row = each.row
    if row.vendor != "langfuse" or row.parent_id is None:
        return None
    parent = by_id.get((row.trace_id, row.parent_id))
    above, seen = parent, {id(each)}
    while above is not None:
        if id(above) in seen:
            return None
        seen.add(id(above))
        above = by_id.get((above.row.trace_id, above.row.parent_id)) if above.row.parent_id else None
    return parent


def _request_facts(entries: list[Entry]) -> list[tuple[str, str]]:
    rows = [each.row for each in entries]
    requests = [each.payload for each in entries if each.row.kind in ("error", "transaction")]
    pages = [mapping(mapping(each.payload.get("context")).get("page")) for each in entries if each.row.vendor == "rudderstack"]
    facts = (
        ("user", first(*(row.user_id for row in rows))),
        ("workspace", first(*(row.workspace_id for row in rows))),
        ("method", first(*(mapping(request.get("request")).get("method") for request in requests))),
        ("route", first(*(request.get("transaction") for request in requests), *(page.get("path") for page in pages))),
        ("trace", first(*(row.request_trace_id if row.vendor == "langfuse" else row.trace_id for row in rows))),
        ("began", f"{datetime.fromtimestamp(rows[0].time, UTC):%Y-%m-%d %H:%M:%S} UTC" if rows else None),
    )
    return [(name, value) for name, value in facts if value]


Read = tuple[list[tuple[str, str | None]], list[tuple[str, str | None]], bool]


def _sentry(row: Row, payload: Mapping[str, Any]) -> Read:
    level = text(payload.get("level"))
    request = mapping(payload.get("request"))
    status = mapping(mapping(payload.get("contexts")).get("trace")).get("status")
    facts = [
        ("level", level),
        ("method", text(request.get("method"))),
        ("route", text(payload.get("transaction"))),
        ("status", text(status)),
    ]
    raised = [first(error.get("value"), error.get("type")) for error in exceptions(payload)] if row.kind == "error" else []
    failed = row.kind == "error" and level not in ("debug", "info") or level in ("error", "fatal")
    return facts, [("reason", reason) for reason in raised[-1:]], failed


def _rudderstack(row: Row, payload: Mapping[str, Any]) -> Read:
    shown = payload.get("properties") or payload.get("traits")
    facts: list[tuple[str, str | None]] = [(name, _plain(value)) for name, value in list(mapping(shown).items())[:12]]
    return facts, [], False


def _langfuse(row: Row, payload: Mapping[str, Any]) -> Read:
    if row.kind == "score":
        return [("value", _plain(payload.get("value")))], [("comment", text(payload.get("comment")))], False
    attributes = mapping(payload.get("attributes"))
    level = first(attributes.get("langfuse.observation.level"), payload.get("level"))
    status = mapping(payload.get("status"))
    failed = level == "ERROR" or status.get("code") == 2
    observation_type = text(attributes.get("langfuse.observation.type"))
    facts = [
        ("type", observation_type if row.kind == "observation" else None),
        ("model", first(attributes.get("langfuse.observation.model.name"), attributes.get("gen_ai.request.model"),
                        payload.get("model"))),
        ("tokens", tokens(attributes, payload)),
        ("level", level),
        ("session", first(attributes.get("session.id"), payload.get("sessionId"))),
    ]  # fmt: skip
    texts = [
        ("reason", first(attributes.get("langfuse.observation.status_message"), status.get("message"))),
        ("input", _plain(attributes.get("langfuse.observation.input", payload.get("input")))),
        ("output", _plain(attributes.get("langfuse.observation.output", payload.get("output")))),
    ]
    return facts, texts, failed


def tokens(attributes: Mapping[str, Any], payload: Mapping[str, Any]) -> str | None:
    """The usage of a model call as a line of text, e.g. `input 100, output 50, total 150`."""
    usage = attributes.get("langfuse.observation.usage_details", payload.get("usageDetails", payload.get("usage")))
    if isinstance(usage, str):
        try:
            usage = orjson.loads(usage)
        except orjson.JSONDecodeError:
            return None
    if not mapping(usage):
        prefix = "gen_ai.usage."
        usage = {
            name.removeprefix(prefix).removesuffix("_tokens"): attributes[name] for name in attributes if name.startswith(prefix)
        }
    parts = [f"{name} {value}" for name, value in mapping(usage).items() if isinstance(value, int | float)]
    return ", ".join(parts[:12]) or None


def _plain(value: object) -> str | None:
    """A value as text: a string as it is, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


def _duration_ms(payload: Mapping[str, Any]) -> float | None:
    """Of a span or transaction, from its own start and end; None where it has none."""
    start, end = payload.get("startTimeUnixNano"), payload.get("endTimeUnixNano")
    if isinstance(start, int) and isinstance(end, int):
        return (end - start) / 1e6 if end >= start else None
    begins, ends = parse_time(payload.get("start_timestamp")), parse_time(payload.get("timestamp"))
    return (ends - begins) * 1000 if begins is not None and ends is not None and ends >= begins else None
