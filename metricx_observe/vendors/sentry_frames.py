"""What makes an error costly: the SDK reads each frame's file anew, and walks frames, locals and modules twice.

Of 7 ms for an error with 20 frames 4 are for source lines, and most of the rest for its serialiser, at 2 us a value.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

import orjson
from sentry_sdk.serializer import MAX_DATABAG_BREADTH, serialize
from sentry_sdk.utils import exc_info_from_error, has_data_collection_enabled, iter_stacks, walk_exception_chain

_LINES, _LINE = 5, 1024
"""Of source on each side of a frame's own, and characters of one: as much as the SDK sends."""
_TEXT = 1024
"""Characters of a text that are shown for certain, where the application gave no `max_value_length`."""
_CUT = frozenset({"event_id", "exception", "extra", "breadcrumbs", "spans", "threads"})
"""Parts of an event that the serialiser cuts to a depth and breadth, or that we look at ourselves."""
_LARGE = 64 << 10
_PYTHONS_OWN = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})


Step = tuple[dict[str, Any], dict[str, Any], FrameType]
"""A frame of an event, the empty dict that stands for its locals, and where they are."""


class Bypass:
    """Given to the SDK as its `event_scrubber`, which runs last before its serialiser: holds back what is JSON already.

    The SDK's own scrubber is not used: ours looks at everything, later.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options`: what the application gave to `sentry_sdk.init`."""
        self._scrubber = options.get("event_scrubber")
        self._largest = min(_LARGE, options.get("max_value_length") or _LARGE)
        self._held: dict[str, tuple[Any, dict[str, Any], dict[str, Any], list[Any]]] = {}
        self._steps: dict[str, tuple[list[Step], Mapping[str, Any]]] = {}

    @contextmanager
    def locals_for(self, event: Any, steps: list[Step], options: Mapping[str, Any]) -> Iterator[None]:
        """A block in which an event is captured; its frames get their locals when the SDK knows whose they are."""
        self._steps[event["event_id"]] = steps, options
        try:
            yield
        finally:
            self._steps.pop(event["event_id"], None)
            self._held.pop(event["event_id"], None)

    def scrub_event(self, event: Any) -> None:
        """Hold back the stacks of an event, and all that the serialiser would leave as it is."""
        tell_own(event)
        add_locals(*self._steps.get(event["event_id"], ([], {})))
        if self._scrubber is not None:
            self._scrubber.scrub_event(event)
        plain = {key: value for key in event.keys() - _CUT if (value := self._json(event[key])) is not None}
        taken = {key: event.pop(key) for key in plain}
        # not where the application's scrubber has left marks of the SDK's own kind
        whole = [_has_stack(value) and bool(is_json(value)) for value in _values(event)]
        stacks = [value.pop("stacktrace") if mine else None for value, mine in zip(_values(event), whole, strict=True)]
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

    def _json(self, value: object) -> Any:
        """A copy of what is JSON; None for what is not, and for what is so large that the serialiser might cut it."""
        data = is_json(value)
        return orjson.loads(data) if 0 < len(data) <= self._largest else None


def is_json(value: object) -> bytes:
    """`value` as JSON where it is nothing else; empty where it is."""
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        return b""


def _has_stack(value: dict[str, Any]) -> bool:
    return isinstance(value.get("stacktrace"), dict)  # one that was too large is the SDK's own kind of value


def _values(event: Any, key: str = "exception") -> list[dict[str, Any]]:
    part = event.get(key)
    values = part.get("values") if isinstance(part, dict) else None
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def frames(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All frames of an event."""
    for key in ("exception", "threads"):
        for value in filter(_has_stack, _values(event, key)):
            yield from value["stacktrace"].get("frames") or ()


def tell_own(event: dict[str, Any]) -> None:
    """Mark what the SDK leaves open: a frame outside the working directory that is of no package and not of Python's.

    The SDK looks at site-packages and the working directory only, which need not be where the application is.
    """
    for frame in frames(event):
        if frame.get("in_app") is None and isinstance(path := frame.get("abs_path"), str):
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


def steps_of(event: dict[str, Any], error: BaseException, options: Mapping[str, Any]) -> list[Step] | None:
    """The frames of an event that was just made of `error`; None where the SDK would not make them as we see them."""
    special = options.get("add_full_stack") or has_data_collection_enabled(dict(options))
    if not options["include_local_variables"] or special or isinstance(error, BaseExceptionGroup):
        return None
    steps, values = list[Step](), _values(event)
    chain = list(walk_exception_chain(exc_info_from_error(error)))
    if len(chain) != len(values):
        return None
    for value, (_, _, traceback) in zip(reversed(values), chain, strict=True):
        stack = value["stacktrace"].get("frames") or () if _has_stack(value) else ()
        for frame, step in zip(stack, iter_stacks(traceback), strict=False):
            frame["vars"] = found = dict[str, Any]()
            steps.append((frame, found, step.tb_frame))
    return steps


def add_locals(steps: list[Step], options: Mapping[str, Any]) -> None:
    """Put locals on the application's own frames, as the SDK shows them, each object once however many frames hold it.

    Not on a framework's: those hold the raw request. Not where somebody took the frame's place for them off.
    """
    shown: dict[int, Any] = {}
    custom, longest = options.get("custom_repr"), options.get("max_value_length") or _TEXT

    def show(value: object) -> Any:
        if custom is None and type(value) in (int, float, bool, str) and len(text := repr(value)) <= longest:
            return text
        if id(value) not in shown:
            cut = options.get("max_value_length")
            shown[id(value)] = serialize({"": value}, is_vars=True, custom_repr=custom, max_value_length=cut)[""]
        return shown[id(value)]

    for frame, place, where in steps:
        if frame.get("vars") is place and frame.get("in_app"):
            found = islice(where.f_locals.items(), MAX_DATABAG_BREADTH)
            place.update((name, show(local)) for name, local in found)
        elif frame.get("vars") is place:
            del frame["vars"]
