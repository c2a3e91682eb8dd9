"""The ready-made health route: `status()` as JSON, or as Prometheus text where `Accept` asks for text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_LABELS = {"faults": ("call",), "scrubbed": ("signal", "place", "rule")}
"""Parts of the status that are one metric, with what their keys are. The other parts are vendors, and the outbox."""
_COUNTERS = frozenset(
    {"put", "committed", "delivered", "retried", "dropped", "faults", "scrubbed", "outbox_unacknowledged"}
)


def health_route(path: str, status: Callable[[], dict[str, Any]]) -> Route:
    """A GET route that answers what `status` gives."""

    def health(request: Request) -> Response:  # not async: status() reads the outbox, so a thread does
        accept = request.headers.get("accept", "")
        if "text/plain" in accept or "openmetrics" in accept:
            return Response(prometheus(status()), media_type="text/plain; version=0.0.4")
        return Response(orjson.dumps(status(), default=str), media_type="application/json")

    return Route(path, health, include_in_schema=False)


def prometheus(status: Mapping[str, Any]) -> str:
    """The numbers of a status in Prometheus's text format (0.0.4), where a metric's lines must stand together."""
    metrics: dict[str, list[str]] = {}
    for name, labels, value in _samples(status):
        metrics.setdefault(name, []).append(f"{_labels(labels)} {float(value)!r}")
    lines = []
    for name, samples in metrics.items():
        counter = name in _COUNTERS
        shown = "metricx_observe_" + (f"{name}_total" if counter else name.replace("oldest_s", "oldest_seconds"))
        lines += [f"# TYPE {shown} {'counter' if counter else 'gauge'}", *(f"{shown}{sample}" for sample in samples)]
    return "\n".join(lines) + "\n"


def _samples(status: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    for part, values in status.items():
        if part in _LABELS:
            yield from _nested(part, values, {}, _LABELS[part])
        elif isinstance(values, Mapping):
            prefix, labels = ("outbox_", {}) if part == "outbox" else ("", {"vendor": part})
            for key, value in values.items():
                if key == "breaker":
                    yield "breaker_open", labels, value != "closed"
                else:
                    yield from _nested(prefix + key, value, labels, ("reason",) if labels else ("vendor",))


def _nested(
    name: str, value: object, labels: dict[str, str], inner: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str], float]]:
    if isinstance(value, (int, float)):
        yield name, labels, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _nested(name, item, {**labels, inner[0]: str(key)}, inner[1:])


def _labels(labels: Mapping[str, str]) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
