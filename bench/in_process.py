"""Requests in process: each variant called as ASGI by one task after another, without a server or a socket."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Figure, Middle, Part, added, ratios
from bench.payloads import HEADERS, HOST
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import BESIDE, BUILD
from bench.worker import MissingPackageError, Round, Worker

LATER = ("sentry1", "hand_lean")
"""Variants that a quick run leaves out."""
SYNC = ("bare", "control", "hand", "ours")
"""Variants of the sync route in a quick run."""
WARM_UP = 300
"""Requests before the first round: FastAPI, the SDKs and the interpreter fill their caches."""
Measures = dict[str, dict[str, list[float]]]
"""By variant and measure, a value a round: microseconds a request."""


@dataclass(slots=True)
class Outcome:
    """Of one route."""

    requests: int
    """Of one variant, in all rounds."""
    measures: Measures = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """By variant, the package that is not installed."""
    arrived: dict[str, Counter[str]] = field(default_factory=dict)
    """By variant, the signals in the sink by kind."""


def open_variant(name: str, url: str) -> Round:
    """In the worker's process."""
    variant = BUILD[name][1](url)
    runner = asyncio.Runner()

    def do(n: int, path: str, concurrency: int = 1) -> dict[str, Any]:
        process, loop, wall = variant.cpu_s(), time.thread_time(), time.perf_counter()  # the first asks, which costs
        runner.run(requests(variant.app, n, path, concurrency))
        loop, wall = time.thread_time() - loop, time.perf_counter() - wall
        variant.drain()
        process = variant.cpu_s() - process
        return {"loop": loop / n * 1e6, "delivered": process / n * 1e6, "wall": wall / n * 1e6} | {
            "expected": {kind: share * n for kind, share in variant.expected.items()}
        }

    return do


async def requests(app: Any, n: int, path: str, concurrency: int) -> None:
    """`n` requests, `concurrency` of them at a time, each in a task of its own as a server makes it."""
    loop = asyncio.get_running_loop()
    for first in range(0, n, concurrency):
        numbers = range(first, min(n, first + concurrency))
        await asyncio.gather(*(loop.create_task(request(app, f"{path}/{number}")) for number in numbers))


async def request(app: Any, path: str) -> None:
    """One call as uvicorn makes it. Raises for any status but 200."""
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": list(HEADERS), "client": ("127.0.0.1", 50000), "server": (HOST.decode(), 80), "state": {},
    }  # fmt: skip
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"{path} answered {status}")


def measure(names: Sequence[str], sink: Sink, *, path: str, rounds: int, n: int, concurrency: int = 1) -> Outcome:
    """Let each variant do each round, in another order each time.

    Raises:
        RuntimeError: A signal of ours did not arrive, or arrived twice.
    """
    outcome = Outcome(rounds * n)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            try:
                workers[name] = stack.enter_context(Worker("bench.in_process:open_variant", name, sink.url))
            except MissingPackageError as error:
                outcome.missing[name] = str(error)
                continue
            workers[name].ask(n=WARM_UP, path=path, concurrency=concurrency)
            outcome.measures[name] = {"loop": [], "delivered": [], "wall": []}
            outcome.arrived[name] = Counter()
        sink.take()
        order, chosen = list(workers), random.Random(5)
        for _ in range(rounds):
            chosen.shuffle(order)
            for name in order:
                answer = workers[name].ask(n=n, path=path, concurrency=concurrency)
                arrived = sink.take()
                check_arrived(name, answer["expected"], arrived)
                outcome.arrived[name].update({kind: count for kind, count in arrived.items() if " " in kind})
                for measure, values in outcome.measures[name].items():
                    values.append(answer[measure])
    return outcome


def check_arrived(name: str, expected: dict[str, float], arrived: dict[str, int]) -> None:
    """Raise where a signal of ours is missing or doubled; the others' losses show in the table."""
    wrong = {kind: arrived.get(kind, 0) for kind, count in expected.items() if arrived.get(kind, 0) != count}
    if name.startswith("ours") and (wrong or arrived["doubled"]):
        raise RuntimeError(f"{name}: of {expected} arrived {wrong}, {arrived['doubled']} doubled")


HEADS = (
    "", "loop: us a request", "added", "x by hand", "with delivery: us", "added", "x by hand", "wall: us",
    "arrived a request",
)  # fmt: skip


def rows(outcome: Outcome) -> list[list[str]]:
    """Medians and the middle half of the rounds; ratios of what was added, round by round."""
    found = [[BUILD[name][0], *_cells(name, outcome)] for name in outcome.measures]
    missing = [[BUILD[name][0], f"not measured: {reason}", *[""] * 7] for name, reason in outcome.missing.items()]
    return found + missing


def _cells(name: str, outcome: Outcome) -> list[str]:
    cells, measures = list[str](), outcome.measures
    for measure in ("loop", "delivered"):
        values, base = measures[name][measure], measures["bare"][measure]
        extra = added(values, base)
        cells += [Middle.of(values).text(), Middle.of(extra).text()]
        hand = measures.get("hand", {}).get(measure)
        cells.append(ratios(extra, added(hand, base)).text(3) if hand and name != "bare" else "")
    shares = (f"{count / outcome.requests:.2f} {kind}" for kind, count in sorted(outcome.arrived[name].items()))
    return [*cells, Middle.of(measures[name]["wall"]).text(), ", ".join(shares)]


def figures(measures: Measures) -> list[Figure]:
    """Those of the figures to reach that this part measures, as far as the variants were measured."""
    wanted = (
        ("middleware alone, Sentry on at traces 0, x Sentry's own at 0", "loop", "ours0", "sentry0", 0.20),
        ("middleware alone, Sentry on at traces 0, x asgi-correlation-id", "loop", "ours0", "correlation", 1.5),
        ("middleware, Sentry at traces 0.1, x Sentry's own at 0.1", "loop", "ours01", "sentry01", 0.20),
        ("the same signals as by hand, on the event loop", "loop", "ours", "hand", 0.12),
        ("the same signals as by hand, with delivery", "delivered", "ours", "hand", 0.22),
        (f"the same signals as by hand, on the event loop{BESIDE}", "loop", "ours_process", "hand", 0.12),
        (f"the same signals as by hand, with delivery{BESIDE}", "delivered", "ours_process", "hand", 0.22),
    )
    found = []
    for name, measure, one, other, limit in wanted:
        if {one, other} <= set(measures):
            base = measures["bare"][measure]
            mine, theirs = (added(measures[variant][measure], base) for variant in (one, other))
            note = f"{Middle.of(mine).text()} us of {Middle.of(theirs).text()} us"
            found.append(Figure(name, f"<= {limit:.2f} x", limit, ratios(mine, theirs), note=note))
    return found


def run(sink: Sink, plan: Plan) -> Part:
    """The part: the async route, the sync route, and the figures of the async one."""
    part = Part()
    everything = tuple(BUILD)
    quick = tuple(name for name in everything if name not in LATER)
    paths = {"/async": plan.only or plan.pick(quick, everything), "/sync": plan.only or plan.pick(SYNC, everything)}
    for path, names in paths.items():
        outcome = measure(names, sink, path=path, rounds=plan.rounds or plan.pick(3, 15), n=plan.requests)
        part.measures[path[1:]] = outcome.measures
        part.tables[f"Requests in process: {path[1:]} route"] = (HEADS, rows(outcome))
        if path == "/async":
            part.figures = figures(outcome.measures)
    return part
