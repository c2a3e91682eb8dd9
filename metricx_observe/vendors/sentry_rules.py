"""What a request says of its Sentry events that is no part of them: what may not be sent, and whose consent is missing.

Known when an event is made, needed when the writer scrubs it. Kept beside the event, by its id: a `before_send` of the
application may send any part of the event, and sees nothing of ours in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, NamedTuple

from metricx_observe.scrubber import Personal

_TELLING, _WORD = 8, 4
"""Characters from which on a part of a path is looked for everywhere, and as a word; a shorter one behind a `/`."""
_MOST_KEPT = 1_000
"""Events that are made at once, and some that the application dropped meanwhile."""
_BEGIN, _END = r"(?<![A-Za-z0-9_~%.\-])", r"(?![A-Za-z0-9_~%\-])"
_UNMATCHED = "<unmatched>"
_OUR_TAGS = frozenset({"request_id", "workspace_id", "langfuse_trace_id"})
_NO_TEXTS = frozenset({"trace", "runtime", "workspace", "langfuse", "os", "device"})
"""Contexts that the SDK and we fill in."""


class Rules(NamedTuple):
    """Of one event. Plain values, so that another process can scrub the event."""

    refused: bool = False
    """Whether analytics were not allowed: no personal data then."""
    ip: str | None = None
    """The client's address, where it is to be sent."""
    secrets: Mapping[str, str] = {}
    """What may not be sent of the path, and what stands for it."""
    bound: frozenset[str] = frozenset()
    """What the server bound itself: a client that puts it into the path must not take it off the event."""
    paths: tuple[str, ...] = ()
    """Spellings of the path and of its parts, where no route took the request: all of it may be secret."""


    @property
    def free(self) -> dict[str, str]:
        """Of the secrets those that the server did not bind itself."""
        return {text: kept for text, kept in self.secrets.items() if text not in self.bound}


NO_RULES = Rules()


def policy(rules: Rules) -> Personal:
    """What becomes of addresses in a signal."""
    return "drop" if rules.refused else "hash"


class RulesById:
    """The rules of events that are being made."""

    def __init__(self) -> None:
        self._rules: dict[str, Rules] = {}
        self._lock = Lock()

    def keep(self, event_id: str, rules: Rules) -> None:
        """Keep those of an event until it is sent; of many that never are, the oldest go."""
        with self._lock:
            self._rules.pop(event_id, None)
            self._rules[event_id] = rules
            while len(self._rules) > _MOST_KEPT:
                del self._rules[next(iter(self._rules))]

    def take(self, event_id: object) -> Rules:
        """Those of an event, once."""
        with self._lock:
            return self._rules.pop(str(event_id), NO_RULES)


def without_secrets(event: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """An event without the secrets of its request's path, changed in place.

    Only texts that can repeat what the client sent: no key, no id, no name of code, nothing that the server bound.
    """
    if (replace := replacing(rules.secrets, rules.paths)) is None:
        return event
    if isinstance(event.get("request"), dict):
        url = event["request"].get("url")  # made of the template, and so without them
        event["request"] = replaced(event["request"], replace) | ({} if url is None else {"url": url})
    if isinstance(event.get("tags"), dict):  # the server sets them: only a path can be in one by itself
        in_path = replacing({f"/{text}": f"/{kept}" for text, kept in rules.secrets.items()}, rules.paths) or replace
        event["tags"] |= {key: in_path(value) for key, value in event["tags"].items() if key not in _OUR_TAGS}
    replace = replacing(rules.free, rules.paths)
    return event if replace is None else _in_texts(event, replace)


def _in_texts(event: dict[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    for name in ("message", "logentry", "extra"):
        if name in event:
            event[name] = replaced(event[name], replace)
    _in_fields(_values(event.get("breadcrumbs")), ("message", "data"), replace)
    _in_fields(_dicts(event.get("spans")), ("description", "data"), replace)
    raised = _values(event.get("exception"))
    _in_fields(raised, ("value",), replace)
    for value in (*raised, *_values(event.get("threads"))):
        stack = value.get("stacktrace")
        _in_fields(_dicts(stack.get("frames") if isinstance(stack, dict) else None), ("vars",), replace)
    contexts = event.get("contexts")
    if isinstance(contexts, dict):
        _in_fields([contexts], contexts.keys() - _NO_TEXTS, replace)
        _in_fields(_dicts([contexts.get("trace")]), ("description", "data"), replace)
    return event


def replacing(secrets: Mapping[str, str], paths: Iterable[str] = ()) -> Callable[[str], str] | None:
    """What replaces the secrets of a path in a text, and the path where all of it is one; None: there are none."""
    stands_for = {text: kept for text, kept in secrets.items() if text}
    patterns = {text: _pattern(text) for text in stands_for}
    for path in paths:
        if len(path) > 1:
            patterns[path] = (_BEGIN if len(path) < _TELLING else "") + re.escape(path) + _END
    if not patterns:
        return None
    found = re.compile("|".join(patterns[text] for text in sorted(patterns, key=len, reverse=True)))
    return lambda text: found.sub(lambda match: stands_for.get(match[0], _UNMATCHED), text)


def _pattern(text: str) -> str:
    """Where a part of a path is taken for itself: a short one may stand in a text by chance."""
    if text[0] == "/":
        return re.escape(text) + _END
    if len(text) >= _TELLING:
        return re.escape(text)
    return (_BEGIN if len(text) >= _WORD else "(?<=/)") + re.escape(text) + _END


def replaced(value: Any, replace: Callable[[str], str]) -> Any:
    """A copy of a value with the texts in it replaced; keys stay."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, dict):
        return {key: replaced(item, replace) for key, item in value.items()}
    return [replaced(item, replace) for item in value] if isinstance(value, list) else value


def _in_fields(items: Iterable[dict[str, Any]], names: Iterable[str], replace: Callable[[str], str]) -> None:
    for item in items:
        for name in names:
            if name in item:
                item[name] = replaced(item[name], replace)


def _values(part: object) -> list[dict[str, Any]]:
    return _dicts(part.get("values")) if isinstance(part, dict) else _dicts(part)


def _dicts(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
