"""The pages: a live list and one request's story. Templates and static files, no script or style inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from .api import find
from .signals import KINDS, Refused
from .store import Store
from .story import read, story_of

HERE = Path(__file__).parent
MEDIA_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "txt": "text/plain"}
"""By ending. Python's own table is the machine's, and with `nosniff` a wrong one would stop the page."""


class Pages:
    """Renders rows. The templates escape everything that they show."""

    def __init__(self, store: Store) -> None:
        self._store = store
        loader = FileSystemLoader(HERE / "templates")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self._templates.filters["duration"] = duration
        # Few and small, so in memory: no path of a request ever reaches the file system.
        self._files = {file.name: file.read_bytes() for file in (HERE / "static").iterdir()}
        self._templates.filters["segment"] = lambda value: quote(value, safe="")

    def routes(self) -> list[Route]:
        """`/`, its table for polling, `/requests/{request_id}`, and Langfuse's address of a trace."""
        return [
            Route("/", self._live, methods=["GET"]),
            Route("/signals", self._table, methods=["GET"]),
            Route("/requests/{request_id:path}", self._request, methods=["GET"]),
            Route("/project/{project}/traces/{trace_id}", self._trace, methods=["GET"]),
            Route("/trace/{trace_id}", self._trace, methods=["GET"]),
            Route("/static/{name}", self._file, methods=["GET"]),
        ]

    async def _live(self, request: Request) -> Response:
        return await self._list(request, "live.html")

    async def _table(self, request: Request) -> Response:
        """The table alone; 204 when nothing has changed since the version that the page shows."""
        if request.query_params.get("version") == str(self._store.version):
            return Response(status_code=204)
        return await self._list(request, "signals.html")

    async def _list(self, request: Request, template: str) -> Response:
        given = {name: value for name, value in request.query_params.items() if value and name != "version"}
        filters = {name: value for name, value in given.items() if name != "cursor"}

        def work() -> str:
            version = self._store.version
            rows, cursor = find(self._store, given)
            return self._render(
                template,
                entries=[read(row.signal) for row in rows],
                filters=filters,
                kinds=KINDS,
                poll=f"/signals?{urlencode({**given, 'version': version})}",
                newest=f"/?{urlencode(filters)}" if "cursor" in given else None,
                older=f"/?{urlencode({**filters, 'cursor': cursor})}" if cursor else None,
                address=request.url.netloc,
            )

        return HTMLResponse(await run_in_threadpool(work))

    async def _request(self, request: Request) -> Response:
        request_id = request.path_params["request_id"]

        def work() -> Response:
            rows = self._store.of_request(request_id)
            story = story_of(row.signal for row in rows)
            page = self._render("request.html", request_id=request_id, story=story, count=len(rows))
            return HTMLResponse(page, 200 if rows else 404)

        return await run_in_threadpool(work)

    async def _trace(self, request: Request) -> Response:
        """Where our traces' `url` and Langfuse's `get_trace_url` lead."""
        return RedirectResponse(f"/?{urlencode({'trace_id': request.path_params['trace_id']})}", 303)

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise Refused(404, "there is no such file")
        return Response(self._files[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)


def duration(milliseconds: float) -> str:
    """A duration as a person reads it: 0.42 ms, 12 ms, 3.1 s."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 or not milliseconds else f"{milliseconds:.2f} ms"
