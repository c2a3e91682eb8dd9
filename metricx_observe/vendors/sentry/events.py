"""What we put on Sentry's events: whose they are, their request, and the source lines of their frames."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from typing import Any

from metricx_observe.context import Context, RequestContext
from metricx_observe.ids import printable
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
_LINES, _LINE = 5, 1024
"""Of source on each side of a frame's own, and characters of one: as much as the SDK sends."""
_PYTHONS_OWN = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|/")


def route_name(cell: Context) -> str:
    """The full route template; one fixed name for what matched nothing, since every URL would be a new name."""
    route = cell.info.route if cell.info is not None else None
    return route or "<unmatched>"


def enrich(event: dict[str, Any], cell: Context, send_ip: bool, scrubber: Scrubber) -> Rules:
    """Put user, workspace, request and ids on an error or transaction, in Sentry's native places.

    Returns what the writer needs to scrub the event.
    """
    state = cell.state
    rules, facts, clean = _of_request(cell, scrubber)
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
    event["tags"] = {key: printable(value)[:_TAG_VALUE] for key, value in given}
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
    return _of_request(cell, scrubber)[0]


def _of_request(cell: Context, scrubber: Scrubber) -> tuple[Rules, RequestFacts | None, Clean]:
    """The rules, the request's facts, of which a job has none, and what cleans the parts of its path."""
    state = cell.state
    rules = Rules(refused=state.consent.analytics is False, bound=[*_bound(state)])

    @cache  # each part is asked for in the address, in the page's and for what may not be sent
    def clean(name: str, text: str) -> str:
        return str(scrubber.scrub({name: text}, "request", "path", personal=rules.personal)[name])

    if cell.info is None:
        return rules, None, clean
    facts = cell.info.facts()
    paths = [path for path in cell.info.paths() if path not in rules.bound]
    return rules._replace(secrets=facts.secrets(clean), paths=paths), facts, clean


def _bound(state: RequestContext) -> Iterator[str]:
    yield from (state.request_id, state.trace_id, *state.tags.values())
    if (user := state.user) is not None:
        yield from (user.id, user.email or "")
    if (workspace := state.workspace) is not None:
        yield from (workspace.id, workspace.name or "")


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


def frames_of(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All frames of an event."""
    for key in ("exception", "threads"):
        for value in dicts(event.get(key)):
            stack = value.get("stacktrace")
            yield from dicts(stack.get("frames") if isinstance(stack, dict) else None)


def dicts(part: object) -> list[dict[str, Any]]:
    """The dicts of a list, or of one under `values`."""
    items = part.get("values") if isinstance(part, dict) else part
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def complete_frames(event: dict[str, Any], with_source: bool) -> None:
    """Say which frames are the application's own, take the others' locals off, and add source lines.

    The SDK knows site-packages and the working directory, which need not be where the application is. The locals of a
    framework's frame hold the raw request. The SDK reads each frame's file anew, more than half of an error's cost.
    """
    for frame in frames_of(event):
        if frame.get("in_app") is None and isinstance(path := frame.get("abs_path"), str):
            frame["in_app"] = not path.startswith(("<", *_PYTHONS_OWN))
        if not frame.get("in_app"):
            frame.pop("vars", None)
        if with_source and "context_line" not in frame:
            _add_source(frame)


def _add_source(frame: dict[str, Any]) -> None:
    lines, at = linecache.getlines(frame.get("abs_path") or ""), (frame.get("lineno") or 0) - 1
    if 0 <= at < len(lines):
        first = max(at - _LINES, 0)
        shown = [text.rstrip("\r\n")[:_LINE] for text in lines[first : at + _LINES + 1]]
        frame["pre_context"], frame["context_line"] = shown[: at - first], shown[at - first]
        frame["post_context"] = shown[at - first + 1 :]
