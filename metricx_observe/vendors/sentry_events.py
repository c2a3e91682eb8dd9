"""What we put on Sentry's events, and what we take off them."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson

from metricx_observe.context import Context
from metricx_observe.ids import one_line
from metricx_observe.inbound import MAX_BODY, without_path_secrets
from metricx_observe.privacy import Personal, Scrubber
from metricx_observe.request import RequestInfo

from .sentry_frames import frames

_DROPPED_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_ADDRESS_HEADERS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"})
_TAG_KEY, _TAG_VALUE = 32, 200
"""Sentry's limits for a tag; its SDK enforces neither."""
_UNSCRUBBED = frozenset(
    {"event_id", "timestamp", "start_timestamp", "platform", "sdk", "modules", "level", "type", "release",
     "environment", "server_name", "transaction_info", "measurements", "_meta", "debug_meta"}
)  # fmt: skip
"""What the SDK or we fill in ourselves, with nothing of the application's data."""
_FROM_OUTSIDE = frozenset({"request", "breadcrumbs", "extra"})
"""What holds most of what a client can make long: scrubbed last, so that the error itself is not cut because of it."""
_RULES = "metricx_rules"
"""What `enrich` knows of a request and `scrub_event`, in another thread, needs: no part of the event that is sent."""


def route_name(cell: Context) -> str:
    """The full route template; one fixed name for what matched nothing, since every URL would be a new name."""
    route = cell.info.route if cell.info is not None else None
    return route or "<unmatched>"


def enrich(event: dict[str, Any], cell: Context, send_ip: bool) -> dict[str, Any]:
    """Put user, workspace, request and ids of `cell` on an error or transaction, in Sentry's native places."""
    state = cell.state
    tags = {**(event.get("tags") or {}), **state.tags, "request_id": state.request_id}
    contexts = event.setdefault("contexts", {})
    rules = event[_RULES] = {"refused": state.consent.analytics is False}
    if rules["refused"]:
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
    if cell.info is not None:
        event["transaction"] = route_name(cell)  # inside an open transaction the SDK has put its provisional name
        event["transaction_info"] = {"source": "route"}
        _put_request(event, cell.info, send_ip and not rules["refused"])
    return event


def _put_request(event: dict[str, Any], info: RequestInfo, send_ip: bool) -> None:
    event["request"] = _request(info, send_ip)
    if info.body and event.get("type") != "transaction":
        event["request"]["data"] = _body(info.body)
    event[_RULES]["params"] = info.params
    if send_ip and info.client is not None:
        event[_RULES]["ip"] = info.client[0]  # in `user` the SDK would take it off


def _body(body: bytes) -> Any:
    if len(body) > MAX_BODY:
        return f"[body of more than {MAX_BODY} bytes]"
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def _request(info: RequestInfo, send_ip: bool) -> dict[str, Any]:
    dropped = _DROPPED_HEADERS if send_ip else _DROPPED_HEADERS | _ADDRESS_HEADERS
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in info.headers}
    request: dict[str, Any] = {
        "method": info.method,
        "url": info.url,
        "query_string": info.query.decode("latin-1").replace("%40", "@"),  # by it an address is told
        "headers": {key: value for key, value in headers.items() if key not in dropped},
    }
    if send_ip and info.client is not None:
        request["env"] = {"REMOTE_ADDR": info.client[0]}
    return request


def scrub_event(event: dict[str, Any], category: str, scrubber: Scrubber) -> dict[str, Any]:
    """An event, transaction or other item as it may be stored: framework locals off, the rest scrubbed by place."""
    for frame in frames(event):
        if not frame.get("in_app"):
            frame.pop("vars", None)  # a framework frame's locals hold the raw request
    rules = event.pop(_RULES, {})
    personal: Personal = "drop" if rules.get("refused") else "hash"
    user = event.pop("user", None)
    scrubbed: dict[str, Any] = {}
    for key in sorted(event, key=_FROM_OUTSIDE.__contains__):
        value, place = event[key], {"signal": category, "place": key}
        whole = {key: value} if key in _UNSCRUBBED else scrubber.scrub({key: value}, **place, personal=personal)
        scrubbed[key] = next(iter(whole.values()))  # where the scrubber has no time left, `[cut]` is the key as well
    if isinstance(user, dict):  # Sentry's own place for a person: who was bound stays, and as he was bound
        own = {"id": user["id"]} if "id" in user else {}
        scrubbed["user"] = {**scrubber.scrub(user, category, "user"), **own}
    if "ip" in rules:
        scrubbed["user"] = {**scrubbed.get("user", {}), "ip_address": rules["ip"]}
    if not rules.get("params"):
        return scrubbed
    scrub = partial(scrubber.scrub, signal=category, place="request", personal=personal)
    clean: dict[str, Any] = orjson.loads(without_path_secrets(orjson.dumps(scrubbed), rules["params"], scrub))
    return clean
