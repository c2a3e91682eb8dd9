"""Delivery: events a second from one process into the sink, and what one costs in bytes and CPU."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench.figures import Figure, Middle, Part, ratios
from bench.payloads import EVENT, PROPERTIES, USER_ID, VARIETY
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import drained, observability
from bench.worker import Round, Worker


def open_producer(whose: str, url: str, most: str) -> Round:
    """In the worker's process: one thread that tracks as fast as it can. `most`: events that a round may queue."""
    track: Callable[[str, dict[str, Any]], object]
    if whose == "rudderstack's SDK":
        from rudderstack import analytics

        analytics.write_key, analytics.dataPlaneUrl = "write-key", url
        analytics.max_queue_size = int(most)  # its own of 10,000 would drop the rest
        track = partial(analytics.track, USER_ID)
        drain = analytics.flush
    else:
        ours = observability(url, os.getcwd(), 0.0)
        ours.start()
        track = partial(ours.tracker.track, user_id=USER_ID)
        drain = partial(drained, ours)

    def do(n: int) -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        for number in range(n):
            track(EVENT, PROPERTIES[number % VARIETY])
        drain()
        return {"cpu": (time.process_time() - cpu) / n * 1e6, "rate": n / (time.perf_counter() - wall)}

    return do


HEADS = ("", "events/s", "CPU: us an event", "bytes an event on the wire", "posts for 1,000 events")


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    n, part = plan.pick(5_000, 20_000), Part()
    names = ["ours", "rudderstack's SDK"]
    measures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("bench.throughput:open_producer", name, sink.url, str(n)))
            for name in names
        }
        for number in range(1 + plan.pick(2, 5)):
            random.Random(number).shuffle(names)
            for name in names:
                found, arrived = workers[name].ask(n=n), sink.take()
                if arrived.get("rudderstack track") != n or arrived["doubled"]:
                    raise RuntimeError(f"{name}: of {n} arrived {arrived}")
                if number:  # the first round warms up
                    posts = {"bytes": arrived["bytes"] / n, "posts": arrived["requests"] / n * 1000}
                    measures[name].append(found | posts)
    part.measures = dict(measures)
    part.tables[f"Delivery of {n:,} events"] = (HEADS, [[name, *_cells(rounds)] for name, rounds in measures.items()])
    mine, theirs = ([each["rate"] for each in measures[name]] for name in measures)
    figure = Figure("events a second into a sink, x rudder's SDK", ">= 3 x", 3.0, ratios(mine, theirs), at_least=True)
    part.figures.append(figure)
    return part


def _cells(rounds: list[dict[str, float]]) -> list[str]:
    columns = (("rate", 0), ("cpu", 1), ("bytes", 0), ("posts", 1))
    return [Middle.of(found[key] for found in rounds).text(digits) for key, digits in columns]
