"""What a client's request may say: its ids, its trace, its address behind our proxies, its body when that is wanted.

Nothing here binds a user or workspace, and nothing else of a client's headers has an effect on any signal, but for the
analytics cookies (`vendors/rudderstack/browser.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage  # FastAPI depends on it
from opentelemetry import context as otel_context
from starlette.types import Message, Receive

from .context import Context, RequestContext, Upstream
from .ids import new_id, valid_request_id, valid_trace_id
from .request import Headers, RequestInfo, first_headers

if TYPE_CHECKING:
    from .settings import Network

REQUEST_ID = b"x-request-id"
MAX_BODY = 16 << 10
"""Of a larger body nothing is sent: where it is cut, the rest of a secret could no longer be told."""


def new_cell(scope: MutableMapping[str, Any]) -> tuple[Context, RequestInfo]:
    """The cell of a new request. Of the client's headers only ids and the trace have an effect here."""
    first = first_headers(scope["headers"])
    trace_id, upstream = None, None
    if b"traceparent" in first or b"sentry-trace" in first:
        trace_id, upstream = _upstream(first.get(b"traceparent", b""), first.get(b"sentry-trace", b""))
    request_id = valid_request_id(first[b"x-request-id"].decode("latin-1")) if b"x-request-id" in first else None
    info = RequestInfo(scope, first)
    if request_id is None:
        request_id = new_id()
        # for whoever reads it: the application's own middleware, or a service that it hands its headers on to
        scope["headers"] = [*_others(scope["headers"]), (REQUEST_ID, request_id.encode())]
    return Context(RequestContext(request_id, trace_id or new_id()), info, upstream), info


def _others(headers: Headers) -> Headers:
    return [pair for pair in headers if pair[0] != REQUEST_ID]


def see_request_id(cell: Context, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Take the id that the application has put on the request or on its response, where it is another one."""
    for name, value in headers:
        if name.lower() == REQUEST_ID and value != cell.state.request_id.encode():
            _take(cell, value)


def with_request_id(cell: Context, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a response with one request id. What the application says there is its id from now on."""
    others, said = Headers(), list[bytes]()
    for pair in headers:
        if pair[0].lower() == REQUEST_ID:
            said.append(pair[1])
        else:
            others.append(pair)
    ours = cell.state.request_id.encode()
    if said and ours not in said:
        ours = said[-1]  # of the outermost that has a say
        _take(cell, ours)
    others.append((REQUEST_ID, ours))
    return others


def _take(cell: Context, value: bytes) -> None:
    request_id = valid_request_id(value.decode("latin-1"))
    if request_id is not None:
        cell.take_request_id(request_id)


def _upstream(traceparent: bytes, sentry_trace: bytes) -> tuple[str | None, Upstream | None]:
    """W3C `00-<trace>-<span>-<flags>`, else Sentry's `<trace>-<span>[-<sampled>]`."""
    parts = traceparent.decode("latin-1").strip().split("-")
    if len(parts) >= 4 and len(parts[0]) == 2 and parts[0] != "ff" and (trace_id := _trace(parts[1], parts[2])):
        try:
            return trace_id, Upstream(parts[2], bool(int(parts[3], 16) & 1))
        except ValueError:
            return None, None
    parts = sentry_trace.decode("latin-1").strip().split("-")
    if len(parts) in (2, 3) and (trace_id := _trace(parts[0], parts[1])):
        return trace_id, Upstream(parts[1], {"0": False, "1": True}.get(parts[2]) if len(parts) == 3 else None)
    return None, None


def _trace(trace_id: str, span_id: str) -> str | None:
    """The trace id when both ids are valid; a span id is half as long."""
    return valid_trace_id(trace_id) if valid_trace_id(span_id * 2) and len(span_id) == 16 else None


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
    except (IndexError, ValueError):  # no more hops, or one that is no address
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

    Whoever read it puts the context back, so nothing is left to undo here.
    """
    for name in baggage.get_all():
        if name.startswith("langfuse_"):
            otel_context.attach(baggage.remove_baggage(name))
