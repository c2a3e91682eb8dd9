"""500 identical exceptions a second beside 500 requests a second: how long the others wait."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

from bench.figures import Figure, Middle, Part, ratios
from bench.plan import Plan
from bench.served import start
from bench.sink import Sink
from bench.variants import BUILD
from bench.worker import Worker

RATE = 500
NAMES = ("bare", "ours0", "sentry0")
HEADS = (
    "", "p50 ms without exceptions", "with them", "ratio", "p99 ms without", "with", "unanswered of the others",
    "errors sent a second",
)  # fmt: skip


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    part, seconds = Part(), plan.pick(1.0, 4.0)
    measures: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        client = stack.enter_context(Worker("bench.paced:open_client"))
        servers = start(NAMES, sink, stack, part)
        measures = {name: [] for name in servers}
        order = list(servers)
        for number in range(1 + plan.pick(1, 5)):
            random.Random(number).shuffle(order)
            for name in order:
                found = _round(client, servers[name], sink, seconds if number else 0.2)
                if number:  # the first round warms up
                    measures[name].append(found)
    part.measures = dict(measures)
    part.tables["500 identical exceptions a second beside 500 requests a second"] = (
        HEADS, [[BUILD[name][0], *_cells(found)] for name, found in measures.items()],
    )  # fmt: skip
    ours, sentry = (_ratio(measures[name]) for name in ("ours0", "sentry0"))
    note = f"sentry-sdk: {sentry.text(0)} x; bare, where nobody reports: {_ratio(measures['bare']).text(2)} x"
    name = "500 identical exceptions/s at 500 requests/s: p50 of the others, x without"
    part.figures.append(Figure(name, "<= 2 x", 2.0, ours, note=note))
    return part


def _round(client: Worker, server: Worker, sink: Sink, seconds: float) -> dict[str, float]:
    """Without, then with. Raises RuntimeError where ours lost count of the exceptions."""
    port = server.ask()["port"]
    alone = client.ask(port=port, seconds=seconds, rates={"/async": RATE})["/async"]
    before = _merged(server.ask(drain=True))
    sink.take()
    both = client.ask(port=port, seconds=seconds, rates={"/async": RATE, "/fail": RATE})
    beside = both["/async"]
    merged, sent = _merged(server.ask(drain=True)) - before, sink.take().get("sentry event", 0)
    failed = both["/fail"]["sent"] - both["/fail"]["unanswered"]
    if before >= 0 and merged + sent < failed:
        raise RuntimeError(f"ours: of {failed} exceptions {sent} were sent and {merged} counted on those")
    return {
        "p50": alone["p50"], "p50 with": beside["p50"], "p99": alone["p99"], "p99 with": beside["p99"],
        "unanswered": beside["unanswered"], "sent": sent / seconds,
    }  # fmt: skip


def _merged(answer: dict[str, Any]) -> int:
    """How many exceptions ours has counted on others' events so far; -1 for those that don't say."""
    return int(answer["status"].get("sentry", {}).get("merged", -1))


def _ratio(found: list[dict[str, float]]) -> Middle:
    return ratios([each["p50 with"] for each in found], [each["p50"] for each in found])


def _cells(found: list[dict[str, float]]) -> list[str]:
    def middle(key: str) -> str:
        return Middle.of(each[key] for each in found).text(2)

    return [
        middle("p50"), middle("p50 with"), _ratio(found).text(2), middle("p99"), middle("p99 with"),
        f"{sum(each['unanswered'] for each in found):.0f}", middle("sent"),
    ]  # fmt: skip
