"""Requests as they came become signals: Sentry's envelopes, RudderStack's batches, Langfuse's OTLP and API calls.

How signals were put together to requests is not promised, so it is not seen here: a signal has with it what its
envelope or resource says, and each vendor's kinds of requests are listed once.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from .sink import Arrived

Signal = dict[str, Any]
VENDORS = ("rudderstack", "langfuse", "sentry")


def decode(arrived: Iterable[Arrived]) -> dict[str, list[Signal]]:
    """Signals by vendor, and `requests`: what kinds of requests brought them."""
    found: dict[str, list[Signal]] = {vendor: [] for vendor in VENDORS}
    kinds: list[Signal] = []
    for request in arrived:
        vendor = _vendor(request.path)
        kind = {"vendor": vendor, "method": request.method, "path": request.path, **_headers(request)}
        if kind not in kinds:
            kinds.append(kind)
        found[vendor] += _READERS[vendor](request.path, request.headers.get("content-type", ""), _body(request))
    found["sentry"] = _merged(found["sentry"])
    return {**found, "requests": sorted(kinds, key=str)}


def label(signal: Signal) -> str:
    """What a signal is called in a difference: its kind and its name."""
    return str(signal.get("signal", "request"))


def _vendor(path: str) -> str:
    return "sentry" if "/envelope" in path else "rudderstack" if path.startswith("/v1/") else "langfuse"


def _headers(request: Arrived) -> Signal:
    """Those that a vendor reads: what the body is, and who sends."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    shown = base64.b64decode(credentials).decode() if scheme == "Basic" else credentials
    found = {
        "content_type": request.headers.get("content-type"),
        "authorization": f"{scheme} {shown}".strip(),
        "sentry_auth": request.headers.get("x-sentry-auth"),
        **{name: value for name, value in request.headers.items() if name.startswith(("x-langfuse", "traceparent"))},
        **{name: value for name, value in request.headers.items() if name in ("sentry-trace", "baggage")},
    }
    return {name: value for name, value in found.items() if value}


def _body(request: Arrived) -> bytes:
    encoding = request.headers.get("content-encoding", "")
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "deflate":
        return zlib.decompress(request.body)
    if encoding == "br":
        raise ValueError("a body in Brotli: this tool has no decoder for it")
    return request.body


def _rudderstack(path: str, content_type: str, body: bytes) -> Iterator[Signal]:  # noqa: ARG001
    batch = json.loads(body)
    about = {key: value for key, value in batch.items() if key not in ("batch", "sentAt")}
    for message in batch["batch"]:
        name = message.get("event") or message.get("name") or ""
        yield {"signal": f"{message['type']}:{name}", **({"batch": about} if about else {}), **message}


def _sentry(path: str, content_type: str, body: bytes) -> Iterator[Signal]:  # noqa: ARG001
    first, _, rest = body.partition(b"\n")
    envelope = {key: value for key, value in json.loads(first).items() if key != "sent_at"}
    while rest.strip(b"\n"):
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.pop("length", None)
        if length is None:
            length = rest.find(b"\n") if b"\n" in rest else len(rest)
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        yield from _items(envelope, header, payload)


def _items(envelope: Signal, header: Signal, payload: bytes) -> Iterator[Signal]:
    """One item; logs and metrics, which the SDK puts together by the clock, one each."""
    kind = header["type"]
    if kind == "attachment":
        content: Any = payload.decode("utf-8", "backslashreplace")
    else:
        content = json.loads(payload)
    count = header.pop("item_count", None)
    if count is not None:
        if count != len(content["items"]):
            yield {"signal": f"{kind}:wrong count", "count": count, "items": len(content["items"])}
        for item in content["items"]:
            name = item.get("body") or item.get("name") or ""
            yield {"signal": f"{kind}:{name[:60]}", "envelope": envelope, "header": header, "payload": item}
        return
    yield {"signal": f"{kind}:{_name(content)}", "envelope": envelope, "header": header, "payload": content}


def _name(content: Any) -> str:
    if not isinstance(content, dict):
        return ""
    if content.get("type") == "transaction":
        return str(content.get("transaction"))
    if values := (content.get("exception") or {}).get("values"):
        return str(values[-1].get("type"))
    entry = content.get("logentry") or {}
    name = entry.get("message") or content.get("message") or content.get("monitor_slug") or ""
    return str(name)[:60]


def _merged(signals: list[Signal]) -> list[Signal]:
    """Reports of what was discarded, and counted sessions, as their sums: the clock says how many there are."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    others, attributes = [], dict[str, Any]()
    for signal in signals:
        kind, payload = signal["signal"].partition(":")[0], signal.get("payload")
        if kind == "client_report":
            for item in payload["discarded_events"]:
                _add(sums, kind, "", f"{item['reason']} {item['category']}", item["quantity"])
        elif kind == "sessions":
            attributes = payload.get("attrs", {})
            for each in payload["aggregates"]:
                for state, count in each.items():
                    if state not in ("started", "did"):
                        _add(sums, kind, str(each.get("did", "")), state, count)
        else:
            others.append(signal)
    for (kind, whose), counts in sums.items():
        more = {"attrs": attributes} if kind == "sessions" else {}
        others.append({"signal": f"{kind}:{whose}", "payload": {**counts, **more}})
    return others


def _add(sums: dict[tuple[str, str], dict[str, int]], kind: str, whose: str, name: str, count: int) -> None:
    counts = sums.setdefault((kind, whose), {})
    counts[name] = counts.get(name, 0) + count


def _langfuse(path: str, content_type: str, body: bytes) -> Iterator[Signal]:
    if path.endswith("/v1/traces"):
        yield from _spans(json.loads(body) if "json" in content_type else _protobuf(body))
    elif path.endswith("/scores"):
        posted = json.loads(body)
        for score in posted if isinstance(posted, list) else [posted]:
            yield {"signal": f"score:{score.get('name')}", **score}
    elif path.endswith("/ingestion"):
        for event in json.loads(body)["batch"]:
            yield {"signal": f"{event['type']}:{event['body'].get('name')}", **event}
    elif body:
        yield {"signal": f"call:{path}", "body": json.loads(body)}


def _spans(request: Signal) -> Iterator[Signal]:
    for resource in request["resourceSpans"]:
        about = _attributes(resource.get("resource", {}).get("attributes", ()))
        for scope in resource["scopeSpans"]:
            whose = dict(scope.get("scope", {}))
            whose["attributes"] = _attributes(whose.get("attributes", ()))
            for span in scope["spans"]:
                events = [
                    {**event, "attributes": _attributes(event.get("attributes", ()))}
                    for event in span.get("events", ())
                ]
                attributes = _attributes(span.get("attributes", ()))
                kind = attributes.get("langfuse.observation.type", "span")
                yield {
                    "signal": f"{kind}:{span['name']}", "resource": about, "scope": whose, **span,
                    "attributes": attributes, "events": events,
                }  # fmt: skip


def _attributes(listed: Iterable[Signal]) -> Signal:
    found: Signal = {}
    for each in listed:
        name = each["key"]
        if name in found:
            name = f"{name} (doubled)"
        found[name] = _value(each["value"])
    return found


def _value(value: Signal) -> Any:
    kind, content = next(iter(value.items()), ("none", None))
    if kind == "arrayValue":
        return [_value(item) for item in content.get("values", ())]
    if kind == "intValue":
        return int(content)
    if kind == "kvlistValue":
        return _attributes(content.get("values", ()))
    return content


def _protobuf(body: bytes) -> Signal:
    """OTLP's binary form as its JSON form."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request: Signal = MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in span.keys() & {"traceId", "spanId", "parentSpanId"}:  # Base64 in protobuf's own JSON
                    span[key] = base64.b64decode(span[key]).hex()
    return request


_READERS = {"rudderstack": _rudderstack, "sentry": _sentry, "langfuse": _langfuse}
