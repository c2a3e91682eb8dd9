"""What we put on Sentry's events."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from metricx_observe.context import Context, RequestContext
from metricx_observe.ids import one_line
from metricx_observe.request.facts import Clean, RequestFacts, origin_of
from metricx_observe.scrubber import Scrubber

from .rules import Rules

_DROPPED_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_ADDRESS_HEADERS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"})
_TAG_KEY, _TAG_VALUE = 32, 200
"""Sentry's limits for a tag; its SDK enforces neither."""
_NAMELESS = re.compile(r"<?unknown \w+ task>?")
"""What the SDK's integrations call a job until they know its name."""
_JOBS = (("arq-job", "task"), ("celery-job", "task_name"), ("huey-job", "task"), ("rq-job", "func"))
"""Where they put that name in `extra`."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|/")


def route_name(cell: Context) -> str:
    """The full route template; one fixed name for what matched nothing, since every URL would be a new name."""
    route = cell.info.route if cell.info is not None else None
    return route or "<unmatched>"


def enrich(event: dict[str, Any], cell: Context, send_ip: bool, scrubber: Scrubber) -> Rules:
    """Put user, workspace, request and ids on an error or transaction, in Sentry's native places.

    Returns what the writer needs to scrub the event.
    """
    state, clean = cell.state, _clean_path(cell, scrubber)
    facts = None if cell.info is None else cell.info.facts()
    rules = _rules(cell, facts, clean)
    contexts = event.setdefault("contexts", {})
    tags = {**(event.get("tags") or {}), **state.tags, "request_id": state.request_id}
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
    if cell.llm_trace_id is not None:
        tags["langfuse_trace_id"] = cell.llm_trace_id
        contexts["langfuse"] = {"trace_id": cell.llm_trace_id}
    given = ((str(key)[:_TAG_KEY], value) for key, value in tags.items() if value is not None)
    event["tags"] = {key: one_line(value)[:_TAG_VALUE] for key, value in given}
    if facts is None:
        return rules
    event["transaction"] = route_name(cell)  # of an open transaction the SDK has put a provisional name
    event["transaction_info"] = {"source": "route"}
    send_ip = send_ip and not rules.refused
    event["request"] = _request(facts, send_ip, clean)
    ip = facts.client[0] if send_ip and facts.client is not None else None  # in `user` the SDK would take it off
    return rules._replace(ip=ip)


def rules_of(cell: Context, scrubber: Scrubber) -> Rules:
    """What a signal of a request or job is to be scrubbed by, as things are now."""
    return _rules(cell, None if cell.info is None else cell.info.facts(), _clean_path(cell, scrubber))


def _rules(cell: Context, facts: RequestFacts | None, clean: Clean) -> Rules:
    bound, refused = _bound(cell.state), _refused(cell)
    if cell.info is None or facts is None:
        return Rules(refused, bound=bound)
    paths = [path for path in cell.info.paths() if path not in bound]
    return Rules(refused, secrets=facts.secrets(clean), bound=bound, paths=paths)


def _refused(cell: Context) -> bool:
    return cell.state.consent.analytics is False


def _clean_path(cell: Context, scrubber: Scrubber) -> Clean:
    personal = Rules(_refused(cell)).personal

    @cache  # each part is asked for in the address, in the page's and for what may not be sent
    def clean(name: str, text: str) -> str:
        return str(scrubber.scrub({name: text}, "request", "path", personal=personal)[name])

    return clean


def _bound(state: RequestContext) -> list[str]:
    user, workspace = state.user, state.workspace
    values = [state.request_id, state.trace_id, *state.tags.values()]
    values += [user.id, user.email or ""] if user is not None else []
    return [*values, workspace.id, workspace.name or ""] if workspace is not None else values


def _request(facts: RequestFacts, send_ip: bool, clean: Clean) -> dict[str, Any]:
    dropped = _DROPPED_HEADERS if send_ip else _DROPPED_HEADERS | _ADDRESS_HEADERS
    headers = dict(facts.headers)
    kept = {key: _pathless(value) for key, value in headers.items() if key not in dropped}
    if "referer" in kept:
        query = headers["referer"].partition("#")[0].partition("?")[2]
        kept["referer"] = "".join(facts.referrer(clean)) + (f"?{query}" if query else "")
    request: dict[str, Any] = {
        "method": facts.method,
        "url": facts.url(clean),
        "query_string": facts.query.replace("%40", "@"),  # by it an address is told
        "headers": {key: value for key, value in kept.items() if value or not headers[key]},
    }
    if send_ip and facts.client is not None:
        request["env"] = {"REMOTE_ADDR": facts.client[0]}
    return request


def _pathless(value: str) -> str:
    """A header's value; of an address or a path no more than the origin, since nobody knows what is in the path."""
    return value if _ADDRESS.match(value) is None else origin_of(value)


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
