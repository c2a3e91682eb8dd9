"""The receiver's own JSON API: signals, one request, health."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .signals import KINDS, Refused, parse_time
from .store import Row, Store

MAX_LIMIT = 1_000
_TEXT_FILTERS = ("user", "workspace", "request_id", "trace_id")
_PARAMETERS = {*_TEXT_FILTERS, "kind", "since", "limit", "cursor"}


def find(store: Store, given: Mapping[str, str]) -> tuple[list[Row], str | None]:
    """The rows that a query string asks for, and the next cursor. An empty value is no filter. Raises Refused(400)."""
    given = {name: value for name, value in given.items() if value}
    if not set(given) <= _PARAMETERS:
        raise Refused(400, f"unknown parameter; these are known: {', '.join(sorted(_PARAMETERS))}")
    kinds = given["kind"].split(",") if "kind" in given else []
    if not set(kinds) <= set(KINDS):
        raise Refused(400, f"kind must be one of {', '.join(KINDS)}, or several of them joined by commas")
    limit = given.get("limit", "100")
    if not limit.isdecimal() or len(limit) > 5 or not 1 <= int(limit) <= MAX_LIMIT:
        raise Refused(400, f"limit must be 1 to {MAX_LIMIT}")
    filters: dict[str, Any] = {name: given[name] for name in _TEXT_FILTERS if name in given}
    if "since" in given:
        filters["since"] = _since(given["since"])
    try:
        return store.newest(filters, list(dict.fromkeys(kinds)), int(limit), given.get("cursor"))
    except ValueError:
        raise Refused(400, "cursor is not one that this API gave") from None


def _since(value: str) -> float:
    """An ISO time or epoch seconds. In a query string the plus sign of an offset often arrives as a space."""
    try:
        found = parse_time(float(value))
    except ValueError:
        found = parse_time(value)
        found = parse_time(value.replace(" ", "+")) if found is None else found
    if found is None:
        raise Refused(400, "since must be an ISO time or a number of seconds since 1970")
    return found


def as_json(row: Row) -> dict[str, Any]:
    """A row for the API: times as ISO in UTC, the payload as it was stored."""
    fields = row.signal._asdict() | {"received": row.received}
    for name in ("time", "received"):
        moment = datetime.fromtimestamp(fields[name], UTC)
        fields[name] = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    del fields["key"]
    return fields | {"payload": orjson.Fragment(row.signal.payload)}


class Api:
    """The JSON routes. Tests, scripts and the page read the same rows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """`/api/signals`, `/api/requests/{request_id}`, `/api/health`."""
        return [
            Route("/api/signals", self._signals, methods=["GET"]),
            Route("/api/signals", self._clear, methods=["DELETE"]),
            Route("/api/requests/{request_id:path}", self._request, methods=["GET"]),
            Route("/api/scrubbed", self._scrubbed, methods=["GET"]),
            Route("/api/health", self._health, methods=["GET"]),
        ]

    async def _signals(self, request: Request) -> Response:
        def work() -> bytes:
            rows, cursor = find(self._store, request.query_params)
            return orjson.dumps({"signals": [as_json(row) for row in rows], "next": cursor})

        return Response(await run_in_threadpool(work), media_type="application/json")

    async def _clear(self, request: Request) -> Response:
        """All of it, or with `?user=` what is one user's."""
        if request.query_params:
            user = request.query_params.get("user")
            if not user or len(request.query_params) > 1:
                raise Refused(400, "DELETE takes user, or no parameter at all")
            deleted = await run_in_threadpool(self._store.forget, user)
            return Response(orjson.dumps({"deleted": deleted}), media_type="application/json")
        await run_in_threadpool(self._store.clear)
        return Response(status_code=204, headers={"HX-Refresh": "true"})

    async def _request(self, request: Request) -> Response:
        request_id = request.path_params["request_id"]
        rows = await run_in_threadpool(self._store.of_request, request_id)
        if not rows:
            raise Refused(404, "nothing is stored of this request")
        body = orjson.dumps({"request_id": request_id, "signals": [as_json(row) for row in rows]})
        return Response(body, media_type="application/json")

    async def _scrubbed(self, _: Request) -> Response:
        """The scrub report, read from the markers: counts by kind, place and rule, never a value."""
        return Response(orjson.dumps(await run_in_threadpool(self._store.scrubbed)), media_type="application/json")

    async def _health(self, _: Request) -> Response:
        signals = await run_in_threadpool(self._store.count)
        body = {"status": "ok", "signals": signals, "others": dict(self._store.others)}
        return Response(orjson.dumps(body), media_type="application/json")
