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

from .options import streams_spans
from .rules import Replace, Rules, replaced, replacing

PARAMETER, TEMPLATE = "sentry.message.parameter.", "sentry.message.template"
"""Attributes of a log."""
_REPLACED = re.compile(rf"{MARKER.pattern}|[0-9a-f]{{64}}")
_MOST, _LARGEST = 100, 20_000
"""Parameters of one message that are looked at, and bytes of one that is no text."""
_SHORT = 4
"""A value below this length is taken out as a whole word only: it may stand inside of any other."""
_LONGEST = 1_000
"""Characters of a template whose parameters are named by the text before them."""

Named = list[tuple[str, object]]
"""Names and values that belong to one message."""
Hook = Callable[[Any, Any], Any]


class Messages:
    """Looks up the secrets among the parameters of messages. Safe to use from several threads."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber

    def crumb_hook(self, theirs: Hook | None) -> Hook:
        """A `before_breadcrumb` that runs the application's, and then cleans the text, all that a breadcrumb has."""

        def hook(crumb: Any, hint: Any) -> Any:
            found = crumb
            try:
                found = crumb if theirs is None else theirs(crumb, hint)
            finally:  # where the application's raises, the SDK keeps the crumb
                if isinstance(found, dict) and isinstance(text := found.get("message"), str):
                    named = _items(found.get("data")) + self._of_record(hint.get("log_record"))
                    found["message"] = replaced(text, self._replacing(named, "drop"))
            return found

        return hook

    def item_hooks(self, given: Mapping[str, Any], rules_now: Callable[[], Rules]) -> dict[str, Hook]:
        """The SDK's `before_send_log` and its like: those of the options given first, then ours.

        What depends on the request is settled here: the SDK gathers such items across requests.
        """
        experiments = given.get("_experiments") or {}
        names = ["before_send_log", "before_send_metric"]
        if streams_spans(given):  # the SDK warns elsewhere
            names.append("before_send_span")

        def after(theirs: Hook | None) -> Hook:
            def hook(item: Any, hint: Any) -> Any:
                found = item if theirs is None else theirs(item, hint)
                if isinstance(found, dict) and isinstance(found.get("attributes"), dict):
                    self._clean_item(found, rules_now())
                return found

            return hook

        return {name: after(given.get(name) or experiments.get(name)) for name in names}

    def clean_event(self, event: dict[str, Any], record: Any, personal: Personal) -> None:
        """Take off an event's message, and its parameters, what these, its `extra` or the log record give away."""
        logged = event.get("logentry")
        logged = logged if isinstance(logged, dict) else {}
        params = logged.get("params")
        named = self._named(logged.get("message"), params) + self._of_record(record) + _items(event.get("extra"))
        replace = self._replacing(named, personal)
        for place, key in ((event, "message"), (logged, "message"), (logged, "formatted")):
            if isinstance(text := place.get(key), str):
                place[key] = replaced(text, replace)
        if isinstance(params, list):
            logged["params"] = replaced(params, replace)

    def _clean_item(self, item: dict[str, Any], rules: Rules) -> None:
        attributes = item["attributes"]
        if rules.refused:
            for name in [name for name in attributes if name.startswith("user.")]:
                del attributes[name]
        if isinstance(text := item.get("body"), str):
            positional = parameters(attributes)
            others = {name.removeprefix(PARAMETER): attributes[name] for name in attributes if name not in positional}
            named = self._named(attributes.get(TEMPLATE), [*positional.values()]) + _items(others)
            replace = self._replacing(named, rules.personal)
            item["body"] = replaced(text, replace)
            given = [name for name in attributes if name.startswith(PARAMETER) and isinstance(attributes[name], str)]
            attributes |= {name: replaced(attributes[name], replace) for name in given}
        rules.travel_in(attributes)

    def _named(self, template: object, params: object) -> Named:
        """A message's parameters: `failed: password=%s` names its first one."""
        if not isinstance(params, (tuple, list)):
            return _items(params)
        if not params:
            return []
        # which of the positional ones the text before them names as a secret
        filled = [f"x{position}" for position in range(min(len(params), _MOST))]
        text = template if isinstance(template, str) and len(template) <= _LONGEST else ""
        scrubbed = self._scrubber.scrub({"message": text, "params": filled}, "log", "params")["params"]
        names = ["" if before == after else "secret" for before, after in zip(filled, scrubbed, strict=False)]
        return [*zip(names, params, strict=False)]

    def _of_record(self, record: Any) -> Named:
        """The arguments and the `extra` of a `logging.LogRecord`."""
        if record is None:
            return []
        extra = [item for item in vars(record).items() if item[0] not in EventHandler.COMMON_RECORD_ATTRS]
        return self._named(record.msg, record.args) + extra

    def _replacing(self, named: Named, personal: Personal) -> Replace | None:
        """What takes the values that a name gives away out of a text."""
        found: dict[str, str] = {}
        for name, value in islice(named, _MOST):
            is_plain = value is None or type(value) in (str, int, float, bool)
            # a text under a harmless name is no secret, or is one by its look wherever it stands
            if is_plain and not self._scrubber.is_telling(name):
                continue
            kept = value if is_plain else plain(value, max_bytes=_LARGEST)
            scrubbed = self._scrubber.scrub({name: kept}, "log", "params", personal=personal).get(name)
            found |= _changed(kept, scrubbed)
            if type(value) is not type(kept) and kept != scrubbed:
                found |= dict.fromkeys(_shown(value), str(scrubbed))
        return replacing({form: marker for value, marker in found.items() for form in _forms(value)}, _pattern)


def parameters(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The positional parameters of a log, in their order."""
    found: dict[str, Any] = {}
    while (name := f"{PARAMETER}{len(found)}") in attributes:
        found[name] = attributes[name]
    return found


def _items(data: object) -> Named:
    return [(str(name), value) for name, value in data.items()] if isinstance(data, Mapping) else []


def _changed(before: object, after: object) -> dict[str, str]:
    """The single values that were replaced as a whole, and by what."""
    pairs: Iterable[tuple[object, object]]
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


def _forms(value: str) -> Iterator[str]:
    """A value as it may stand in a text: plainly, in a repr, in JSON, in an address."""
    if value.strip():
        text = value.encode("utf-8", "replace").decode()
        yield from (value, repr(value)[1:-1], orjson.dumps(text).decode()[1:-1], quote(text, safe=""))


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
