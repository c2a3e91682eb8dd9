"""What makes an error costly: the SDK reads each frame's file anew, and walks frames, locals and modules twice.

Of 7 ms for an error with 20 frames 4 are for source lines, and most of the rest for its serialiser, at 2 us a value.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from sentry_sdk.serializer import MAX_DATABAG_BREADTH, serialize
from sentry_sdk.utils import exc_info_from_error, has_data_collection_enabled, iter_stacks, walk_exception_chain

_LINES, _LINE = 5, 1024
"""Of source on each side of a frame's own, and characters of one: as much as the SDK sends."""
_TEXT = 1024
"""Characters of a text that are shown for certain, where the application gave no `max_value_length`."""
_MOST_HELD = 100
_CUT = frozenset({"event_id", "exception", "extra", "breadcrumbs", "request", "spans", "threads"})
"""Parts of an event that the serialiser cuts to a depth and breadth, or that we look at ourselves."""
_LARGE = 64 << 10
_PYTHONS_OWN = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})


class Bypass:
    """Given to the SDK as its `event_scrubber`, which runs last before its serialiser: holds back what is JSON already.

    The SDK's own scrubber is not used: ours looks at everything, later.
    """

    def __init__(self, scrubber: Any) -> None:
        self._scrubber = scrubber
        """What the application gave as `event_scrubber`, or None."""
        self._held: dict[str, tuple[Any, dict[str, Any], dict[str, Any], list[Any]]] = {}

    def scrub_event(self, event: Any) -> None:
        """Hold back the stacks of an event, and all that the serialiser would leave as it is."""
        if self._scrubber is not None:
            self._scrubber.scrub_event(event)
        if len(self._held) >= _MOST_HELD:  # never: each is taken back at once, by the same thread
            self._held.clear()
        plain = {key: value for key in event.keys() - _CUT if (value := _json(event[key])) is not None}
        taken = {key: event.pop(key) for key in plain}
        stacks = [value.pop("stacktrace") if _has_stack(value) else None for value in _values(event)]
        self._held[event["event_id"]] = event, taken, plain, stacks

    def put_back(self, event: Any) -> None:
        """Put what was held back on the serialised event, and on the one that was given, which is somebody's own."""
        if event["event_id"] in self._held:
            given, taken, plain, stacks = self._held.pop(event["event_id"])
            given |= taken
            event |= plain
            for theirs, ours, stack in zip(_values(given), _values(event), stacks, strict=False):
                if stack is not None:
                    theirs["stacktrace"] = stack
                    ours["stacktrace"] = {**stack, "frames": [dict(frame) for frame in stack.get("frames") or ()]}


def _json(value: object) -> Any:
    """A copy of what is JSON; None for what is not, and for what is so large that the serialiser might cut it."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        return None
    return orjson.loads(data) if len(data) <= _LARGE else None


def _has_stack(value: dict[str, Any]) -> bool:
    return isinstance(value.get("stacktrace"), dict)  # one that was too large is the SDK's own kind of value


def _values(event: Any) -> list[dict[str, Any]]:
    values = (event.get("exception") or {}).get("values")
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def frames(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All frames of an event."""
    for key in ("exception", "threads"):
        for value in (event.get(key) or {}).get("values") or ():
            yield from ((value or {}).get("stacktrace") or {}).get("frames") or ()


def tell_own(event: dict[str, Any]) -> None:
    """Mark what the SDK leaves open: a frame outside the working directory that is of no package and not of Python's.

    The SDK looks at site-packages and the working directory only, which need not be where the application is.
    """
    for frame in (each for each in frames(event) if each.get("in_app") is None):
        path = frame.get("abs_path") or "<"
        frame["in_app"] = not path.startswith(("<", *_PYTHONS_OWN))


def add_source(event: dict[str, Any]) -> None:
    """Put the lines around each frame's own on it, as the SDK does, from a cache of the files."""
    for frame in (each for each in frames(event) if "context_line" not in each):
        lines, at = linecache.getlines(frame.get("abs_path") or ""), (frame.get("lineno") or 0) - 1
        if 0 <= at < len(lines):
            first = max(at - _LINES, 0)
            shown = [line.rstrip("\r\n")[:_LINE] for line in lines[first : at + _LINES + 1]]
            frame["pre_context"], frame["context_line"] = shown[: at - first], shown[at - first]
            frame["post_context"] = shown[at - first + 1 :]


def own_locals(error: BaseException, options: dict[str, Any]) -> bool:
    """Whether `add_locals` can do the SDK's work for this error: not where its frames would not be those we see."""
    special = options.get("add_full_stack") or has_data_collection_enabled(options)
    return bool(options["include_local_variables"]) and not special and not isinstance(error, BaseExceptionGroup)


def add_locals(event: dict[str, Any], error: BaseException, options: dict[str, Any]) -> None:
    """Put locals on the application's own frames, as the SDK shows them, each object once however many frames hold it.

    Not on a framework's: those hold the raw request.
    """
    shown: dict[int, Any] = {}
    custom, longest = options.get("custom_repr"), options["max_value_length"] or _TEXT

    def show(value: object) -> Any:
        if custom is None and type(value) in (int, float, bool, str) and len(text := repr(value)) <= longest:
            return text
        if id(value) not in shown:
            wrapped = serialize({"": value}, is_vars=True, custom_repr=custom, max_value_length=longest)
            shown[id(value)] = wrapped[""]
        return shown[id(value)]

    chain = walk_exception_chain(exc_info_from_error(error))
    for value, (_, _, traceback) in zip(reversed(_values(event)), chain, strict=False):
        stack = (value.get("stacktrace") or {}).get("frames") or ()
        for frame, step in zip(stack, iter_stacks(traceback), strict=False):
            if frame.get("in_app"):
                found = islice(step.tb_frame.f_locals.items(), MAX_DATABAG_BREADTH)
                frame["vars"] = {name: show(local) for name, local in found}
