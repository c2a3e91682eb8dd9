"""The facts of one request that its signals are made of: live while it runs, and frozen when a signal is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

from metricx_observe.interrupts import suppress_faults
from metricx_observe.normalise import freeze

from .route import ROUTING, Pieces, path_below_root, pieces_of, pieces_of_page, root_of, template

Headers = list[tuple[bytes, bytes]]
Clean = Callable[[str, str], str]
"""Gives a part of a path as it may be sent, of the name of its parameter and the part."""

ANALYTICS_HEADERS = frozenset({b"accept-language", b"cookie", b"host", b"referer", b"sec-fetch-mode", b"user-agent"})
"""What analytics reads of a browser's request."""
_SECRET_LENGTH, _DIGIT = 8, re.compile(r"\d")
"""A part of an unknown path of so many characters, and with a digit, may be a secret."""


def first_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of equal names. A loop takes three times as long."""
    return dict([*headers][::-1])


class RequestFacts(NamedTuple):
    """What a signal takes of its request, as it was at the call. `_asdict()` is JSON.

    A path stands in it only by the pieces of its template: in any other path a secret cannot be recognised.
    """

    method: str
    scheme: str
    host: str
    root: str
    """What the server put before the application's paths."""
    query: str
    headers: list[tuple[str, str]]
    client: tuple[str, int] | None
    pieces: Pieces | None
    """None before the request is routed, and where no route took it."""
    page: Pieces | None
    """Of the page that the request came from (`Referer`), where that is one of the application's own."""

    @property
    def origin(self) -> str:
        """`https://shop.example`."""
        return f"{self.scheme}://{self.host}"

    def path(self, clean: Clean) -> str:
        """The path as it may be sent; empty where the template is not known."""
        return _shown(self.pieces, self.root, clean)

    def url(self, clean: Clean) -> str:
        """The address without query, fragment or credentials, as it may be sent."""
        return self.origin + self.path(clean)

    def referrer(self, clean: Clean) -> tuple[str, str]:
        """Origin and path of the page that the request came from, as they may be sent; empty where there is none."""
        origin = origin_of(next((value for name, value in self.headers if name == "referer"), ""))
        return origin, _shown(self.page, self.root, clean) if origin else ""

    def secrets(self, clean: Clean) -> dict[str, str]:
        """What may not be sent of both paths, in each spelling, and what stands for it."""
        found: dict[str, str] = {}
        for _, name, spellings in (*(self.pieces or ()), *(self.page or ())):
            kept = _kept(name, spellings, clean)
            if spellings and kept != spellings[0]:
                for text in filter(None, spellings):
                    found |= dict.fromkeys((text, quote(text), quote(text, safe=""), quote_plus(text)), kept)
        return found


def _shown(pieces: Pieces | None, root: str, clean: Clean) -> str:
    """A path as it may be sent, by its pieces; empty without them. The rest of a path stays the template's."""
    if pieces is None:
        return ""
    parts = (before + (_kept(name, spellings, clean) if name else "") for before, name, spellings in pieces)
    return root + "".join(parts)


def _kept(name: str, spellings: tuple[str, ...], clean: Clean) -> str:
    """What is sent of one part of a path; of the rest of a path its parameter's name."""
    if spellings and spellings[0]:
        return clean(name, spellings[0])
    return f"{{{name}}}" if name else "*"


def origin_of(url: str) -> str:
    """Scheme and host of an address, without credentials; empty for anything but the address of a page."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if parts.scheme and host and host.isprintable() else ""


class RequestInfo:
    """One HTTP request or websocket, as far as it outlives its scope."""

    __slots__ = (
        "_frozen", "_page", "_pieces", "_routed", "_server", "body", "client", "ended", "first", "has_baggage",
        "headers", "method", "path", "query", "scheme", "scope",
    )  # fmt: skip

    def __init__(self, scope: Mapping[str, Any], first: dict[bytes, bytes]) -> None:
        """`first`: the scope's `first_headers`."""
        self.scope: Mapping[str, Any] = scope
        """The ASGI scope, while the request runs; after it what says which route it took."""
        self._routed: tuple[object, object] = (None, None)
        """The endpoint and the router by which the path of the request and that of its page were read."""
        self._pieces: Pieces | None = None
        self._page: Pieces | None = None
        self._frozen: bytes | None = None
        self.ended = False
        self.body = b""
        """As much of it as the application has read so far, with METRICX_SEND_BODIES and while the request runs."""
        self.method: str = scope.get("method", "WEBSOCKET")
        self.scheme: str = scope.get("scheme", "http")
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = [*scope["headers"]]  # as the client sent them, whatever the application changes
        self.client: tuple[str, int] | None = scope.get("client")
        self.has_baggage = b"baggage" in first
        self.first = first
        self._server: tuple[str, int | None] | None = scope.get("server")

    def update_scope(self, scope: Mapping[str, Any]) -> None:
        """A scope nearer to the route: middleware may hand on a copy, in which alone routing leaves its marks."""
        if not self.ended:
            self.scope = scope

    def facts(self, names: Collection[bytes] | None = None) -> RequestFacts:
        """As they are now, with the headers of these names; with all of them when None."""
        self._read_route()
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self.headers
            if names is None or name in names
        ]
        client = self.client if isinstance(self.client, (tuple, list)) else None
        query = self.query.decode("latin-1")
        root = root_of(self.scope)
        root = root if self.scope["path"].startswith(root) else ""
        return RequestFacts(self.method, self.scheme, self.host, root, query, headers, client, self._pieces, self._page)

    def frozen(self) -> bytes:
        """What analytics takes of it, as JSON. Made once for each route: half of what a call of `track` would cost."""
        self._read_route()
        if self._frozen is None:
            self._frozen = freeze(self.facts(ANALYTICS_HEADERS)._asdict())
        return self._frozen

    def _read_route(self) -> None:
        """Read both paths by the application's routes, again only when routing has left other marks in the scope."""
        scope = self.scope
        routed = scope.get("endpoint"), scope.get("router")
        if routed[0] is self._routed[0] and routed[1] is self._routed[1]:
            return
        self._routed, self._pieces, self._page, self._frozen = routed, None, None, None
        with suppress_faults():  # a route of the application's own making may be of any form
            self._pieces = pieces_of(scope)
        if routed[1] is not None and (referrer := self.first.get(b"referer")) is not None:
            with suppress_faults():  # not an address
                self._page = self._pieces_of_own_page(routed[1], referrer.decode("latin-1"))

    def _pieces_of_own_page(self, router: object, referrer: str) -> Pieces | None:
        page = urlsplit(referrer)
        if page.netloc.rpartition("@")[2].lower() != self.host.lower():
            return None
        return pieces_of_page(router, path_below_root(self.scope, unquote(page.path)))

    @property
    def pieces(self) -> Pieces | None:
        """The path as the route's template cuts it; None before routing, and where nothing matched."""
        self._read_route()
        return self._pieces

    @property
    def below_root(self) -> str:
        """The path without the prefix that a proxy or `--root-path` stands for: as the application's routes read it."""
        return path_below_root(self.scope, self.path)

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
        raw = (self.scope.get("raw_path") or b"").decode("latin-1")
        parts = f"{self.path}/{raw}".split("/")
        found = (self.path, raw, *(part for part in parts if len(part) >= _SECRET_LENGTH and _DIGIT.search(part)))
        return tuple(dict.fromkeys(filter(None, (*found, *map(quote, found)))))

    def release(self) -> None:
        """Let go of the scope: the request has ended."""
        scope, self.ended, self.body = self.scope, True, b""
        self.scope = {key: scope[key] for key in ROUTING if key in scope}
