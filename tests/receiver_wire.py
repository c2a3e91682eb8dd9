"""Bodies in the three wire formats, for the receiver's tests."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.receiver_server import Receiver

SENTRY, RUDDERSTACK, OTLP = "/api/1/envelope/", "/v1/batch", "/api/public/otel/v1/traces"
SCORES, INGESTION, MEDIA = "/api/public/scores", "/api/public/ingestion", "/api/public/media"
JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def post(receiver: Receiver, path: str, body: bytes | Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(receiver.url + path, content=content, headers=headers, trust_env=False)


def envelope(*items: tuple[str, Any], header: dict[str, Any] | None = None) -> bytes:
    lines = [json.dumps(header if header is not None else {"event_id": "e" * 32})]
    for item_type, payload in items:
        body = json.dumps(payload)
        lines += [json.dumps({"type": item_type, "length": len(body.encode())}), body]
    return "\n".join(lines).encode()


def export(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def span(**fields: Any) -> dict[str, Any]:
    ids = {"traceId": "a" * 32, "spanId": "b" * 16}
    times = {"startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000001000000000"}
    return {**ids, **times, "name": "s", **fields}


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer["code"] == status
    return str(answer["message"])


def protobuf(export: dict[str, Any]) -> bytes:
    """An OTLP/JSON export as serialised protobuf. Its spans' ids must be set."""
    export = json.loads(json.dumps(export))
    for group in export["resourceSpans"]:
        for each in group["scopeSpans"][0]["spans"]:
            for field in {"traceId", "spanId", "parentSpanId"} & set(each):
                each[field] = base64.b64encode(bytes.fromhex(each[field])).decode()
    return bytes(ParseDict(export, ExportTraceServiceRequest()).SerializeToString())
