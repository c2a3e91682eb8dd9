"""The ready-made health route: `status()` as JSON, or as Prometheus text where `Accept` asks for text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def health_route(path: str, status: Callable[[], dict[str, Any]]) -> Route:
    """A GET route that answers what `status` gives."""

    async def health(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if "text/plain" in accept or "openmetrics" in accept:
            lines = "\n".join(_lines("metricx_observe", status(), {}))
            return PlainTextResponse(f"{lines}\n", media_type="text/plain; version=0.0.4")
        return Response(orjson.dumps(status(), default=str), media_type="application/json")

    return Route(path, health, include_in_schema=False)


def _lines(prefix: str, values: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    """Numbers as gauges. The first level is a label: the vendor, or the part of the status."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            level = ("part", "reason", "place", "rule")[min(len(labels), 3)]
            if not labels:
                yield from _lines(prefix, value, {level: name})
            else:
                numbers = {key: number for key, number in value.items() if _is_number(number)}
                for key, number in numbers.items():
                    yield f"{prefix}_{_safe(name)}{_text({**labels, level: key})} {float(number):g}"
        elif _is_number(value):
            yield f"{prefix}_{_safe(name)}{_text(labels)} {float(value):g}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _safe(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name)


def _text(labels: Mapping[str, str]) -> str:
    escaped = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(escaped)}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
