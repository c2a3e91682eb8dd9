"""Which route a request took: its template, and what stood in the path in the place of each parameter.

The template is all that says which parts of a path are words of the application and which came from the client. Routing
leaves in the ASGI scope only the endpoint that it chose, so the route is found again among the application's routes:
FastAPI's own at once, below a mount by walking down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Pieces = tuple[tuple[str, str, tuple[str, ...]], ...]
"""A path as its template cuts it: a text of the application's, the name of the parameter behind it, and how that one's
value is spelt: first as it stood in the path, then as the application got it. The last piece has no parameter. Of the
rest of a path (`{name:path}`), in which nobody knows what is whose, the first spelling is empty. Plain tuples, for
marshal."""

ROUTING = ("app_root_path", "endpoint", "fastapi", "path", "path_params", "raw_path", "root_path", "route", "router")
"""What `pieces_of` reads of a scope."""

_PARAMETER = re.compile(r"{([^{}]*)}")
_DEEPEST = 20
"""Mounts in one another, and middleware around a mounted application (each keeps the next one as `app`), at most."""


def pieces_of(scope: Mapping[str, Any]) -> Pieces | None:
    """The pieces of a request's path; None before it is routed, and where no route took it.

    What the server or a proxy put before the application (`root_path`) belongs to no template.
    """
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    path, params = path_below_root(scope), scope.get("path_params", {})
    if "app_root_path" not in scope:  # not in a mount: what FastAPI kept is the route
        kept = _kept(scope)
        regex = getattr(kept, "path_regex", None)
        if regex is not None and _target(kept) is endpoint and (match := regex.match(path)) is not None:
            return _pieces(kept, kept.path_format, match, params)
    routes = _routes_of(scope.get("router") or scope.get("app"))
    return _find(routes, path, lambda route: _target(route) is endpoint, params)


def pieces_of_page(router: object, path: str) -> Pieces | None:
    """The pieces of another page of the application, by the path that a GET of it has."""
    return _find(_routes_of(router), path, lambda route: "GET" in (getattr(route, "methods", None) or {"GET"}), {})


def path_below_root(scope: Mapping[str, Any], path: str | None = None) -> str:
    """A path without what the server put before the application; that of the scope when None."""
    whole: str = scope["path"] if path is None else path
    below = whole.removeprefix(root_of(scope))
    return below if below.startswith("/") or not below else whole


def root_of(scope: Mapping[str, Any]) -> str:
    """What the server put before the application; a mount moves its own prefix into `root_path`."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root


def template(pieces: Pieces) -> str:
    """The route's template: `/accounts/{tenant}/reset/{token}`."""
    return "".join(f"{before}{{{name}}}" if name else before for before, name, _ in pieces)


def _kept(scope: Mapping[str, Any]) -> Any:
    """The route as FastAPI keeps it: with the prefixes of the routers that it is included by."""
    effective = scope.get("fastapi", {}).get("effective_route_context")
    return getattr(effective, "starlette_route", None) or effective or scope.get("route")


def _find(
    routes: Iterable[Any], path: str, wanted: Callable[[Any], bool], params: Mapping[str, Any], depth: int = 0
) -> Pieces | None:
    """The first route that takes the path and is wanted, also below mounts, in the order of the router."""
    for route in _flat(routes) if depth < _DEEPEST else ():
        regex, target = getattr(route, "path_regex", None), _target(route)
        match = None if regex is None else regex.match(path)
        if regex is not None and match is None:
            continue
        before: Pieces = ()
        remainder, inside = path, _routes_of(target)
        if match is not None and hasattr(route, "endpoint"):
            if wanted(route):
                return _pieces(route, route.path_format, match, params)
        elif match is not None:  # a mount
            before, remainder = (
                _pieces(route, route.path_format.removesuffix("/{path}"), match, params),
                f"/{match['path']}",
            )
            if not inside and wanted(route):
                return _joined(before, (("/*", "", ("", match["path"])),))
        if inside and (found := _find(inside, remainder, wanted, params, depth + 1)) is not None:
            return _joined(before, found)
    return None


def _joined(before: Pieces, after: Pieces) -> Pieces:
    """Two parts of one path, the end of the first before the beginning of the second."""
    if not before:
        return after
    (text, _, _), (first, name, spellings) = before[-1], after[0]
    return *before[:-1], (text + first, name, spellings), *after[1:]


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes, those of FastAPI's included routers with their prefixes."""
    for route in routes:
        if (contexts := getattr(route, "effective_route_contexts", None)) is None:
            yield route
        else:
            for context in contexts():
                yield getattr(context, "starlette_route", None) or context


def _target(route: Any) -> Any:
    """What routing leaves as the endpoint: a route's own, a mount's application."""
    return getattr(route, "endpoint", None) or getattr(route, "app", None)


def _routes_of(app: Any) -> Sequence[Any]:
    """The routes of an application or router, also inside middleware."""
    for _ in range(_DEEPEST):
        routes = getattr(app, "routes", None)
        if isinstance(routes, Sequence):
            return routes
        app = getattr(app, "app", None)
        if app is None:
            break
    return ()


def _pieces(route: Any, form: str, match: re.Match[str], params: Mapping[str, Any]) -> Pieces:
    """A path as one route's template cuts it, or the beginning of the path, as a mount's does."""
    *cut, end = _PARAMETER.split(form)  # a text and a name in turn
    pieces: list[tuple[str, str, tuple[str, ...]]] = []
    for before, name in zip(cut[::2], cut[1::2], strict=True):
        raw = match[name]
        given = str(params.get(name, raw))
        takes_all = "/" in raw or route.param_convertors[name].regex == ".*"
        pieces.append((before, name, ("", raw) if takes_all else (raw,) if given == raw else (raw, given)))
    return *pieces, (end, "", ())
