"""What we take off Sentry's envelopes, on the writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from metricx_observe.scrubber import Personal, Scrubber

from .events import dicts, frames_of
from .messages import PARAMETER, TEMPLATE, parameters
from .rules import Rules, replaced, take_rules

_FILLED_IN = frozenset(
    {"event_id", "timestamp", "start_timestamp", "platform", "sdk", "modules", "level", "type", "release",
     "environment", "dist", "server_name", "transaction_info", "measurements", "_meta", "debug_meta"}
)  # fmt: skip
"""What the SDK or we fill in ourselves, with nothing of the application's data: the same below, of other parts."""
_HEADERS_FILLED_IN = frozenset(
    {"event_id", "sent_at", "sdk", "type", "length", "item_count", "trace_id", "public_key", "org_id", "sampled",
     "sample_rate", "sample_rand", "replay_id", "release", "environment"}
)  # fmt: skip
_ATTRIBUTES_FILLED_IN = frozenset({"sentry.release", "sentry.environment"})  # `shop@1.2.3` looks like an e-mail address
_CONTEXTS_FILLED_IN = frozenset({"trace", "runtime", "workspace", "langfuse", "os", "device"})
_OUR_TAGS = frozenset({"request_id", "workspace_id", "langfuse_trace_id"})
_CUT = "[cut]"
_MANY_TAGS = 200


def scrub_event(event: dict[str, Any], category: str, scrubber: Scrubber, rules: Rules) -> dict[str, Any]:
    """An event, transaction or other item as it may be stored. `event` may be changed.

    Where the scrubber's time runs out, only the largest parts are cut: by then it has read ids, op and status, without
    which Sentry takes no transaction.
    """
    data = {key: [holder.pop("data", None) for holder in holders] for key, holders in _with_data(event).items()}
    contexts = event.get("contexts")
    others = {name: contexts.pop(name) for name in contexts.keys() - {"trace"}} if isinstance(contexts, dict) else {}
    scrubbed: dict[str, Any] = {}
    for key in sorted(event, key=lambda key: _size(event[key])):
        personal: Personal = "keep" if key == "user" else rules.personal
        is_ours = key in _FILLED_IN
        scrubbed[key] = event[key] if is_ours else _named(scrubber, key, event[key], category, key, personal)
    bulk = [("contexts", each, *other) for each in dicts([scrubbed.get("contexts")]) for other in others.items()]
    for key, holders in _with_data(scrubbed).items():
        found = zip(holders, data[key], strict=False)
        bulk += [(key, holder, "data", value) for holder, value in found if value is not None]
    for key, holder, name, value in sorted(bulk, key=lambda each: _size(each[3])):
        clean = scrubber.scrub({name: value}, category, key, personal=rules.personal)
        holder |= clean if _CUT not in clean else {name: clean}
    _keep_ours(event, scrubbed, rules)
    return _without_secrets(scrubbed, rules)


def scrub_item(item: Any, category: str, scrubber: Scrubber) -> Any:
    """A log, metric or streamed span as it may be stored."""
    if not isinstance(item, dict) or not isinstance(given := item.get("attributes"), dict):
        return scrubber.scrub(item, category, "item", personal="hash")
    rules = take_rules(given)
    values = {name: _untyped(each) for name, each in given.items() if name not in _ATTRIBUTES_FILLED_IN}
    clean = _scrub_attributes(values, category, scrubber, rules)
    replace = rules.replace_unbound
    clean |= {name: replaced(value, replace) for name, value in clean.items() if not name.startswith("user.")}
    text = partial(scrubber.text, signal=category, personal=rules.personal)
    # a metric's name says nothing of the value beside it
    texts = {key: replaced(text(item[key], place=key), replace) for key in ("body", "name") if key in item}
    attributes = {text(name, place="attributes"): _typed(given[name], clean[name]) for name in values}
    attributes |= {name: given[name] for name in _ATTRIBUTES_FILLED_IN & given.keys()}
    others = {key: value for key, value in item.items() if key != "attributes" and key not in texts}
    others = scrubber.scrub(others, category, "item", personal=rules.personal)
    return {**others, **texts, "attributes": attributes}


def scrub_headers(headers: Mapping[str, Any], scrubber: Scrubber, rules: Rules) -> dict[str, Any]:
    """The headers of an envelope or item: the application's own texts are among them."""
    found: dict[str, Any] = {}
    for key, value in headers.items():
        if key in _HEADERS_FILLED_IN:
            found[key] = value
        elif isinstance(value, dict):
            found[key] = scrub_headers(value, scrubber, rules)
        else:
            clean = _named(scrubber, key, value, "envelope", "headers", rules.personal)
            found[key] = replaced(clean, rules.replace)
    return found


def _named(scrubber: Scrubber, name: str, value: Any, signal: str, place: str, personal: Personal) -> Any:
    """A value as its name lets it be sent."""
    found = scrubber.scrub({name: value}, signal, place, personal=personal)
    return next(iter(found.values()))  # where the scrubber has no time left, `[cut]` is the key as well


def _with_data(event: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The parts of an event that may have much `data`: its trace and its spans."""
    contexts = event.get("contexts")
    trace = contexts.get("trace") if isinstance(contexts, dict) else None
    return {"contexts": dicts([trace]), "spans": dicts(event.get("spans"))}


def _keep_ours(event: dict[str, Any], scrubbed: dict[str, Any], rules: Rules) -> None:
    """Put back what the SDK or the server has set, and the scrubber cannot know."""
    if isinstance(attrs := event.get("attrs"), dict) and isinstance(scrubbed["attrs"], dict):  # of sessions
        scrubbed["attrs"] |= {key: attrs[key] for key in ("release", "environment") if key in attrs}
    user = event.get("user")
    if isinstance(user, dict) and "id" in user:  # Sentry's own place for a person: who was bound stays as he was bound
        scrubbed["user"] = {**scrubbed["user"], "id": user["id"]}
    if rules.ip is not None:
        scrubbed["user"] = {**scrubbed.get("user", {}), "ip_address": rules.ip}
    tags = event.get("tags")
    if isinstance(tags, dict) and len(tags) > _MANY_TAGS:
        ours = {key: tags[key] for key in _OUR_TAGS & tags.keys()}
        scrubbed["tags"] = {**ours, **(scrubbed["tags"] if isinstance(scrubbed["tags"], dict) else {_CUT: _CUT})}


def _without_secrets(event: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """An event without the secrets of its request's path, changed in place.

    Only texts that can repeat what the client sent: no key, no id, no name of code, nothing that the server bound.
    """
    if (replace := rules.replace) is None:
        return event
    if isinstance(request := event.get("request"), dict):
        # its address is made of the template, and so without them
        event["request"] = {key: item if key == "url" else replaced(item, replace) for key, item in request.items()}
    if isinstance(event.get("tags"), dict):  # the server sets them: only a path can be in one by itself
        in_path = rules.replace_in_path
        event["tags"] |= {key: replaced(tag, in_path) for key, tag in event["tags"].items() if key not in _OUR_TAGS}
    if (replace := rules.replace_unbound) is not None:
        for holder, names in _texts(event):
            holder |= {name: replaced(holder[name], replace) for name in names if name in holder}
    return event


def _texts(event: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Iterable[str]]]:
    """The parts of an event that hold texts, and the names of those."""
    yield event, ("message", "logentry", "extra")
    yield from ((crumb, ("message", "data")) for crumb in dicts(event.get("breadcrumbs")))
    yield from ((span, ("description", "data")) for span in dicts(event.get("spans")))
    yield from ((raised, ("value",)) for raised in dicts(event.get("exception")))
    yield from ((frame, ("vars",)) for frame in frames_of(event))
    contexts = event.get("contexts")
    if isinstance(contexts, dict):
        yield contexts, contexts.keys() - _CONTEXTS_FILLED_IN
        yield from ((trace, ("description", "data")) for trace in dicts([contexts.get("trace")]))


def _scrub_attributes(values: dict[str, Any], category: str, scrubber: Scrubber, rules: Rules) -> dict[str, Any]:
    """Values by the names of their attributes; of a message's parameters by the template or their own name."""
    positional = parameters(values)
    message = {"message": str(values.get(TEMPLATE, "")), "params": [*positional.values()]}
    found = scrubber.scrub(message, category, "attributes", personal=rules.personal) if positional else {}
    clean = dict(zip(positional, found.get("params", ()), strict=False))
    for name in values.keys() - clean.keys():
        # Sentry's own place for a person: who was bound stays, as on an error
        personal: Personal = "keep" if name.startswith("user.") else rules.personal
        clean[name] = _named(scrubber, name.removeprefix(PARAMETER), values[name], category, "attributes", personal)
    return clean


def _untyped(attribute: Any) -> Any:
    return attribute["value"] if isinstance(attribute, dict) and "value" in attribute else attribute


def _typed(given: Any, value: Any) -> Any:
    """As it was given, with its type, but for a number that became a text."""
    if not (isinstance(given, dict) and "value" in given):
        return value
    return {**given, "value": value, **({"type": "string"} if isinstance(value, str) else {})}


def _size(value: Any) -> int:
    return len(orjson.dumps(value))
