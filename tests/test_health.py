"""The health route: status() as JSON, and as Prometheus text that Prometheus can read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI

from metricx_observe.ids import new_id
from metricx_observe.request.health import prometheus

from .receiver_server import Receiver
from .support import Answer, call, observed

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (-?[0-9.e+-]+)')
"""A line of the text format 0.0.4: a name, labels, a number."""


def parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples by metric; fails where Prometheus would: a wrong line, or a metric whose lines stand apart."""
    metrics: dict[str, list[tuple[dict[str, str], float]]] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind == ("counter" if name.endswith("_total") else "gauge")
            assert name not in metrics
            metrics[name] = []
            continue
        found = SAMPLE.fullmatch(line)
        assert found is not None, line
        assert found[1] == list(metrics)[-1], "a sample without its type above it"
        labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
        assert labels not in [seen for seen, _ in metrics[found[1]]]
        metrics[found[1]].append((labels, float(found[3])))
    return metrics


async def health(receiver: Receiver, accept: str) -> Answer:
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app, health_path="/health/observability")

        @app.get("/x")
        async def use() -> None:
            observability.tracker.track("", user_id="u1")
            observability.tracker.track("bad-name", {"password": "hunter2"}, user_id=f"user-{new_id()}")

        await call(app, "/x")
        assert observability.flush(10)
        assert "/health/observability" not in json.dumps(app.openapi())
        return await call(app, "/health/observability", headers={"accept": accept})


async def test_as_json(receiver: Receiver) -> None:
    """The route answers `status()` as JSON, and is no part of OpenAPI."""
    answer = await health(receiver, "*/*")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    status = json.loads(answer.body)
    assert set(status) >= {"sentry", "rudderstack", "langfuse", "outbox", "faults", "scrubbed"}
    assert status["rudderstack"]["delivered"] == 1


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*"]
)
async def test_as_prometheus_text(receiver: Receiver, accept: str) -> None:
    """With the `Accept` that Prometheus sends, it can read each line, and labels say what they are."""
    answer = await health(receiver, accept)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    metrics = parsed(answer.body.decode())
    assert ({"vendor": "rudderstack"}, 1.0) in metrics["metricx_observe_delivered_total"]
    assert {label["vendor"] for label, _ in metrics["metricx_observe_pending"]} >= {"sentry", "rudderstack", "langfuse"}
    assert ({"vendor": "sentry"}, 0.0) in metrics["metricx_observe_breaker_open"]
    assert ({"vendor": "sentry"}, 0.0) in metrics["metricx_observe_client_replaced"]
    assert ({"call": "track: no event name"}, 1.0) in metrics["metricx_observe_faults_total"]
    assert metrics["metricx_observe_outbox_unacknowledged_total"] == [({}, 0.0)]
    for labels, _ in metrics["metricx_observe_scrubbed_total"]:
        assert set(labels) == {"signal", "place", "rule"}
    assert "hunter2" not in answer.body.decode()


def test_reasons_odd_labels_and_large_numbers() -> None:
    """A reason is a label, whatever characters it has, and a large counter loses no digit."""
    status: dict[str, Any] = {
        "service": "shop",
        "rudderstack": {"put": 123_456_789, "dropped": {'a "quoted"\nreason\\': 2}, "oldest_s": 1.5, "breaker": "open"},
        "outbox": {"kind": "sqlite", "stranded": {"sentry": 4}, "unacknowledged": 0},
        "faults": {},
    }
    text = prometheus(status)
    metrics = parsed(text)
    assert metrics["metricx_observe_put_total"] == [({"vendor": "rudderstack"}, 123_456_789.0)]
    assert metrics["metricx_observe_dropped_total"][0][0]["reason"] == r"a \"quoted\"\nreason\\"
    assert metrics["metricx_observe_oldest_seconds"] == [({"vendor": "rudderstack"}, 1.5)]
    assert metrics["metricx_observe_breaker_open"] == [({"vendor": "rudderstack"}, 1.0)]
    assert metrics["metricx_observe_outbox_stranded"] == [({"vendor": "sentry"}, 4.0)]
    assert "shop" not in text
