"""What a client's request may say: its ids, its trace, its address behind our proxies, its body when that is wanted.

Nothing here binds a user or workspace, and nothing else of a client's headers has an effect on any signal, but for the
analytics cookies (`vendors/rudderstack/browser.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage  # FastAPI depends on it
from opentelemetry import context as otel_context
from starlette.types import Message, Receive

from metricx_observe.context import Context, RequestContext, Upstream
from metricx_observe.ids import new_id, valid_request_id

from .facts import Headers, RequestInfo, first_headers

if TYPE_CHECKING:
    from metricx_observe.settings import Network

REQUEST_ID = b"x-request-id"
MAX_BODY = 16 << 10
"""Of a larger body nothing is sent: where it is cut, the rest of a secret could no longer be told."""
_TRACEPARENT = re.compile(r"(?!ff)..-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]+)(-.*)?")
"""W3C Trace Context: `00-<trace>-<span>-<flags>`; a later version may have more parts."""
_SENTRY_TRACE = re.compile(r"(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})(?:-([^-]*))?")
"""Sentry's `<trace>-<span>[-<sampled>]`."""


def new_cell(scope: MutableMapping[str, Any]) -> tuple[Context, RequestInfo]:
    """The cell of a new request. Of the client's headers only ids and the trace have an effect here."""
    first = first_headers(scope["headers"])
    info = RequestInfo(scope, first)
    request_id = valid_request_id(first.get(REQUEST_ID, b"").decode("latin-1"))
    if request_id is None:
        request_id = new_id()
        # the application's own middleware may read it, or hand its headers on to another service
        scope["headers"] = [*_others(scope["headers"]), (REQUEST_ID, request_id.encode())]
    trace_id, upstream = _upstream(
        first.get(b"traceparent", b"").decode("latin-1"), first.get(b"sentry-trace", b"").decode("latin-1")
    )
    return Context(RequestContext(request_id, trace_id or new_id()), info, upstream), info


def _upstream(traceparent: str, sentry_trace: str) -> tuple[str | None, Upstream | None]:
    if found := _TRACEPARENT.fullmatch(traceparent.strip()):
        return found[1], Upstream(found[2], bool(int(found[3], 16) & 1))
    if found := _SENTRY_TRACE.fullmatch(sentry_trace.strip()):
        return found[1], Upstream(found[2], {"0": False, "1": True}.get(found[3]))
    return None, None


def read_request_id(cell: Context, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Take the id that the application has put on the request or on its response, where it is another one."""
    for name, value in headers:
        if name.lower() == REQUEST_ID and value != cell.state.request_id.encode():
            _take(cell, value)


def with_request_id(cell: Context, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a response with one request id. What the application says there is its id from now on."""
    headers = list(headers)
    ours, given = cell.state.request_id.encode(), [value for name, value in headers if name.lower() == REQUEST_ID]
    if given and ours not in given:
        ours = given[-1]  # the outermost layer's
        _take(cell, ours)
    return [*_others(headers), (REQUEST_ID, ours)]


def _others(headers: Headers) -> Headers:
    return [pair for pair in headers if pair[0].lower() != REQUEST_ID]


def _take(cell: Context, value: bytes) -> None:
    request_id = valid_request_id(value.decode("latin-1"))
    if request_id is not None:
        cell.take_request_id(request_id)


def keep_body(info: RequestInfo, receive: Receive) -> Receive:
    """Keep what the application reads of the body, for the event of an error in this request."""

    async def receive_and_keep() -> Message:
        message = await receive()
        if len(info.body) <= MAX_BODY:  # one byte more says that there was more
            info.body = (info.body + message.get("body", b""))[: MAX_BODY + 1]
        return message

    return receive_and_keep


def client_behind(client: tuple[str, int], headers: Headers, trusted: Sequence[Network]) -> tuple[str, int]:
    """Who is behind our own proxies: a hop of `X-Forwarded-For` counts only where a trusted one wrote it."""
    hops = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1").split(",")
    try:
        while any(_address(client[0]) in network for network in trusted):
            client = str(_address(hops.pop())), 0
    except (IndexError, ValueError):  # no more hops, or one that is not an address
        pass
    return client


def _address(hop: str) -> IPv4Address | IPv6Address:
    """Of a hop in any form that proxies write: with a port, in quotes or brackets, with a zone, IPv4 within IPv6."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def drop_foreign_baggage() -> None:
    """Langfuse's SDK takes user, session and tags from baggage, which OpenTelemetry reads from the client's header.

    The instrumentation that read the header resets the context, so nothing is undone here.
    """
    for name in baggage.get_all():
        if name.startswith("langfuse_"):
            otel_context.attach(baggage.remove_baggage(name))
