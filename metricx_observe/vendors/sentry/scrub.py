"""What we take off Sentry's events, on the writer."""

from __future__ import annotations

from typing import Any

import orjson

from metricx_observe.scrubber import Scrubber

from .frames import dicts
from .rules import OUR_TAGS, Rules, without_secrets

_FILLED_IN = frozenset(
    {"event_id", "timestamp", "start_timestamp", "platform", "sdk", "modules", "level", "type", "release",
     "environment", "dist", "server_name", "transaction_info", "measurements", "_meta", "debug_meta"}
)  # fmt: skip
"""What the SDK or we fill in ourselves, with nothing of the application's data."""
_OF_SESSIONS = ("release", "environment")
"""The same in the `attrs` of a session, or of the counts of several. `shop@1.2.3` has the look of an e-mail address."""
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
        whole, personal = {key: event[key]}, "keep" if key == "user" else rules.personal
        if key not in _FILLED_IN:
            whole = scrubber.scrub(whole, category, key, personal=personal)
        scrubbed[key] = next(iter(whole.values()))  # where the scrubber has no time left, `[cut]` is the key as well
    bulk = [
        ("contexts", contexts, name, value)
        for contexts in dicts([scrubbed.get("contexts")])
        for name, value in others.items()
    ]
    for key, holders in _with_data(scrubbed).items():
        bulk += [
            (key, holder, "data", value) for holder, value in zip(holders, data[key], strict=False) if value is not None
        ]
    for key, holder, name, value in sorted(bulk, key=lambda each: _size(each[3])):
        found = scrubber.scrub({name: value}, category, key, personal=rules.personal)
        holder |= found if _CUT not in found else {name: found}
    _keep_ours(event, scrubbed, rules)
    return without_secrets(scrubbed, rules)


def _with_data(event: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The parts of an event that may have much `data`: its trace and its spans."""
    contexts = event.get("contexts")
    trace = contexts.get("trace") if isinstance(contexts, dict) else None
    return {"contexts": dicts([trace]), "spans": dicts(event.get("spans"))}


def _keep_ours(event: dict[str, Any], scrubbed: dict[str, Any], rules: Rules) -> None:
    """Put back what the SDK or the server has set, and the scrubber cannot know."""
    if isinstance(attrs := event.get("attrs"), dict) and isinstance(scrubbed["attrs"], dict):
        scrubbed["attrs"] |= {key: attrs[key] for key in _OF_SESSIONS if key in attrs}
    user = event.get("user")
    if isinstance(user, dict) and "id" in user:  # Sentry's own place for a person: who was bound stays as he was bound
        scrubbed["user"] = {**scrubbed["user"], "id": user["id"]}
    if rules.ip is not None:
        scrubbed["user"] = {**scrubbed.get("user", {}), "ip_address": rules.ip}
    tags = event.get("tags")
    if isinstance(tags, dict) and len(tags) > _MANY_TAGS:
        ours = {key: tags[key] for key in OUR_TAGS & tags.keys()}
        scrubbed["tags"] = {**ours, **(scrubbed["tags"] if isinstance(scrubbed["tags"], dict) else {_CUT: _CUT})}


def _size(value: Any) -> int:
    return len(orjson.dumps(value))
