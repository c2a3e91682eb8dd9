"""What we put on Sentry's events, and what we take off them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import orjson

from metricx_observe.context import Context, RequestContext
from metricx_observe.ids import one_line
from metricx_observe.normalise import MAX_BYTES
from metricx_observe.request import Clean, RequestFacts, origin_of
from metricx_observe.scrubber import Scrubber

from .sentry_frames import frames
from .sentry_rules import NO_RULES, Rules, policy, without_secrets

_DROPPED_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_ADDRESS_HEADERS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"})
_TAG_KEY, _TAG_VALUE = 32, 200
"""Sentry's limits for a tag; its SDK enforces neither."""
_UNSCRUBBED = frozenset(
    {"event_id", "timestamp", "start_timestamp", "platform", "sdk", "modules", "level", "type", "release",
     "environment", "dist", "server_name", "transaction_info", "measurements", "_meta", "debug_meta"}
)  # fmt: skip
"""What the SDK or we fill in ourselves, with nothing of the application's data."""
_OF_SESSIONS = ("release", "environment")
"""The same in the `attrs` of a session, or of the counts of several. `shop@1.2.3` has the look of an e-mail address."""
_NAMELESS = re.compile(r"<?unknown \w+ task>?")
"""What the SDK's integrations call a job until they know its name."""
_JOBS = (("arq-job", "task"), ("celery-job", "task_name"), ("huey-job", "task"), ("rq-job", "func"))
"""Where they put that name in `extra`."""
_LARGE = 64 << 10
"""Bytes of JSON of spans from which the scrubber's time may run out."""
_CUT = "[cut]"
_OUR_TAGS, _MANY_TAGS = frozenset({"request_id", "workspace_id", "langfuse_trace_id"}), 200
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|/")


def route_name(cell: Context) -> str:
    """The full route template; one fixed name for what matched nothing, since every URL would be a new name."""
    route = cell.info.route if cell.info is not None else None
    return route or "<unmatched>"


def enrich(
    event: dict[str, Any], state: RequestContext, llm_trace_id: str | None, request: RequestFacts | None, send_ip: bool,
    scrubber: Scrubber, paths: Iterable[str] = (),
) -> Rules:  # fmt: skip
    """Put user, workspace, request and ids on an error or transaction, in Sentry's native places.

    `paths`: of a request that no route took. Returns what the writer needs to scrub the event.
    """
    tags = {**(event.get("tags") or {}), **state.tags, "request_id": state.request_id}
    contexts = event.setdefault("contexts", {})
    rules = rules_of(state, request, scrubber, paths)
    if rules.refused:
        event.pop("user", None)
    elif state.user is not None:
        user = {"id": state.user.id, "email": state.user.email}
        known = event.get("user") or {}  # of `sentry_sdk.set_user`: stays when it is the same person
        known = known if known.get("id") == state.user.id else {}
        event["user"] = {**known, **{key: value for key, value in user.items() if value is not None}}
    if state.workspace is not None:
        tags["workspace_id"] = state.workspace.id
        workspace = {"id": state.workspace.id, "name": state.workspace.name}
        contexts["workspace"] = {key: value for key, value in workspace.items() if value is not None}
    if llm_trace_id is not None:
        tags["langfuse_trace_id"] = llm_trace_id
        contexts["langfuse"] = {"trace_id": llm_trace_id}
    given = ((str(key)[:_TAG_KEY], value) for key, value in tags.items() if value is not None)
    event["tags"] = {key: one_line(value)[:_TAG_VALUE] for key, value in given}
    if request is None:
        return rules
    event["transaction"] = request.route or "<unmatched>"  # of an open transaction the SDK has put a provisional name
    event["transaction_info"] = {"source": "route"}
    send_ip = send_ip and not rules.refused
    event["request"] = _request(request, send_ip, _clean_path(rules, scrubber))
    ip = request.client[0] if send_ip and request.client is not None else None  # in `user` the SDK would take it off
    return rules._replace(ip=ip)


def rules_of(
    state: RequestContext, request: RequestFacts | None, scrubber: Scrubber, paths: Iterable[str] = ()
) -> Rules:
    """What a signal of a request or job is to be scrubbed by, as things are now."""
    bound = _bound(state)
    rules = Rules(
        refused=state.consent.analytics is False, bound=bound, paths=tuple(path for path in paths if path not in bound)
    )
    return rules if request is None else rules._replace(secrets=request.secrets(_clean_path(rules, scrubber)))


def _clean_path(rules: Rules, scrubber: Scrubber) -> Clean:
    return partial(scrubber.scrub, signal="request", place="path", personal=policy(rules))


def _bound(state: RequestContext) -> frozenset[str]:
    user, workspace = state.user, state.workspace
    values = {state.request_id, state.trace_id, *state.tags.values()}
    values |= {user.id, user.email or ""} if user is not None else set()
    return frozenset(values | {workspace.id, workspace.name or ""} if workspace is not None else values)


def _request(facts: RequestFacts, send_ip: bool, clean: Clean) -> dict[str, Any]:
    dropped = _DROPPED_HEADERS if send_ip else _DROPPED_HEADERS | _ADDRESS_HEADERS
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in facts.headers}
    kept = {key: _pathless(value) for key, value in headers.items() if key not in dropped}
    if "referer" in kept:
        kept["referer"] = "".join(facts.referrer(clean)) + _query(headers["referer"])
    request: dict[str, Any] = {
        "method": facts.method,
        "url": facts.url(clean),
        "query_string": facts.query.decode("latin-1").replace("%40", "@"),  # by it an address is told
        "headers": {key: value for key, value in kept.items() if value or not headers[key]},
    }
    if send_ip and facts.client is not None:
        request["env"] = {"REMOTE_ADDR": facts.client[0]}
    return request


def name_job(event: dict[str, Any]) -> None:
    """Call an event by the name of its job; by none where the SDK does not know it either.

    arq's integration learns it after its transaction has begun, and looks for that in the scope, where a block of
    `restore()` has none.
    """
    if _NAMELESS.fullmatch(str(event.get("transaction"))) is None:
        return
    extra = event.get("extra") or {}
    names = (job.get(key) for place, key in _JOBS if isinstance(job := extra.get(place), dict))
    if isinstance(name := next(names, None), str):
        event["transaction"] = name
    elif event.get("type") != "transaction":  # which cannot be without
        del event["transaction"]


def _size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:  # what JSON does not know is made plain first, and that may be long
        return MAX_BYTES


def _pathless(value: str) -> str:
    """A header's value; of an address or a path no more than the origin, since nobody knows what is in the path."""
    return value if _ADDRESS.match(value) is None else origin_of(value)


def _query(address: str) -> str:
    query = address.partition("#")[0].partition("?")[2]
    return f"?{query}" if query else ""


_Place = tuple[Any, ...]


def _without_bulk(event: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[_Place, Any]]]:
    """A large event without its contexts and the data of trace and spans; and those with their places, smallest first.

    Where the scrubber's time runs out ids, op and status have been read, without which Sentry takes no transaction.
    """
    contexts, spans = event.get("contexts"), event.get("spans") or []
    if not isinstance(contexts, dict) or not isinstance(spans, list) or _size([contexts, spans]) < _LARGE:
        return event, []
    bulk: list[tuple[_Place, Any]] = [(("contexts", name), each) for name, each in contexts.items() if name != "trace"]
    event = {**event, "contexts": {"trace": contexts["trace"]} if "trace" in contexts else {}}
    if spans:
        event["spans"] = [*spans]
    for key, holder in (("contexts", event["contexts"]), ("spans", event.get("spans", []))):
        for at, each in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(each, dict) and isinstance(each.get("data"), dict):
                bulk.append(((key, at, "data"), each["data"]))
                holder[at] = {name: value for name, value in each.items() if name != "data"}
    return event, sorted(bulk, key=lambda each: _size(each[1]))


def _put_back(event: dict[str, Any], place: _Place, scrubbed: dict[str, Any]) -> None:
    """Put one scrubbed member where it was taken from, as far as that is still there."""
    holder: Any = event
    for step in place[:-1]:
        if isinstance(holder, str) or (isinstance(holder, list) and step >= len(holder)):
            return  # of very many spans the last ones are cut
        holder = holder[step]
    if isinstance(holder, dict):
        holder |= scrubbed if _CUT not in scrubbed else {place[-1]: scrubbed}


def scrub_event(event: dict[str, Any], category: str, scrubber: Scrubber, rules: Rules = NO_RULES) -> dict[str, Any]:
    """An event, transaction or other item as it may be stored: framework locals off, the rest scrubbed by place."""
    for frame in frames(event):
        if not frame.get("in_app"):
            frame.pop("vars", None)  # a framework frame's locals hold the raw request
    scrubbed: dict[str, Any] = {}
    event, bulk = _without_bulk(event)
    for key in sorted(event, key=lambda key: _size(event[key])):  # where time runs out, only the largest part is cut
        value, policy_of = event[key], "keep" if key == "user" else policy(rules)
        whole = {key: value} if key in _UNSCRUBBED else scrubber.scrub({key: value}, category, key, personal=policy_of)
        scrubbed[key] = next(iter(whole.values()))  # where the scrubber has no time left, `[cut]` is the key as well
    if isinstance(attrs := event.get("attrs"), dict) and isinstance(scrubbed["attrs"], dict):
        scrubbed["attrs"] |= {key: attrs[key] for key in _OF_SESSIONS if key in attrs}
    for place, value in bulk:
        _put_back(scrubbed, place, scrubber.scrub({place[-1]: value}, category, str(place[0]), personal=policy(rules)))
    user = event.get("user")
    if isinstance(user, dict) and "id" in user:  # Sentry's own place for a person: who was bound stays as he was bound
        scrubbed["user"] = {**scrubbed["user"], "id": user["id"]}
    tags = event.get("tags")
    if isinstance(tags, dict) and len(tags) > _MANY_TAGS:
        ours = {key: tags[key] for key in _OUR_TAGS & tags.keys()}
        scrubbed["tags"] = {**ours, **(scrubbed["tags"] if isinstance(scrubbed["tags"], dict) else {_CUT: _CUT})}
    if rules.ip is not None:
        scrubbed["user"] = {**scrubbed.get("user", {}), "ip_address": rules.ip}
    return without_secrets(scrubbed, rules)
