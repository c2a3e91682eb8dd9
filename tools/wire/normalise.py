"""What differs between two runs of the same code is taken out, by the named rules of `RULES` and nothing else.

An id becomes its kind and its order of first appearance in the situation (`<hex32 1>`), in all vendors together and in
what the caller saw: which ids are equal stays visible. A time becomes its format (`<time s.6Z>`), as long as it is
near the run: a time that the situation gave stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .frames import Places, plain_frames

_NEAR_S = 2 * 86_400
_EXACT_NS = 100_000_000
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)?")
_EPOCH = re.compile(r"(?<![\w.])1[5-9]\d{8}(\.\d{1,9}|\d{3}|\d{6}|\d{9})?(?![\w.])")
_ID = re.compile(
    r"(?<![0-9A-Za-z])(?:(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|(?P<hex32>[0-9a-f]{32})"
    r"|(?P<hex16>[0-9a-f]{16}))(?![0-9A-Za-z])"
)
_MARKER = re.compile(r"(?P<head>\[scrubbed [^\]#]*#)(?P<hash>[0-9a-f]{4})\]")
TOKEN = re.compile(r"<(uuid|hex32|hex16|hash) (\d+)>")
"""An id in what was normalised."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run had of its own."""

    places: Places
    now: float
    """Seconds since 1970, when the run began."""
    sink: str
    """The address of the vendors."""
    given: frozenset[str] = frozenset()
    """Ids that stand in the situations themselves: they stay."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is taken out of a text."""

    name: str
    pattern: re.Pattern[str]
    put: str


RULES = (
    Rule("an address in memory", re.compile(r"\b0x[0-9a-f]{6,16}\b"), "<address>"),
    Rule("a thread's number", re.compile(r"\b(Thread|ThreadPoolExecutor|asyncio|Task)-\d+(_\d+)?"), r"\1-<n>"),
    Rule("a port on loopback", re.compile(r"(127\.0\.0\.1|localhost):\d{4,5}\b"), r"\1:<port>"),
    Rule("the modules of the package", re.compile(r"\bmetricx_observe(\.\w+)+"), "metricx_observe.<module>"),
    Rule("a random share", re.compile(r"(sample_rand=)[\d.]+"), r"\1<random>"),
    Rule("one of many integrations in a name", re.compile(r"\bsentry\.python(\.[a-z]\w*)?(/[\d.]+)?"), "sentry.python"),
    Rule("a temporary folder", re.compile(r"/tmp/same-wire-[\w.-]+"), "<folder>"),
)  # fmt: skip
"""On every text. Ids, times and places in files have functions of their own below."""

KEYS: Mapping[str, str] = {
    "pid": "<pid>", "process.pid": "<pid>", "thread.id": "<thread>", "server_name": "<host>", "sample_rand": "<random>",
    "server.address": "<host>", "duration": "<duration>", "thread_id": "<thread>",
    "process.command_args": "<command>", "sys.argv": "<command>", "init": "<init>",
    "signature": "<signature>",
}  # fmt: skip
"""Members that are another value in each run, whatever they hold."""

VERSIONS = ("version", "sentry.sdk.version", "telemetry.sdk.version", "langfuse.sdk.version")
"""Members that are a version of a library, below one of `VERSIONED`."""
VERSIONED = ("sdk", "packages", "library", "scope", "runtime")


def normalise(situations: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """A run's document; each situation is for itself."""
    return {name: _situation(found, setting) for name, found in situations.items()}


def _situation(found: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    plain = {part: [_Plain(setting).value(each) for each in listed] for part, listed in found.items()}
    names = _names(plain, setting.given)
    ordered = {part: _ordered(listed, part, names) for part, listed in plain.items()}
    numbers = _Numbers(setting.given)
    return {part: [_texts(each, numbers.replace) for each in listed] for part, listed in ordered.items()}


@dataclass(slots=True)
class _Plain:
    """Takes out all but the ids, which need the whole situation."""

    setting: Setting
    path: list[str] = field(default_factory=list)

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._members(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._number(value)
        return value

    def _members(self, value: dict[str, Any]) -> dict[str, Any]:
        if isinstance(value.get("frames"), list):
            value = {**value, "frames": plain_frames(value["frames"], self.setting.places)}
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = self._text(key)
            self.path.append(key)
            if key in KEYS and not isinstance(item, dict):
                found[name] = KEYS[key]
            elif key in KEYS and "value" in item:
                found[name] = {**item, "value": KEYS[key]}
            elif key == "modules" and isinstance(item, dict):
                found[name] = "<versions>"
            elif isinstance(item, str) and self._is_version(key):
                found[name] = "<version>"
            else:
                found[name] = self.value(item)
            self.path.pop()
        return found | _length(value)

    def _is_version(self, key: str) -> bool:
        above = self.path[:-1]
        return key in VERSIONS and any(part in VERSIONED for part in above)

    def _number(self, value: float) -> Any:
        for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
            if abs(value / scale - self.setting.now) < _NEAR_S:
                return f"<{type(value).__name__} time {unit}>"
        return value

    def _text(self, text: str) -> str:
        text = text.replace(self.setting.sink, "<sink>")
        text = self.setting.places.shorten(text)
        text = _ISO.sub(self._iso, text)
        text = _EPOCH.sub(self._epoch, text)
        for rule in RULES:
            text = rule.pattern.sub(rule.put, text)
        return text

    def _iso(self, found: re.Match[str]) -> str:
        zone = found["zone"] or ""
        try:
            time = datetime.fromisoformat(found[0].replace("Z", "+00:00"))
        except ValueError:
            return found[0]
        at = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        if abs(at - self.setting.now) > _NEAR_S:
            return found[0]
        fraction = len(found["fraction"] or ".") - 1
        return f"<time {found[0][10]}.{fraction}{zone}>"

    def _epoch(self, found: re.Match[str]) -> str:
        whole, _, fraction = found[0].partition(".")
        unit = {10: "s", 13: "ms", 16: "us", 19: "ns"}[len(whole)]
        near = abs(int(whole[:10]) - self.setting.now) < _NEAR_S
        return f"<epoch {unit}.{len(fraction) and 'x'}>" if near else found[0]


def _length(value: Mapping[str, Any]) -> dict[str, str]:
    """How start and end are to each other, and how long it is where a length was given: one of whole 100 ms."""
    start, end = value.get("startTimeUnixNano"), value.get("endTimeUnixNano")
    if start is not None and end is not None:
        length = int(end) - int(start)
        order = "start <= end" if length >= 0 else "END BEFORE START"
        return {"(time)": f"{order}, {length} ns" if length and length % _EXACT_NS == 0 else order}
    start, end = value.get("start_timestamp"), value.get("timestamp")
    if isinstance(start, (str, float)) and type(start) is type(end):
        return {"(time)": "start <= end" if start <= end else "END BEFORE START"}  # type: ignore[operator]
    return {}


def _texts(value: Any, replace: Callable[[str], str]) -> Any:
    """The same with each text and name replaced, and members in order."""
    if isinstance(value, dict):
        return {replace(key): _texts(value[key], replace) for key in sorted(value, key=_without_ids)}
    if isinstance(value, list):
        return [_texts(item, replace) for item in value]
    return replace(value) if isinstance(value, str) else value


class _Numbers:
    """Ids by their order of first appearance."""

    def __init__(self, given: frozenset[str]) -> None:
        self._given = given
        self._known: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def replace(self, text: str) -> str:
        return _with_ids(text, self._name, self._given)

    def _name(self, kind: str, id: str) -> str:
        known = self._known.get((kind, id))
        if known is None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            known = self._known[kind, id] = f"<{kind} {self._counts[kind]}>"
        return known


def _with_ids(text: str, name: Callable[[str, str], str], given: frozenset[str]) -> str:
    text = _MARKER.sub(lambda found: f"{found['head']}{name('hash', found['hash'])}]", text)
    return _ID.sub(
        lambda found: found[0] if found[0] in given else name(str(found.lastgroup), found[0].replace("-", "")), text
    )


def _without_ids(text: str) -> str:
    return _with_ids(text, lambda kind, _: kind, frozenset())


def _names(parts: Mapping[str, list[Any]], given: frozenset[str]) -> dict[str, str]:
    """For each id what it is by the places where it stands, so that equal signals are ordered by what they refer to."""
    known: dict[str, str] = {}
    for _ in range(3):
        seen: dict[str, list[str]] = {}
        for part, listed in parts.items():
            for number, each in enumerate(listed):
                where = f"{part}:{number if part == 'caller' else _blank(each, known, given)}"
                _places(each, where, seen, given)
        known = {id: hashlib.sha256("\n".join(sorted(where)).encode()).hexdigest()[:12] for id, where in seen.items()}
    return known


def _places(value: Any, path: str, seen: dict[str, list[str]], given: frozenset[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _places(item, f"{path}/{_without_ids(key)}", seen, given)
    elif isinstance(value, list):
        for item in value:
            _places(item, f"{path}/*", seen, given)
    elif isinstance(value, str):

        def note(kind: str, id: str) -> str:  # noqa: ARG001
            seen.setdefault(id, []).append(path)
            return id

        _with_ids(value, note, given)


def _blank(value: Any, known: Mapping[str, str], given: frozenset[str]) -> str:
    text = json.dumps(_texts(value, lambda text: _with_ids(text, lambda _, id: f"<{known.get(id, '')}>", given)))
    return hashlib.sha256(text.encode()).hexdigest()


def _ordered(listed: Iterable[Any], part: str, names: Mapping[str, str]) -> list[Any]:
    """Signals by their content: which of two threads came first is not promised. What the caller saw is in order."""
    if part == "caller":
        return list(listed)

    def content(signal: Any) -> tuple[str, str]:
        def blank(text: str) -> str:
            return _with_ids(text, lambda _, id: f"<{names.get(id, '')}>", frozenset())

        shown = signal.get("signal", "") if isinstance(signal, dict) else ""
        return blank(str(shown)), json.dumps(_texts(signal, blank))

    return sorted(listed, key=content)
