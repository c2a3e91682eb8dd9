"""Whether the added cost stays: at 1 to 1,000 concurrent requests, and memory after a million of them."""

from __future__ import annotations

import gc
from typing import Any

from bench.figures import Figure, Middle, Part, added
from bench.in_process import Measures, measure, open_variant
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import BUILD
from bench.worker import Round, Worker

CONCURRENCY = (1, 10, 100, 1000)
NAMES = ("bare", "control", "ours01", "ours")
GROWTH_MB = 5.0
"""What counts as none: the allocator's and SQLite's own comings and goings."""


HEADS = ("concurrent requests", "bare: us on the loop", "bare again adds", "ours, nothing emitted, adds", "ours adds")


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    part = Part()
    found: dict[int, Measures] = {}
    for concurrency in plan.pick((1, 1000), CONCURRENCY):
        outcome = measure(
            NAMES, sink, path="/async", rounds=plan.pick(2, 9), n=plan.pick(500, 1000), concurrency=concurrency
        )
        found[concurrency] = outcome.measures
    part.measures["concurrency"] = {str(concurrency): measures for concurrency, measures in found.items()}
    rows = [[f"{concurrency:,}", *_cells(measures)] for concurrency, measures in found.items()]
    part.tables["Scaling: added CPU of the loop"] = (HEADS, rows)
    part.figures = [_even(name, found) for name in ("ours01", "ours")] + [memory(sink, plan, part)]
    return part


def _extra(measures: Measures, name: str) -> list[float]:
    return added(measures[name]["loop"], measures["bare"]["loop"])


def _cells(measures: Measures) -> list[str]:
    extra = (Middle.of(_extra(measures, name)).text() for name in NAMES[1:])
    return [Middle.of(measures["bare"]["loop"]).text(), *extra]


def _even(name: str, found: dict[int, Measures]) -> Figure:
    """How much more is added where it is most, against one request at a time, beyond the control's spread there."""
    adds = {count: Middle.of(_extra(measures, name)).median for count, measures in found.items()}
    beyond = []
    for count, measures in found.items():
        control = Middle.of(_extra(measures, "control"))
        spread = max(abs(control.low), abs(control.high))
        beyond.append(max(0.0, adds[count] - adds[1] - spread) / adds[1])
    note = ", ".join(f"{count:,}: {spent:.0f} us" for count, spent in adds.items())
    what = f"{BUILD[name][0]}: more added at 1 to 1,000 concurrent requests"
    return Figure(what, "<= 0.20", 0.20, Middle(max(beyond), min(beyond), max(beyond)), note=note)


def open_memory(url: str) -> Round:
    """In the worker's process: the variant with all signals, and how much memory it holds after a round."""
    do = open_variant("ours", url)

    def step(plain: int, observed: int) -> dict[str, Any]:
        do(n=plain, path="/plain", concurrency=100)
        do(n=observed, path="/async", concurrency=100)
        gc.collect()
        with open("/proc/self/status") as file:
            status = dict(line.split(":", 1) for line in file)
        return {"mb": int(status["VmRSS"].split()[0]) / 1024}

    return step


def memory(sink: Sink, plan: Plan, part: Part) -> Figure:
    """Growth from a fifth of the requests to their end. One in ten sends all signals. Raises where one is lost."""
    total, step = plan.pick(8_000, 1_000_000), plan.pick(1_000, 5_000)
    held = []
    with Worker("bench.scaling:open_memory", sink.url) as worker:
        for _ in range(total // step):
            held.append(worker.ask(plain=step - step // 10, observed=step // 10)["mb"])
            arrived = sink.take()
            if arrived.get("rudderstack track") != step // 10 or arrived["doubled"]:
                raise RuntimeError(f"of {step // 10} events arrived {arrived}")
    part.measures["memory"] = held
    fifth, tenth = len(held) // 5, max(1, len(held) // 10)
    before = Middle.of(held[fifth : fifth + tenth]).median
    grown = Middle.of(value - before for value in held[-tenth:])
    note = f"{before:.1f} MB after a fifth; one request in ten with all signals"
    return Figure(f"memory after {total:,} requests", f"< {GROWTH_MB:.0f} MB more", GROWTH_MB, grown, note=note)
