"""Sentry's logs, metrics and streamed spans: items with attributes, which the SDK gathers across requests.

What depends on the request is settled at the call, in the item's own hook: whose path it was, and whether the user
allowed personal data. It travels to the writer, which scrubs, as one more attribute, and is taken off there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from metricx_observe.context import Context
from metricx_observe.scrubber import Personal, Scrubber

from .sentry_events import rules_of
from .sentry_messages import Messages, replaced
from .sentry_rules import NO_RULES, Rules, policy, replacing
from .sentry_rules import replaced as without_secret

_RULES = "metricx.rules"
"""The attribute that travels. The application's hook has run when it is put on."""
_PARAMETER, _TEMPLATE = "sentry.message.parameter.", "sentry.message.template"
_TEXTS = ("body", "name")
_FIXED = frozenset({"sentry.release", "sentry.environment"})
"""What the SDK fills in itself; `shop@1.2.3` has the look of an e-mail address."""

Hook = Callable[[Any, Any], Any]


class ItemHooks:
    """The SDK's `before_send_log` and its like: the application's own first, then ours."""

    def __init__(self, messages: Messages, cell: Callable[[], Context], scrubber: Scrubber) -> None:
        self._messages = messages
        self._cell = cell
        self._scrubber = scrubber

    def options(self, given: Mapping[str, Any]) -> dict[str, Hook]:
        """The SDK's options with these hooks, after those of the options given."""
        experiments = given.get("_experiments") or {}
        names = ["before_send_log", "before_send_metric"]
        if "stream" in (given.get("trace_lifecycle"), experiments.get("trace_lifecycle")):  # the SDK warns elsewhere
            names.append("before_send_span")
        return {name: self._after(given.get(name) or experiments.get(name)) for name in names}

    def _after(self, theirs: Hook | None) -> Hook:
        """A hook that runs `theirs`, and then settles what depends on the request."""

        def hook(item: Any, hint: Any) -> Any:
            found = item if theirs is None else theirs(item, hint)
            if isinstance(found, dict) and isinstance(found.get("attributes"), dict):
                self._settle(found)
            return found

        return hook

    def _settle(self, item: dict[str, Any]) -> None:
        attributes, cell = item["attributes"], self._cell()
        request, paths = (None, ()) if cell.info is None else (cell.info.facts(), cell.info.paths())
        rules = rules_of(cell.state, request, self._scrubber, paths)
        personal = policy(rules)
        if rules.refused:
            for name in [name for name in attributes if name.startswith("user.")]:
                del attributes[name]
        if isinstance(text := item.get("body"), str):
            positional, named = _parameters(attributes)
            found = self._messages.secrets(attributes.get(_TEMPLATE), positional, named, personal)
            item["body"] = replaced(text, found)
            for name, value in attributes.items() if found else ():
                if name.startswith(_PARAMETER) and isinstance(value, str):
                    attributes[name] = replaced(value, found)
        attributes.pop(_RULES, None)  # nobody else's
        if rules.refused or rules.secrets or rules.paths:
            attributes[_RULES] = _packed(rules)


def _parameters(attributes: Mapping[str, Any]) -> tuple[list[Any], list[tuple[str, Any]]]:
    """Positional parameters of a message in their order, and all other attributes under their own names."""
    given = {
        name.removeprefix(_PARAMETER): value for name, value in attributes.items() if name.startswith(_PARAMETER)
    }
    positional: list[Any] = []
    while str(len(positional)) in given:
        positional.append(given.pop(str(len(positional))))
    rest = [(name, value) for name, value in attributes.items() if not name.startswith(_PARAMETER)]
    return positional, [*given.items(), *rest]


def scrub_items(content: dict[str, Any], category: str, scrubber: Scrubber) -> dict[str, Any]:
    """Items with attributes as they may be stored."""
    return {**content, "items": [_scrub_item(item, category, scrubber) for item in content["items"]]}


def _scrub_item(item: Any, category: str, scrubber: Scrubber) -> Any:
    if not isinstance(item, dict) or not isinstance(given := item.get("attributes"), dict):
        return scrubber.scrub(item, category, "item", personal="hash")
    given = dict(given)
    rules = _unpacked(given.pop(_RULES, None))
    fixed = {name: given.pop(name) for name in _FIXED & given.keys()}
    personal = policy(rules)
    values = {name: each["value"] if _is_typed(each) else each for name, each in given.items()}
    clean = _scrub_attributes(values, category, scrubber, personal)
    texts = {key: scrubber.text(item[key], category, key, personal=personal) for key in _TEXTS if key in item}
    texts, clean = _without_path(texts, clean, rules)
    attributes = {
        scrubber.text(name, category, "attributes", personal=personal): _typed(given[name], value)
        for name, value in clean.items()
    }
    rest = {key: value for key, value in item.items() if key not in ("attributes", *_TEXTS)}
    return {**scrubber.scrub(rest, category, "item", personal=personal), **texts, "attributes": attributes | fixed}


def _scrub_attributes(
    values: dict[str, Any], category: str, scrubber: Scrubber, personal: Personal
) -> dict[str, Any]:
    """Values by the names of their attributes; of a message's parameters by the template or their own name."""

    def scrub(name: str, value: Any, personal: Personal = personal) -> Any:
        return next(iter(scrubber.scrub({name: value}, category, "attributes", personal=personal).values()))

    positional, _ = _parameters(values)
    message = {"message": str(values.get(_TEMPLATE, "")), "params": positional}
    params = scrubber.scrub(message, category, "attributes", personal=personal)["params"] if positional else []
    clean = {f"{_PARAMETER}{at}": value for at, value in enumerate(params)}
    for name, value in values.items():
        if name not in clean:
            own = name.removeprefix(_PARAMETER)
            # Sentry's own place for a person: who was bound stays, as on an error
            clean[name] = scrub(own, value, "keep" if name.startswith("user.") else personal)
    return {name: clean[name] for name in values}


def _without_path(texts: dict[str, Any], values: dict[str, Any], rules: Rules) -> tuple[dict[str, Any], dict[str, Any]]:
    """Texts and values without what stood in the request's path: its secret parameters, or all of an unknown one."""
    if (replace := replacing(rules.free, rules.paths)) is None:
        return texts, values
    without = partial(without_secret, replace=replace)
    told = {name: value if name.startswith("user.") else without(value) for name, value in values.items()}
    return {name: without(text) for name, text in texts.items()}, told


def _is_typed(attribute: Any) -> bool:
    return isinstance(attribute, dict) and "value" in attribute


def _typed(given: Any, value: Any) -> Any:
    """As it was given, with its type, but for a number that became a text."""
    if not _is_typed(given):
        return value
    return {**given, "value": value, **({"type": "string"} if isinstance(value, str) else {})}


def _packed(rules: Rules) -> str:
    return orjson.dumps({**rules._asdict(), "bound": [*rules.bound]}).decode()


def _unpacked(given: Any) -> Rules:
    try:
        found = orjson.loads(given["value"] if _is_typed(given) else given)
        return Rules(**{**found, "bound": frozenset(found["bound"])})
    except (ValueError, TypeError, KeyError):  # none, or the application's own attribute of this name
        return NO_RULES
