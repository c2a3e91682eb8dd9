"""The facts of one request that its signals are made of, and the template of its route."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Headers = list[tuple[bytes, bytes]]


class RequestInfo:
    """The facts of one HTTP request or websocket that outlive its scope. Read lazily, mostly off the event loop."""

    __slots__ = (
        "_host", "_params", "_plain", "_route", "_scope", "_server", "_telling", "analytics", "body", "client",
        "has_baggage", "headers", "method", "path", "query", "scheme",
    )  # fmt: skip

    def __init__(
        self,
        scope: Mapping[str, Any],
        host: str,
        has_baggage: bool = False,
        telling: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """`telling`: the headers that analytics reads; all when None."""
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
        self._telling = telling
        self.client: tuple[str, int] | None = scope.get("client")
        self.has_baggage = has_baggage
        self._host = host
        self._server: tuple[str, int | None] | None = scope.get("server")
        self.analytics: Any = None
        """What the analytics codec read from the headers, kept for the next event of this request."""

    def plain(self) -> tuple[Any, ...] | None:
        """As `packing` wants it for analytics, with its headers only, without route and body.

        None before the route is known, and with it the path's parameters: a mount, which is a route without an
        endpoint, knows its own ones only.
        """
        if self._plain is None and (self._scope is None or hasattr(self._scope.get("route"), "endpoint")):
            telling = self.headers if self._telling is None else list(self._telling.items())
            self._plain = (
                telling, self.method, self.scheme, self.path, self.query, self.client, self._host, self._server,
                self.params,
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
        (info.headers, info.method, info.scheme, info.path, info.query, info.client, info._host, info._server,
         info._params) = info._plain = plain  # fmt: skip
        info._scope, info._route, info.body, info.has_baggage, info.analytics = None, route, b"", False, None
        info._telling = None
        return info

    @property
    def route(self) -> str | None:
        """The full route template, prefixes of routers and mounts included; None when nothing matched."""
        return self._route if self._scope is None else route_template(self._scope)

    @property
    def params(self) -> dict[str, str]:
        """The path's parameters by name: `{"token": "…"}` of `/reset/{token}`."""
        if self._scope is None:
            return self._params
        return {name: str(value) for name, value in self._scope.get("path_params", {}).items()}

    @property
    def host(self) -> str:
        """The `Host` header where it is one, else the server's own address."""
        if 0 < len(self._host) <= 255 and self._host.isprintable() and not set(self._host) & set("/?#@\\ "):
            return self._host
        return f"{self._server[0]}:{self._server[1]}" if self._server and self._server[1] else "localhost"

    @property
    def url(self) -> str:
        """The address without query, fragment or credentials."""
        return f"{self.scheme}://{self.host}{self.path}"

    def header(self, name: bytes) -> str | None:
        """The first header of this lower-case name."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

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
