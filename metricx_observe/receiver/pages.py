"""The pages: a live list and one request's story. Templates and static files, no script or style inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from .api import find, read_query
from .signals import KINDS
from .store import Store
from .story import entry, tell

HERE = Path(__file__).parent


def _duration(milliseconds: float) -> str:
    """A duration as a person reads it: 0.42 ms, 12 ms, 3.1 s."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2f} ms"


class Pages:
    """Renders rows. Everything that is shown is escaped by the templates."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["duration"] = _duration
        self._templates.filters["path_segment"] = lambda value: quote(str(value), safe="")

    def routes(self) -> list[BaseRoute]:
        """`/`, its fragment for polling, `/requests/{request_id}`, and Langfuse's address of a trace."""
        return [
            Route("/", self.live, methods=["GET"]),
            Route("/signals", self.signals, methods=["GET"]),
            Route("/requests/{request_id}", self.request, methods=["GET"]),
            Route("/project/{project}/traces/{trace_id}", self.trace, methods=["GET"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]

    async def live(self, request: Request) -> Response:
        """The list, which asks for its newer self every second."""
        return await self._list(request, "live.html")

    async def signals(self, request: Request) -> Response:
        """The table alone; 204 when nothing changed since the version that the page has."""
        if request.query_params.get("version") == str(self._store.version):
            return Response(status_code=204)
        return await self._list(request, "signals.html")

    async def _list(self, request: Request, template: str) -> Response:
        query = read_query(request, more=("version",))
        given = {name: value for name, value in request.query_params.items() if value and name not in ("version", "cursor")}

        def work() -> str:
            version = self._store.version
            rows, cursor = find(self._store, query)
            polls = urlencode(given | {"version": str(version)} | ({"cursor": query.cursor} if query.cursor else {}))
            return self._render(
                template,
                entries=[entry(row) for row in rows],
                given=given,
                kinds=KINDS,
                poll=f"/signals?{polls}",
                older=f"/?{urlencode(given | {'cursor': cursor})}" if cursor else None,
                newest=f"/?{urlencode(given)}" if query.cursor else None,
                url=str(request.base_url).rstrip("/"),
            )

        return HTMLResponse(await run_in_threadpool(work))

    async def request(self, request: Request) -> Response:
        """One request's story; 404 with a page that says what it may mean."""
        request_id = request.path_params["request_id"]

        def work() -> tuple[str, int]:
            rows = self._store.of_request(request_id)
            page = self._render("request.html", request_id=request_id, story=tell(rows), count=len(rows))
            return page, 200 if rows else 404

        page, status = await run_in_threadpool(work)
        return HTMLResponse(page, status)

    async def trace(self, request: Request) -> Response:
        """Where Langfuse's `get_trace_url` leads: the signals of that trace."""
        return RedirectResponse(f"/?{urlencode({'trace_id': request.path_params['trace_id']})}", 303)

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)
