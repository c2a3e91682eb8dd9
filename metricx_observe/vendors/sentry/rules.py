"""What a request says of its Sentry signals that is not a part of them: what may not be sent, and what was not allowed.

Known at the call, needed where the writer scrubs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from metricx_observe.scrubber import Personal

from .frames import dicts, frames_of

_TELLING, _WORD = 8, 4
"""Characters from which on a part of a path is looked for everywhere, and as a word; a shorter one behind a `/`."""
_BEGIN, _END = r"(?<![A-Za-z0-9_~%.\-])", r"(?![A-Za-z0-9_~%\-])"
_UNMATCHED = "<unmatched>"
OUR_TAGS = frozenset({"request_id", "workspace_id", "langfuse_trace_id"})
_NO_TEXTS = frozenset({"trace", "runtime", "workspace", "langfuse", "os", "device"})
"""Contexts that the SDK and we fill in."""

_TRAVELLING = "metricx.rules"

Replace = Callable[[str], str]


class Rules(NamedTuple):
    """Of one event or item."""

    refused: bool = False
    """Whether analytics were not allowed: no personal data then."""
    ip: str | None = None
    """The client's address, where it is to be sent."""
    secrets: Mapping[str, str] = {}
    """What may not be sent of the path, and what stands for it."""
    bound: Sequence[str] = ()
    """What the server bound itself: a client that puts it into the path must not take it off the event."""
    paths: Sequence[str] = ()
    """Spellings of the path and of its parts, where no route took the request: all of it may be secret."""

    @property
    def personal(self) -> Personal:
        """What becomes of addresses in a signal."""
        return "drop" if self.refused else "hash"

    @property
    def replace(self) -> Replace | None:
        """What takes the path's secrets out of a text; None: there are none."""
        return _replacing(self.secrets, self.paths)

    @property
    def replace_unbound(self) -> Replace | None:
        """The same for a text that may name what the server bound."""
        free = {text: kept for text, kept in self.secrets.items() if text not in self.bound}
        return _replacing(free, self.paths)

    def travel_in(self, members: dict[str, Any]) -> None:
        """Put them where the writer takes them off again. The application's hook has run."""
        members[_TRAVELLING] = orjson.dumps(self._asdict()).decode()


NO_RULES = Rules()


def take_rules(members: dict[str, Any]) -> Rules:
    """Those that travel in an event or an item's attributes; none where the application has put something else."""
    given = members.pop(_TRAVELLING, None)
    try:
        return Rules(**orjson.loads(given["value"] if isinstance(given, dict) else given))
    except (ValueError, TypeError, KeyError):
        return NO_RULES


def without_secrets(event: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """An event without the secrets of its request's path, changed in place.

    Only texts that can repeat what the client sent: no key, no id, no name of code, nothing that the server bound.
    """
    if (replace := rules.replace) is None:
        return event
    if isinstance(event.get("request"), dict):
        url = event["request"].get("url")  # made of the template, and so without them
        event["request"] = replaced(event["request"], replace) | ({} if url is None else {"url": url})
    if isinstance(event.get("tags"), dict):  # the server sets them: only a path can be in one by itself
        in_path = _replacing({f"/{text}": f"/{kept}" for text, kept in rules.secrets.items()}, rules.paths) or replace
        event["tags"] |= {key: in_path(value) for key, value in event["tags"].items() if key not in OUR_TAGS}
    if (replace := rules.replace_unbound) is not None:
        for holder, names in _texts(event):
            holder |= {name: replaced(holder[name], replace) for name in names if name in holder}
    return event


def _texts(event: dict[str, Any]) -> Iterable[tuple[dict[str, Any], Iterable[str]]]:
    """The parts of an event that hold texts, and the names of those."""
    yield event, ("message", "logentry", "extra")
    yield from ((crumb, ("message", "data")) for crumb in dicts(event.get("breadcrumbs")))
    yield from ((span, ("description", "data")) for span in dicts(event.get("spans")))
    yield from ((raised, ("value",)) for raised in dicts(event.get("exception")))
    yield from ((frame, ("vars",)) for frame in frames_of(event))
    contexts = event.get("contexts")
    if isinstance(contexts, dict):
        yield contexts, contexts.keys() - _NO_TEXTS
        yield from ((trace, ("description", "data")) for trace in dicts([contexts.get("trace")]))


def replaced(value: Any, replace: Replace) -> Any:
    """A copy of a value with the texts in it replaced; keys stay."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, dict):
        return {key: replaced(item, replace) for key, item in value.items()}
    return [replaced(item, replace) for item in value] if isinstance(value, list) else value


def _replacing(secrets: Mapping[str, str], paths: Sequence[str]) -> Replace | None:
    patterns = {text: _pattern(text) for text in secrets if text}
    for path in paths:
        if len(path) > 1:
            patterns[path] = (_BEGIN if len(path) < _TELLING else "") + re.escape(path) + _END
    if not patterns:
        return None
    found = re.compile("|".join(patterns[text] for text in sorted(patterns, key=len, reverse=True)))
    return lambda text: found.sub(lambda match: secrets.get(match[0], _UNMATCHED), text)


def _pattern(text: str) -> str:
    """Where a part of a path is taken for itself: a short one may stand in a text by chance."""
    if text[0] == "/":
        return re.escape(text) + _END
    if len(text) >= _TELLING:
        return re.escape(text)
    return (_BEGIN if len(text) >= _WORD else "(?<=/)") + re.escape(text) + _END
