"""The vendors' own paths: what the three SDKs post, and what they expect as an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .body import BodyReader, decompress
from .langfuse import decode_ingestion, decode_scores, decode_traces
from .rudderstack import decode_batch
from .sentry import decode_envelope
from .signals import Decoded, Refused, expect, load
from .store import Store


class Ingest:
    """Reads a post, decodes and stores it in a thread, answers as the vendor does. Raises Refused for a bad one."""

    def __init__(self, store: Store) -> None:
        self._store, self._bodies = store, BodyReader(store.limits.body_bytes)
        self._one_at_a_time = CapacityLimiter(1)
        """Decoding holds a multiple of the body, and two threads would only wait for each other's GIL."""

    def routes(self) -> list[Route]:
        """The paths that the SDKs know."""
        return [
            Route("/api/{project}/envelope/", self._sentry, methods=["POST"]),
            Route("/v1/batch", self._rudderstack, methods=["POST"]),
            Route("/api/public/otel/v1/traces", self._langfuse_traces, methods=["POST"]),
            Route("/api/public/scores", self._langfuse_scores, methods=["POST"]),
            Route("/api/public/ingestion", self._langfuse_ingestion, methods=["POST"]),
            Route("/api/public/media", self._langfuse_media, methods=["POST"]),
            Route("/api/public/projects", self._langfuse_projects, methods=["GET"]),
        ]

    async def _take(self, request: Request, decode: Callable[[bytes, int], Decoded]) -> Any:
        """Store what was posted; gives the decoder's answer."""
        limits = self._store.limits
        coding = request.headers.get("content-encoding", "")

        def work(body: bytes) -> Any:
            try:
                decoded = decode(decompress(body, coding, limits.decoded_bytes), limits.rows_per_s)
            except Refused as refused:  # its traceback holds the body, and the pool's thread what it raised last
                return refused.with_traceback(None)
            if not self._store.put(decoded):
                return Refused(429, f"more than {limits.rows_per_s} signals a second", {"Retry-After": "1"})
            return decoded.answer

        async with self._bodies.read(request) as body:
            answer = await to_thread.run_sync(work, body, limiter=self._one_at_a_time)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def _sentry(self, request: Request) -> Response:
        return JSONResponse(await self._take(request, decode_envelope))

    async def _rudderstack(self, request: Request) -> Response:
        return PlainTextResponse(await self._take(request, decode_batch))

    async def _langfuse_traces(self, request: Request) -> Response:
        """Answers an empty ExportTraceServiceResponse in the form of the request."""
        media_type = request.headers.get("content-type", "")
        await self._take(request, partial(decode_traces, content_type=media_type))
        return Response(b"{}" if "json" in media_type else b"", media_type=media_type.partition(";")[0])

    async def _langfuse_scores(self, request: Request) -> Response:
        answer = await self._take(request, decode_scores)
        return JSONResponse(answer, 200 if "id" in answer else 202)

    async def _langfuse_ingestion(self, request: Request) -> Response:
        return JSONResponse(await self._take(request, decode_ingestion), 207)

    async def _langfuse_media(self, request: Request) -> Response:
        """Says that the file is already there, so that none is uploaded: the receiver keeps no media."""
        async with self._bodies.read(request) as posted:
            body = expect(load(posted, "the body"), dict, "the body")
        media_id = str(body.get("sha256Hash")).replace("+", "-").replace("/", "_")[:22]
        return JSONResponse({"mediaId": media_id, "uploadUrl": None})

    async def _langfuse_projects(self, _: Request) -> Response:
        """What the client's `auth_check` asks for: any key is right."""
        local = {"id": "local", "name": "local receiver"}
        return JSONResponse({"data": [local | {"organization": local, "metadata": {}}]})
