"""The request's ids on outgoing HTTP requests: for the hosts that are named, and never who the user is."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable

import httpx

from metricx_observe.context import DETACHED, Context, current_cell
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.ids import new_span_id

_PUT = "metricx_observe.put"
"""Among a request's extensions, which httpx hands on to where a redirect leads: the headers that are ours."""
_HOST = re.compile(r"(\*\.)?[^\s*/?#@]+")
DEFAULT_PORTS = {"http": 80, "https": 443}


class _Done:
    """What an async client awaits and a sync one ignores."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class Propagate:
    """A request hook of httpx, for sync and async clients: `traceparent` and `X-Request-ID` for the hosts given.

        httpx.AsyncClient(event_hooks={"request": [Propagate(["api.example.com"])]})

    Outside a request or job nothing is put, what the request has already stays, and a redirect to another host takes
    nothing along. `traceparent` (W3C Trace Context) says sampled where Sentry's `sentry-trace` on this request does,
    else where the caller's headers did.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        """`hosts`: `host` for all its ports, `host:port`, or `*.domain` for every name below it.

        Raises:
            ConfigurationError: Something is not a host.
        """
        self._hosts = frozenset(host_and_port(host) for host in ([hosts] if isinstance(hosts, str) else hosts))

    def __call__(self, request: httpx.Request) -> _Done:
        for name in request.extensions.pop(_PUT, ()):
            request.headers.pop(name, None)
        cell = current_cell()
        if cell is not None and cell is not DETACHED and self._names(request.url):
            known = request.headers
            ours = {"X-Request-ID": cell.state.request_id, "traceparent": _traceparent(cell, known)}
            request.extensions[_PUT] = [name for name in ours if name not in known]
            known.update({name: ours[name] for name in request.extensions[_PUT]})
        return _Done()

    def _names(self, url: httpx.URL) -> bool:
        labels = url.host.split(".")
        domains = ("*." + ".".join(labels[n:]) for n in range(1, len(labels)))
        ports = (None, url.port or DEFAULT_PORTS.get(url.scheme))
        return any((name, port) in self._hosts for name in (url.host, *domains) for port in ports)


def host_and_port(host: str) -> tuple[str, int | None]:
    """The host, which may be `*.domain`, and its port, where one is named. Raises ConfigurationError."""
    try:
        if _HOST.fullmatch(host):
            url = httpx.URL(f"//{host}")
            return url.host, url.port
    except httpx.InvalidURL:
        pass
    raise ConfigurationError("Propagate(hosts): type hosts: api.example.com, api.example.com:8443, *.example.com")


def _traceparent(cell: Context, headers: httpx.Headers) -> str:
    trace_id, span_id = cell.state.trace_id, new_span_id()
    sampled = cell.upstream is not None and cell.upstream.sampled
    theirs = headers.get("sentry-trace", "").split("-")
    if theirs[0] == trace_id and len(theirs) in (2, 3):
        # the SDK has a span for this request: what the other side does is below that one
        span_id, sampled = theirs[1], theirs[2:] == ["1"] if len(theirs) == 3 else sampled
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"
