"""The receiver's own JSON API: signals, one request, health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .signals import KINDS, Refused, iso, parse_time
from .store import Row, Store

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
_TEXT_FILTERS = ("user", "workspace", "request_id", "trace_id")
_PARAMETERS = frozenset({*_TEXT_FILTERS, "kind", "since", "limit", "cursor"})


class Query(NamedTuple):
    """What a list was asked for."""

    filters: dict[str, Any]
    kinds: tuple[str, ...]
    limit: int
    cursor: str | None


def read_query(request: Request, more: Iterable[str] = ()) -> Query:
    """The query string's filters. An empty value means no filter. Raises Refused(400) for what is not known.

    Args:
        more: parameters that the caller reads itself.
    """
    given = {name: value for name, value in request.query_params.items() if value}
    unknown = set(given) - _PARAMETERS - set(more)
    if unknown:
        raise Refused(400, f"unknown parameter; these are known: {', '.join(sorted(_PARAMETERS))}")
    kinds = tuple(given["kind"].split(",")) if "kind" in given else ()
    if not set(kinds) <= set(KINDS):
        raise Refused(400, f"kind must be one of {', '.join(KINDS)}, or several of them joined by commas")
    filters: dict[str, Any] = {name: given[name] for name in _TEXT_FILTERS if name in given}
    if "since" in given:
        filters["since"] = _since(given["since"])
    limit = given.get("limit", str(DEFAULT_LIMIT))
    if not limit.isascii() or not limit.isdigit() or len(limit) > 5 or not 1 <= int(limit) <= MAX_LIMIT:
        raise Refused(400, f"limit must be 1 to {MAX_LIMIT}")
    return Query(filters, kinds, int(limit), given.get("cursor"))


def _since(value: str) -> float:
    """An ISO time or epoch seconds. The plus sign of an offset often arrives as a space, which it means in a query."""
    try:
        found = parse_time(float(value))
    except ValueError:
        found = parse_time(value)
        if found is None:
            found = parse_time("+".join(value.rsplit(" ", 1)))
    if found is None:
        raise Refused(400, "since must be an ISO time or a number of seconds since 1970")
    return found


def find(store: Store, query: Query) -> tuple[list[Row], str | None]:
    """The rows that were asked for, and the next cursor. Raises Refused(400) for a cursor that is none."""
    try:
        return store.newest(query.filters, query.kinds, query.limit, query.cursor)
    except ValueError:
        raise Refused(400, "cursor is not one that this API gave") from None


def as_json(row: Row) -> dict[str, Any]:
    """A row for the API; its payload is put in as it was stored."""
    fields = row._asdict()
    del fields["seq"]
    return fields | {
        "time": iso(row.time),
        "received": iso(row.received),
        "payload": orjson.Fragment(row.payload),
    }


class Api:
    """The JSON routes. A reader of them needs nothing but HTTP: tests, scripts and the page use the same rows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """`/api/signals`, `/api/requests/{request_id}`, `/api/health`."""
        return [
            Route("/api/signals", self.signals, methods=["GET"]),
            Route("/api/signals", self.clear, methods=["DELETE"]),
            Route("/api/requests/{request_id}", self.request, methods=["GET"]),
            Route("/api/health", self.health, methods=["GET"]),
        ]

    async def signals(self, request: Request) -> Response:
        """Signals by time, newest first, with a cursor for more."""
        query = read_query(request)

        def work() -> bytes:
            rows, cursor = find(self._store, query)
            return orjson.dumps({"signals": [as_json(row) for row in rows], "next": cursor})

        return Response(await run_in_threadpool(work), media_type="application/json")

    async def clear(self, request: Request) -> Response:
        """Delete everything. The page that asked for it loads itself again."""
        await run_in_threadpool(self._store.clear)
        return Response(status_code=204, headers={"HX-Refresh": "true"})

    async def request(self, request: Request) -> Response:
        """Everything of one request, in the order in which it happened; 404 when there is nothing."""
        request_id = request.path_params["request_id"]
        rows = await run_in_threadpool(self._store.of_request, request_id)
        if not rows:
            raise Refused(404, "nothing is stored of this request")
        body = orjson.dumps({"request_id": request_id, "signals": [as_json(row) for row in rows]})
        return Response(body, media_type="application/json")

    async def health(self, request: Request) -> Response:
        """How many signals are stored, and how many items of other types came by."""
        signals = await run_in_threadpool(self._store.count)
        body = orjson.dumps({"status": "ok", "signals": signals, "others": dict(self._store.others)})
        return Response(body, media_type="application/json")
