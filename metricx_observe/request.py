"""The facts of one request that its signals are made of, and the template of its route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Headers = list[tuple[bytes, bytes]]
_ANALYTICS = frozenset({b"accept-language", b"cookie", b"host", b"referer", b"sec-fetch-mode", b"user-agent"})
"""What analytics reads of a browser's request."""


def first_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of equal names. A loop takes three times as long."""
    return dict([*headers][::-1])


class RequestInfo:
    """The facts of one HTTP request or websocket that outlive its scope. Read lazily, mostly off the event loop."""

    __slots__ = (
        "_params", "_plain", "_route", "_scope", "_server", "analytics", "body", "client",
        "first", "has_baggage", "headers", "method", "path", "query", "scheme",
    )  # fmt: skip

    def __init__(self, scope: Mapping[str, Any], first: dict[bytes, bytes]) -> None:
        """`first`: the scope's `first_headers`."""
        self._scope: Mapping[str, Any] | None = scope
        self._route: str | None = None
        self._params: dict[str, str] = {}
        self._plain: tuple[Any, ...] | None = None
        self.body = b""
        """As much of it as the application has read so far, with METRICX_SEND_BODIES and while the request runs."""
        self.method: str = scope.get("method", "WEBSOCKET")
        self.scheme: str = scope.get("scheme", "http")
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = scope["headers"]
        self.client: tuple[str, int] | None = scope.get("client")
        self.has_baggage = b"baggage" in first
        self.first = first
        self._server: tuple[str, int | None] | None = scope.get("server")
        self.analytics: Any = None
        """What the analytics codec read from the headers, kept for the next event of this request."""

    def plain(self) -> tuple[Any, ...] | None:
        """As `packing` wants it for analytics, with its headers only, without route and body.

        None before the route is known, and with it the path's parameters: a mount, which is a route without an
        endpoint, knows its own ones only.
        """
        if self._plain is None and (self._scope is None or hasattr(self._scope.get("route"), "endpoint")):
            first = self.first
            if len(first) == len(self.headers):
                telling = [(name, first[name]) for name in _ANALYTICS & first.keys()]
            else:  # in their order: HTTP/2 may split cookies
                telling = [pair for pair in self.headers if pair[0] in _ANALYTICS]
            self._params = self.params
            self._plain = (
                telling, self.method, self.scheme, self.path, self.query, self.client, self._server, self._params,
            )  # fmt: skip
        return self._plain

    def whole(self) -> tuple[Any, ...] | None:
        """The same with all headers."""
        plain = self.plain()
        return None if plain is None else (self.headers, *plain[1:])

    @classmethod
    def of(cls, plain: tuple[Any, ...], route: str | None = None) -> RequestInfo:
        """What `plain` was made of, as of a request that has ended."""
        info = cls.__new__(cls)
        (info.headers, info.method, info.scheme, info.path, info.query, info.client, info._server,
         info._params) = info._plain = plain  # fmt: skip
        info.first = first_headers(info.headers)
        info._scope, info._route, info.body, info.has_baggage, info.analytics = None, route, b"", False, None
        return info

    @property
    def route(self) -> str | None:
        """The full route template, prefixes of routers and mounts included; None when nothing matched."""
        return self._route if self._scope is None else route_template(self._scope)

    @property
    def params(self) -> dict[str, str]:
        """The path's parameters by name: `{"token": "…"}` of `/reset/{token}`."""
        if self._plain is not None or self._scope is None:
            return self._params
        return {name: str(value) for name, value in self._scope.get("path_params", {}).items()}

    @property
    def host(self) -> str:
        """The `Host` header where it is one, else the server's own address."""
        host = self.first.get(b"host", b"").decode("latin-1")
        if 0 < len(host) <= 255 and host.isprintable() and not set(host) & set("/?#@\\ "):
            return host
        return f"{self._server[0]}:{self._server[1]}" if self._server and self._server[1] else "localhost"

    @property
    def url(self) -> str:
        """The address without query, fragment or credentials."""
        return f"{self.scheme}://{self.host}{self.path}"

    def header(self, name: bytes) -> str | None:
        """The first header of this lower-case name."""
        found = self.first.get(name)
        return None if found is None else found.decode("latin-1")

    def release(self) -> None:
        """Let go of the scope: the request has ended."""
        self._route, self._params, self._scope, self.body = self.route, self.params, None, b""


def route_template(scope: Mapping[str, Any]) -> str | None:
    """The template that matched, e.g. `/api/users/{user_id}`.

    FastAPI keeps the path with the routers' prefixes beside the route. A mount moves its own prefix into `root_path`
    and leaves in `app_root_path` what the server had put there, which belongs to no template.
    """
    effective = scope.get("fastapi", {}).get("effective_route_context")
    path: str | None = getattr(effective, "path", None) or getattr(scope.get("route"), "path", None) or _plain(scope)
    if path is None or "app_root_path" not in scope:
        return path
    parts = scope["root_path"].removeprefix(scope["app_root_path"]).split("/")
    own = {name.partition(":")[0] for name in re.findall(r"{([^}]*)}", path)}
    for name, value in scope.get("path_params", {}).items():
        if name not in own and str(value) in parts:
            # the last of equal parts: a client that sends a literal part's own text must not change it
            parts[len(parts) - 1 - parts[::-1].index(str(value))] = f"{{{name}}}"
    return str("/".join(parts) + path)


def _plain(scope: Mapping[str, Any]) -> str | None:
    """Of Starlette's own routes, which leave only their endpoint behind; `/*` below a mounted application."""
    endpoint, routes = scope.get("endpoint"), getattr(scope.get("app"), "routes", ())
    for route in routes:
        if endpoint is not None and getattr(route, "endpoint", None) is endpoint:
            return str(route.path)
        if endpoint is not None and getattr(route, "app", None) is endpoint:
            return "/*"
    return None
