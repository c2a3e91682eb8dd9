"""Sentry's logs, metrics and streamed spans: items with attributes, which the SDK gathers across requests.

What depends on the request is settled at the call, in the item's own hook: whose path it was, and whether the user
allowed personal data. It travels to the writer, which scrubs, as one more attribute, and is taken off there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from metricx_observe.scrubber import Personal, Scrubber

from .messages import Messages, replace_values
from .options import streams_spans
from .rules import Rules, replaced, take_rules

_PARAMETER, _TEMPLATE = "sentry.message.parameter.", "sentry.message.template"
_TEXTS = ("body", "name")
_FIXED = frozenset({"sentry.release", "sentry.environment"})
"""What the SDK fills in itself; `shop@1.2.3` has the look of an e-mail address."""

Hook = Callable[[Any, Any], Any]


def item_hooks(given: Mapping[str, Any], messages: Messages, rules_now: Callable[[], Rules]) -> dict[str, Hook]:
    """The SDK's `before_send_log` and its like: those of the options given first, then ours."""
    experiments = given.get("_experiments") or {}
    names = ["before_send_log", "before_send_metric"]
    if streams_spans(given):  # the SDK warns elsewhere
        names.append("before_send_span")

    def after(theirs: Hook | None) -> Hook:
        def hook(item: Any, hint: Any) -> Any:
            found = item if theirs is None else theirs(item, hint)
            if isinstance(found, dict) and isinstance(found.get("attributes"), dict):
                _settle(found, rules_now(), messages)
            return found

        return hook

    return {name: after(given.get(name) or experiments.get(name)) for name in names}


def _settle(item: dict[str, Any], rules: Rules, messages: Messages) -> None:
    attributes = item["attributes"]
    if rules.refused:
        for name in [name for name in attributes if name.startswith("user.")]:
            del attributes[name]
    if isinstance(text := item.get("body"), str):
        positional, named = _parameters(attributes)
        found = messages.secrets(attributes.get(_TEMPLATE), positional, named, rules.personal)
        item["body"] = replace_values(text, found)
        for name, value in attributes.items():
            if name.startswith(_PARAMETER) and isinstance(value, str):
                attributes[name] = replace_values(value, found)
    rules.travel_in(attributes)


def _parameters(attributes: Mapping[str, Any]) -> tuple[list[Any], list[tuple[str, Any]]]:
    """Positional parameters of a message in their order, and all other attributes under their own names."""
    positional: list[str] = []
    while (name := f"{_PARAMETER}{len(positional)}") in attributes:
        positional.append(name)
    named = [(name.removeprefix(_PARAMETER), value) for name, value in attributes.items() if name not in positional]
    return [attributes[name] for name in positional], named


def scrub_items(content: dict[str, Any], category: str, scrubber: Scrubber) -> dict[str, Any]:
    """Items with attributes as they may be stored."""
    return {**content, "items": [_scrub_item(item, category, scrubber) for item in content["items"]]}


def _scrub_item(item: Any, category: str, scrubber: Scrubber) -> Any:
    if not isinstance(item, dict) or not isinstance(given := item.get("attributes"), dict):
        return scrubber.scrub(item, category, "item", personal="hash")
    rules = take_rules(given)
    values = {name: each["value"] if _is_typed(each) else each for name, each in given.items()}
    fixed = {name: given[name] for name in _FIXED & given.keys()}
    clean = _scrub_attributes(
        {name: values[name] for name in values.keys() - _FIXED}, category, scrubber, rules.personal
    )
    # a metric's name says nothing of the value beside it
    found = {key: scrubber.text(item[key], category, key, personal=rules.personal) for key in _TEXTS if key in item}
    rest = {key: value for key, value in item.items() if key not in ("attributes", *_TEXTS)}
    if (replace := rules.replace_unbound) is not None:
        found = {key: replaced(text, replace) for key, text in found.items()}
        clean |= {name: replaced(clean[name], replace) for name in clean if not name.startswith("user.")}
    attributes = {
        scrubber.text(name, category, "attributes", personal=rules.personal): _typed(given[name], clean[name])
        for name in given
        if name not in _FIXED
    }
    rest = scrubber.scrub(rest, category, "item", personal=rules.personal)
    return {**rest, **found, "attributes": attributes | fixed}


def _scrub_attributes(values: dict[str, Any], category: str, scrubber: Scrubber, personal: Personal) -> dict[str, Any]:
    """Values by the names of their attributes; of a message's parameters by the template or their own name."""
    scrub = partial(scrubber.scrub, signal=category, place="attributes")
    positional, _ = _parameters(values)
    message = {"message": str(values.get(_TEMPLATE, "")), "params": positional}
    params = scrub(message, personal=personal)["params"] if positional else []
    clean = {f"{_PARAMETER}{at}": value for at, value in enumerate(params)}
    for name in values.keys() - clean.keys():
        # Sentry's own place for a person: who was bound stays, as on an error
        found = scrub(
            {name.removeprefix(_PARAMETER): values[name]}, personal="keep" if name.startswith("user.") else personal
        )
        clean[name] = next(iter(found.values()))
    return clean


def _is_typed(attribute: Any) -> bool:
    return isinstance(attribute, dict) and "value" in attribute


def _typed(given: Any, value: Any) -> Any:
    """As it was given, with its type, but for a number that became a text."""
    if not _is_typed(given):
        return value
    return {**given, "value": value, **({"type": "string"} if isinstance(value, str) else {})}
