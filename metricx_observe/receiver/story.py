"""What the page shows of signals: titles, model, tokens and latency, read from payloads that anybody may have sent."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from .sentry import raised
from .signals import Signal, mapping, parse_time, scrubbed, text

MAX_SHOWN = 20_000
"""Characters of one payload on the page; the API has all of it."""
MAX_DEPTH = 20
"""Observations below each other. What is deeper stands at the top."""

Facts = list[tuple[str, str]]


@dataclass(slots=True, eq=False)
class Entry:
    """One signal as the page shows it."""

    signal: Signal
    payload: Mapping[str, Any]
    facts: Facts
    """Short values that matter for this kind: model, tokens, level, ..."""
    texts: Facts
    """Longer ones: input, output, the reason of a failure."""
    failed: bool
    duration_ms: float | None
    offset_ms: float = 0.0
    """Since the request's first signal."""
    children: list[Entry] = field(default_factory=list)

    @property
    def clock(self) -> str:
        """Time of day in UTC."""
        return datetime.fromtimestamp(self.signal.time, UTC).strftime("%H:%M:%S.%f")[:-3]

    @property
    def pretty(self) -> str:
        """The payload, indented."""
        return _cut(json.dumps(self.payload, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Story:
    """Everything of one request in time order, generations under their trace."""

    entries: list[Entry]
    facts: Facts
    """User, workspace, route, trace id, when it began."""


def read(signal: Signal) -> Entry:
    """The signal with what is worth showing of its payload."""
    payload = mapping(orjson.loads(signal.payload))
    by_vendor = {"sentry": _sentry, "rudderstack": _rudderstack, "langfuse": _langfuse}
    facts, texts, failed = by_vendor[signal.vendor](payload)
    texts = {name: _cut(_plain(value)) for name, value in texts.items()}
    replaced = scrubbed(signal.payload).most_common(8)
    facts["scrubbed"] = ", ".join(f"{place} {rule} {count}" for (place, rule), count in replaced)
    return Entry(signal, payload, _present(facts), _present(texts), failed, _duration_ms(payload))


def story_of(signals: Iterable[Signal]) -> Story:
    """The story of one request from its signals in time order."""
    entries = [read(signal) for signal in signals]
    spans = {(each.signal.trace_id, each.signal.id): each for each in entries if each.signal.vendor == "langfuse"}
    top: list[Entry] = []
    for each in entries:
        each.offset_ms = (each.signal.time - entries[0].signal.time) * 1000
        parent = _parent(each, spans)
        (top if parent is None else parent.children).append(each)
    return Story(top, _request_facts(entries))


def _parent(each: Entry, spans: Mapping[tuple[str | None, str], Entry]) -> Entry | None:
    """What it belongs under; None for a root, too deep a place, or ancestors that lead back to itself."""
    chain = [each]
    while chain[-1].signal.parent_id is not None and len(chain) <= MAX_DEPTH:
        above = spans.get((chain[-1].signal.trace_id, chain[-1].signal.parent_id))
        if above is None:
            return chain[1] if len(chain) > 1 else None
        if above in chain:
            return None
        chain.append(above)
    return chain[1] if 1 < len(chain) <= MAX_DEPTH else None


def _request_facts(entries: list[Entry]) -> Facts:
    signals = [each.signal for each in entries]
    events = [each.payload for each in entries if each.signal.kind in ("error", "transaction")]
    pages = [mapping(mapping(each.payload.get("context")).get("page")) for each in entries]
    traces = (each.request_trace_id if each.vendor == "langfuse" else each.trace_id for each in signals)
    return _present(
        {
            "user": text(*(each.user_id for each in signals)),
            "workspace": text(*(each.workspace_id for each in signals)),
            "method": text(*(mapping(event.get("request")).get("method") for event in events)),
            "route": text(*(event.get("transaction") for event in events), *(page.get("path") for page in pages)),
            "trace": text(*traces),
            "began": f"{datetime.fromtimestamp(signals[0].time, UTC):%Y-%m-%d %H:%M:%S} UTC" if signals else None,
        }
    )


Read = tuple[dict[str, str | None], dict[str, Any], bool]


def _sentry(payload: Mapping[str, Any]) -> Read:
    level = text(payload.get("level"))
    facts = {
        "level": level,
        "method": text(mapping(payload.get("request")).get("method")),
        "route": text(payload.get("transaction")),
        "status": text(mapping(mapping(payload.get("contexts")).get("trace")).get("status")),
    }
    error_type, reason = raised(payload)
    failed = error_type is not None or level in ("error", "fatal")
    return {**facts, "at": _raised_at(payload)}, {"reason": reason}, failed


def _raised_at(payload: Mapping[str, Any]) -> str | None:
    """Where in the application's own code the error was raised, e.g. `app/main.py:41 in boom`."""
    values = mapping(payload.get("exception")).get("values")
    last = mapping(values[-1]) if isinstance(values, list) and values else {}
    frames = mapping(last.get("stacktrace")).get("frames")
    own = [mapping(frame) for frame in frames if mapping(frame).get("in_app")] if isinstance(frames, list) else []
    return "{filename}:{lineno} in {function}".format_map(defaultdict(str, own[-1])) if own else None


def _rudderstack(payload: Mapping[str, Any]) -> Read:
    shown = mapping(payload.get("properties") or payload.get("traits"))
    return {name: text(_plain(value)) for name, value in list(shown.items())[:12]}, {}, False


def _langfuse(payload: Mapping[str, Any]) -> Read:
    attributes, status = mapping(payload.get("attributes")), mapping(payload.get("status"))
    observation = {name.removeprefix("langfuse.observation."): value for name, value in attributes.items()}
    facts = {
        "type": text(observation.get("type")),
        "model": text(observation.get("model.name"), attributes.get("gen_ai.request.model")),
        "tokens": _tokens(attributes),
        "level": text(observation.get("level")),
        "session": text(attributes.get("session.id")),
        "value": text(_plain(payload.get("value"))),
    }
    texts = {
        "reason": observation.get("status_message") or status.get("message"),
        "comment": payload.get("comment"),
        "input": observation.get("input"),
        "output": observation.get("output"),
    }
    return facts, texts, facts["level"] == "ERROR" or status.get("code") == 2


def _tokens(attributes: Mapping[str, Any]) -> str | None:
    """The usage of a model call as a line of text, e.g. `input 100, output 50, total 150`."""
    try:
        usage = mapping(orjson.loads(str(attributes.get("langfuse.observation.usage_details", "{}"))))
    except orjson.JSONDecodeError:
        usage = {}
    if not usage:
        prefix = "gen_ai.usage."
        usage = {name.removeprefix(prefix): value for name, value in attributes.items() if name.startswith(prefix)}
    return ", ".join(f"{name} {value}" for name, value in list(usage.items())[:12]) or None


def _duration_ms(payload: Mapping[str, Any]) -> float | None:
    """Of a span or transaction, from its own start and end; None where it has none."""
    start, end = payload.get("startTimeUnixNano"), payload.get("endTimeUnixNano")
    if isinstance(start, int) and isinstance(end, int):
        return max(0.0, (end - start) / 1e6)
    begins, ends = parse_time(payload.get("start_timestamp")), parse_time(payload.get("timestamp"))
    return None if begins is None or ends is None else max(0.0, (ends - begins) * 1000)


def _plain(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(value: str | None) -> str:
    value = value or ""
    return value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}\n… {len(value) - MAX_SHOWN} more characters"


def _present(values: Mapping[str, str | None]) -> Facts:
    return [(name, value) for name, value in values.items() if value]
