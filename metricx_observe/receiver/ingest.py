"""The vendors' own paths: what the three SDKs post, and what they expect as an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .body import decompress, read_body
from .langfuse import decode_ingestion, decode_scores, decode_traces
from .rudderstack import decode_batch
from .sentry import decode_envelope
from .signals import Decoded, Refused, load_object
from .store import Store

T = TypeVar("T")


class Ingest:
    """Reads a post, decodes and stores it in a thread, answers as the vendor does. Raises Refused for a bad one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """The paths that the SDKs know."""
        return [
            Route("/api/{project}/envelope/", self.sentry, methods=["POST"]),
            Route("/v1/batch", self.rudderstack, methods=["POST"]),
            Route("/api/public/otel/v1/traces", self.langfuse_traces, methods=["POST"]),
            Route("/api/public/scores", self.langfuse_scores, methods=["POST"]),
            Route("/api/public/ingestion", self.langfuse_ingestion, methods=["POST"]),
            Route("/api/public/media", self.langfuse_media, methods=["POST"]),
            Route("/api/public/projects", self.langfuse_projects),
            Route("/api/public/health", self.langfuse_health),
        ]

    async def _take(self, request: Request, decode: Callable[[bytes], tuple[T, Decoded]]) -> T:
        limits = self._store.limits
        body = await read_body(request, limits.body_bytes)
        coding = request.headers.get("content-encoding", "")

        def work() -> T:
            answer, decoded = decode(decompress(body, coding, limits.decoded_bytes))
            if not self._store.put(decoded):
                raise Refused(429, f"more than {limits.rows_per_s} signals a second")
            return answer

        return await run_in_threadpool(work)

    async def sentry(self, request: Request) -> Response:
        """Answers the event's id, as Sentry's relay does."""
        event_id = await self._take(request, decode_envelope)
        return JSONResponse({} if event_id is None else {"id": event_id})

    async def rudderstack(self, request: Request) -> Response:
        """Answers OK, as the gateway does."""
        await self._take(request, lambda body: (None, decode_batch(body)))
        return PlainTextResponse("OK")

    async def langfuse_traces(self, request: Request) -> Response:
        """Answers an empty ExportTraceServiceResponse in the form of the request."""
        content_type = request.headers.get("content-type", "")
        await self._take(request, lambda body: (None, decode_traces(body, content_type)))
        is_json = "json" in content_type
        return Response(b"{}" if is_json else b"", media_type="application/json" if is_json else "application/x-protobuf")

    async def langfuse_scores(self, request: Request) -> Response:
        """Answers 202 for a list (SDK 5), and the id for a single score (before it)."""

        def decode(body: bytes) -> tuple[tuple[list[str], bool], Decoded]:
            ids, batch, decoded = decode_scores(body)
            return (ids, batch), decoded

        ids, batch = await self._take(request, decode)
        return JSONResponse({"message": "Accepted"}, 202) if batch else JSONResponse({"id": ids[0]})

    async def langfuse_ingestion(self, request: Request) -> Response:
        """Answers 207 with the successes and errors of each event."""
        return Response(orjson.dumps(await self._take(request, decode_ingestion)), 207, media_type="application/json")

    async def langfuse_media(self, request: Request) -> Response:
        """Says that the file is already there, so that none is uploaded: the receiver keeps no media."""
        body = load_object(await read_body(request, self._store.limits.body_bytes), "the body")
        digest = body.get("sha256Hash")
        if not isinstance(digest, str):
            raise Refused(400, "sha256Hash is missing")
        media_id = digest.replace("+", "-").replace("/", "_")[:22]
        return JSONResponse({"mediaId": media_id, "uploadUrl": None})

    async def langfuse_projects(self, request: Request) -> Response:
        """What the client's `auth_check` asks for: any key is right."""
        organization = {"id": "local", "name": "local"}
        project = {"id": "local", "name": "local receiver", "organization": organization, "metadata": {}}
        return JSONResponse({"data": [project]})

    async def langfuse_health(self, request: Request) -> Response:
        """Langfuse's own health path."""
        return JSONResponse({"status": "OK", "version": "local"})
