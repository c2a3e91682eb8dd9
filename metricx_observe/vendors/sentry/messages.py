"""Messages with parameters: what stands under a secret name in a parameter must not stand in the formatted text either.

`logger.error("in: %(password)s", {"password": s})` has no name before the value in its text, and a breadcrumb has the
text alone. So the values are looked up while both are at hand: at the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote

import orjson
from sentry_sdk.integrations.logging import EventHandler

from metricx_observe.interrupts import suppress_faults
from metricx_observe.normalise import plain
from metricx_observe.scrubber import MARKER, Personal, Scrubber

_REPLACED = re.compile(rf"{MARKER.pattern}|[0-9a-f]{{64}}")
_MOST, _LARGEST = 50, 20_000
"""Parameters of one message that are looked at, and bytes of one that is no text."""
_SHORT = 4
"""A value below this length is taken out as a whole word only: it may stand inside of any other."""
_LONGEST = 1_000
"""Characters of a template whose parameters are named by the text before them."""

Named = Iterable[tuple[str, object]]
Found = dict[str, str]
"""Values that must not stand in a text, and what stands in their places."""


class Messages:
    """Looks up the secrets among the parameters of messages. Safe to use from several threads."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber

    def secrets(self, template: object, params: object, more: Named = (), personal: Personal = "drop") -> Found:
        """The values that a name gives away, and what stands in their places.

        Args:
            template: What the message was formatted of: `failed: password=%s` names its first parameter.
            params: A mapping, a sequence of positional ones, or anything else for none.
            more: Names and values that belong to the same message: a record's `extra`, a breadcrumb's data.
            personal: What becomes of personal data.
        """
        found: Found = {}
        for name, value in islice((*self._named(template, params), *more), _MOST):
            is_plain = value is None or type(value) in (str, int, float, bool)
            # a text under a harmless name is no secret, or is one by its look wherever it stands
            if is_plain and not self._scrubber.is_telling(name):
                continue
            kept = value if is_plain else plain(value, max_bytes=_LARGEST)
            scrubbed = self._scrubber.scrub({name: kept}, "log", "params", personal=personal).get(name)
            found |= _changed(kept, scrubbed)
            if type(value) is not type(kept) and kept != scrubbed:
                found |= dict.fromkeys(_shown(value), str(scrubbed))
        return found

    def of_record(self, record: Any, personal: Personal = "drop") -> Found:
        """The same of a `logging.LogRecord`: of its arguments and its `extra`."""
        extra = [item for item in vars(record).items() if item[0] not in EventHandler.COMMON_RECORD_ATTRS]
        return self.secrets(record.msg, record.args, extra, personal)

    def _named(self, template: object, params: object) -> Named:
        if isinstance(params, Mapping):
            return _items(params)
        if not isinstance(params, (tuple, list)):
            return ()
        # which of the positional ones the text before them names as a secret
        filled = [f"x{position}" for position in range(min(len(params), _MOST))]
        text = template if isinstance(template, str) and len(template) <= _LONGEST else ""
        scrubbed = self._scrubber.scrub({"message": text, "params": filled}, "log", "params")["params"]
        names = ["" if before == after else "secret" for before, after in zip(filled, scrubbed, strict=False)]
        return zip(names, params, strict=False)


def crumb_hook(theirs: Callable[[Any, Any], Any] | None, messages: Messages) -> Callable[[Any, Any], Any]:
    """A `before_breadcrumb` that runs the application's, and then cleans the text, all that a breadcrumb has."""

    def hook(crumb: Any, hint: Any) -> Any:
        found = crumb
        try:
            found = crumb if theirs is None else theirs(crumb, hint)
        finally:  # where the application's raises, the SDK keeps the crumb
            if isinstance(found, dict) and isinstance(text := found.get("message"), str):
                record, secrets = hint.get("log_record"), messages.secrets(None, None, _items(found.get("data")))
                secrets |= {} if record is None else messages.of_record(record)
                found["message"] = replace_values(text, secrets)
        return found

    return hook


def clean_message(event: dict[str, Any], record: Any, messages: Messages, personal: Personal) -> None:
    """Take off an event's message, and its parameters, what these, its `extra` or the log record give away."""
    logged = event.get("logentry")
    logged = logged if isinstance(logged, dict) else {}
    params = logged.get("params")
    found = messages.secrets(logged.get("message"), params, _items(event.get("extra")), personal)
    found |= {} if record is None else messages.of_record(record, personal)
    for place, key in ((event, "message"), (logged, "message"), (logged, "formatted")):
        if isinstance(text := place.get(key), str):
            place[key] = replace_values(text, found)
    if isinstance(params, list):
        logged["params"] = [replace_values(each, found) if isinstance(each, str) else each for each in params]


def _items(data: object) -> list[tuple[str, object]]:
    return [(str(name), value) for name, value in data.items()] if isinstance(data, Mapping) else []


def _changed(before: object, after: object) -> Found:
    """The single values that were replaced as a whole, and by what."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = zip(before.values(), after.values(), strict=False)
    elif isinstance(before, list) and isinstance(after, list):
        pairs = zip(before, after, strict=False)
    else:
        whole = isinstance(after, str) and before != after and _REPLACED.fullmatch(after)
        return {str(before): str(after)} if whole else {}
    return {text: marker for pair in pairs for text, marker in _changed(*pair).items()}


def _shown(value: object) -> Iterator[str]:
    """How a value that is no text stands in a formatted one."""
    for show in (str, repr):
        with suppress_faults():  # it could not stand there either
            yield show(value)


def replace_values(text: str, found: Found) -> str:
    """`text` with what was found in its place, in one pass."""
    forms = {form: marker for value, marker in found.items() for form in _forms(value)}
    if not forms:
        return text
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = "|".join(
        re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest_first
    )
    return re.sub(pattern, lambda match: forms[match[0]], text)


def _forms(value: str) -> Iterator[str]:
    """A value as it may stand in a text: plainly, in a repr, in JSON, in an address."""
    if value.strip():
        text = value.encode("utf-8", "replace").decode()
        yield from (value, repr(value)[1:-1], orjson.dumps(text).decode()[1:-1], quote(text, safe=""))
