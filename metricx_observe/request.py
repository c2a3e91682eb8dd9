"""The facts of one request that its signals are made of: live while it runs, and frozen when a signal is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

from .interrupts import suppress_faults
from .route import ROUTING, Pieces, path_below_root, pieces_of, pieces_of_page, root_of, template

Headers = list[tuple[bytes, bytes]]
Clean = Callable[[dict[str, str]], Mapping[str, str]]
"""Gives the parts of a path as they may be sent, by the names of their parameters."""

_ANALYTICS = frozenset({b"accept-language", b"cookie", b"host", b"referer", b"sec-fetch-mode", b"user-agent"})
"""What analytics reads of a browser's request."""
_TELLING, _DIGIT = 8, re.compile(r"\d")
"""A part of an unknown path of so many characters, and with a digit, may be a secret."""


def first_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of equal names. A loop takes three times as long."""
    return dict([*headers][::-1])


class RequestFacts(NamedTuple):
    """What a signal takes of its request, as it was at the call. All of plain values, for marshal.

    There is no path in it but by the pieces of a template: in any other nobody knows what is a secret.
    """

    method: str
    scheme: str
    host: str
    root: str
    """What the server put before the application's paths."""
    query: bytes
    headers: Headers
    client: tuple[str, int] | None
    pieces: Pieces | None
    """None before the request is routed, and where no route took it."""
    page: Pieces | None
    """Of the page that the request came from (`Referer`), where that is one of the application's own."""

    @property
    def origin(self) -> str:
        """`https://shop.example`."""
        return f"{self.scheme}://{self.host}"

    @property
    def route(self) -> str | None:
        """The route's template."""
        return None if self.pieces is None else template(self.pieces)

    def path(self, clean: Clean) -> str:
        """The path as it may be sent; empty where the template is not known."""
        return shown(self.pieces, self.root, clean)

    def url(self, clean: Clean) -> str:
        """The address without query, fragment or credentials, as it may be sent."""
        return self.origin + self.path(clean)

    def referrer(self, clean: Clean) -> tuple[str, str]:
        """Origin and path of the page that the request came from, as they may be sent; empty where there is none."""
        origin = origin_of(first_headers(self.headers).get(b"referer", b"").decode("latin-1"))
        return origin, shown(self.page, self.root, clean) if origin else ""

    def secrets(self, clean: Clean) -> dict[str, str]:
        """What may not be sent of both paths, in each spelling, and what stands for it."""
        found: dict[str, str] = {}
        for _, name, spellings in (*(self.pieces or ()), *(self.page or ())):
            kept = _kept(name, spellings, clean)
            if spellings and kept != spellings[0]:
                for text in filter(None, spellings):
                    found |= dict.fromkeys((text, quote(text), quote(text, safe=""), quote_plus(text)), kept)
        return found


def shown(pieces: Pieces | None, root: str, clean: Clean) -> str:
    """A path as it may be sent, by its pieces; empty without them. The rest of a path stays the template's."""
    if pieces is None:
        return ""
    parts = [root]
    for before, name, spellings in pieces:
        parts += before, _kept(name, spellings, clean) if name else ""
    return "".join(parts)


def _kept(name: str, spellings: tuple[str, ...], clean: Clean) -> str:
    """What is sent of one part of a path; of the rest of a path its parameter's name."""
    if spellings and spellings[0]:
        return clean({name: spellings[0]})[name]
    return f"{{{name}}}" if name else "*"


def origin_of(url: str) -> str:
    """Scheme and host of an address, without credentials; empty for what is no address of a page."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if parts.scheme and host and host.isprintable() else ""


class RequestInfo:
    """One HTTP request or websocket, as far as it outlives its scope."""

    __slots__ = (
        "_frozen", "_page", "_pieces", "_routed", "_scope", "_server", "body", "client", "ended", "first",
        "has_baggage", "headers", "method", "path", "query", "scheme",
    )  # fmt: skip

    def __init__(self, scope: Mapping[str, Any], first: dict[bytes, bytes]) -> None:
        """`first`: the scope's `first_headers`."""
        self._scope: Mapping[str, Any] = scope
        self._pieces: Pieces | None = None
        self._routed: object = None
        """The endpoint that `_pieces` are of."""
        self._page: tuple[Pieces | None] | None = None
        """Of the page that the request came from, once it was looked up."""
        self._frozen: dict[bool, RequestFacts] = {}
        """The facts, as long as nothing more is known of the route: a request has several signals."""
        self.ended = False
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

    def see(self, scope: Mapping[str, Any]) -> None:
        """A scope nearer to the route: middleware may hand on a copy, in which alone routing leaves its marks."""
        if not self.ended:
            self._scope = scope

    def facts(self, *, analytics: bool = False) -> RequestFacts:
        """As they are now, with all headers, or with those that analytics reads."""
        pieces = self.pieces
        if (frozen := self._frozen.get(analytics)) is not None:
            return frozen
        headers = self.headers
        if analytics:
            if len(self.first) == len(headers):
                headers = [(name, self.first[name]) for name in _ANALYTICS & self.first.keys()]
            else:  # in their order: HTTP/2 may split cookies
                headers = [pair for pair in headers if pair[0] in _ANALYTICS]
        facts = self._frozen[analytics] = RequestFacts(
            self.method, self.scheme, self.host, self._root, self.query, headers, self.client, pieces, self.page
        )
        return facts

    @property
    def pieces(self) -> Pieces | None:
        """The path as the route's template cuts it; None before routing, and where nothing matched."""
        endpoint = self._scope.get("endpoint")
        if endpoint is not self._routed:
            self._pieces, self._routed = None, endpoint
            self._frozen.clear()
            with suppress_faults():  # a route of the application's own making may be of any form
                self._pieces = pieces_of(self._scope)
        return self._pieces

    @property
    def page(self) -> Pieces | None:
        """The page that the request came from, where it is the application's own: as its own routes read the path."""
        referrer, router = self.first.get(b"referer"), self._scope.get("router")
        if referrer is None or router is None:
            return None
        if self._page is None:
            self._page = (None,)
            with suppress_faults():  # an address that is none, or a route of the application's own making
                page = urlsplit(referrer.decode("latin-1"))
                if page.netloc.rpartition("@")[2].lower() == self.host.lower():
                    path = path_below_root(self._scope, unquote(page.path))
                    self._page = (pieces_of_page(router, path),)
        return self._page[0]

    @property
    def scope(self) -> Mapping[str, Any]:
        """The ASGI scope, while the request runs."""
        return self._scope

    @property
    def below_root(self) -> str:
        """The path without the prefix that a proxy or `--root-path` stands for: as the application's routes read it."""
        return path_below_root(self._scope, self.path)

    @property
    def _root(self) -> str:
        root = root_of(self._scope)
        return root if self._scope["path"].startswith(root) else ""

    @property
    def route(self) -> str | None:
        """The full route template, prefixes of routers and mounts included; None when nothing matched."""
        return None if self.pieces is None else template(self.pieces)

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

    def paths(self) -> tuple[str, ...]:
        """Where no route took the request, its path as it may stand in a text, and those parts that may be secrets."""
        if self.pieces is not None:
            return ()
        raw = (self._scope.get("raw_path") or b"").decode("latin-1")
        parts = [part for part in f"{self.path}/{raw}".split("/") if len(part) >= _TELLING and _DIGIT.search(part)]
        found = (self.path, raw, *parts)
        return tuple(dict.fromkeys(filter(None, (*found, *map(quote, found)))))

    def release(self) -> None:
        """Let go of the scope: the request has ended. What says which route it took stays."""
        scope, self.ended, self.body = self._scope, True, b""
        self._scope = {key: scope[key] for key in ROUTING if key in scope}
