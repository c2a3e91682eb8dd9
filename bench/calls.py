"""Calls alone: what one costs its caller, and with delivery, against the vendor's own SDK."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from fastapi import FastAPI

from bench.failing import FRAMES, fail
from bench.figures import Figure, Middle, Part, ratios
from bench.in_process import request
from bench.payloads import EMAIL, EVENT, MODEL, PROPERTIES, USAGE, USER_ID, VARIETY, messages, text
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import drained, init_sentry, observability
from bench.worker import Round, Worker

Call = Callable[[int], object]
PER_ROUND = {"track": 300, "generation 2 KB": 200, "generation 50 KB": 60, "capture_exception": 40, "bind_user": 2000}
"""Few enough for the queues of the SDKs: Sentry's holds 100."""
SIZES = {"generation 2 KB": 2_000, "generation 50 KB": 50_000}
ARRIVES = {
    "track": "rudderstack track", "generation 2 KB": "langfuse span", "generation 50 KB": "langfuse span",
    "capture_exception": "sentry event",
}  # fmt: skip
LIMITS = {"track": 0.10, "generation 2 KB": 0.12, "generation 50 KB": 0.06, "capture_exception": 0.35}


def contents(kind: str) -> tuple[list[Any], list[str]]:
    """Inputs and outputs: two thirds and one third of the size."""
    size = SIZES.get(kind, 0)
    return [messages(size * 2 // 3, n) for n in range(VARIETY)], [text(size // 3, n) for n in range(VARIETY)]


def capture(n: int, report: Callable[[BaseException], object]) -> None:
    """Another message each time: identical errors are counted, not sent."""
    try:
        fail(f"no rows for campaign {n}")
    except ValueError as error:
        report(error)


def sdk_call(kind: str, url: str) -> tuple[Call, Callable[[], object]]:
    """The call of the vendor's SDK, and its drain."""
    if kind in ("capture_exception", "bind_user"):
        import sentry_sdk

        drain = init_sentry(url, 0.1)
        if kind == "bind_user":
            return lambda n: sentry_sdk.set_user({"id": USER_ID, "email": EMAIL}), drain
        return lambda n: capture(n, sentry_sdk.capture_exception), drain
    if kind == "track":
        from rudderstack import analytics

        analytics.write_key, analytics.dataPlaneUrl = "write-key", url
        return lambda n: analytics.track(USER_ID, EVENT, PROPERTIES[n % VARIETY]), analytics.flush
    from langfuse import Langfuse

    langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=url)
    inputs, outputs = contents(kind)

    def generation(n: int) -> None:
        n %= VARIETY
        with langfuse.start_as_current_observation(
            as_type="generation", name="answer", model=MODEL, input=inputs[n]
        ) as call:
            call.update(output=outputs[n], usage_details=USAGE)

    return generation, langfuse.flush


def our_call(kind: str, context: Any, tracker: Any, llm: Any, errors: Any) -> Call:
    """The call of what was injected. A generation is one of an open trace."""
    if kind == "track":
        return lambda n: tracker.track(EVENT, PROPERTIES[n % VARIETY])
    if kind == "bind_user":
        return lambda n: context.bind_user(USER_ID, email=EMAIL, workspace_id="ws_42")
    if kind == "capture_exception":
        return lambda n: capture(n, errors.capture_exception)
    trace, (inputs, outputs) = llm.trace("ask"), contents(kind)

    def generation(n: int) -> None:
        n %= VARIETY
        with trace.generation("answer", model=MODEL, input=inputs[n]) as call:
            call.update(output=outputs[n], usage=USAGE)

    return generation


def timed(call: Call, first: int, n: int) -> float:
    """CPU seconds of the caller's thread."""
    began = time.thread_time()
    for number in range(first, first + n):
        call(number)
    return time.thread_time() - began


def open_calls(kind: str, whose: str, url: str) -> Round:
    """In the worker's process. The calls are made within a request, where an application makes them."""
    app, spent, numbers = FastAPI(), [0.0], [0]
    drain: Callable[[], object]
    if whose == "sdk":
        sdk, drain = sdk_call(kind, url)

        async def route(n: int) -> None:
            spent[0] = timed(sdk, numbers[0], n)
    else:
        from metricx_observe import ContextDep, ErrorReporterDep, LLMTracerDep, TrackerDep

        ours = observability(url, os.getcwd(), 0.1)
        ours.install(app)
        drain = partial(drained, ours)

        async def our_route(n: int, a: ContextDep, b: TrackerDep, c: LLMTracerDep, d: ErrorReporterDep) -> None:
            a.bind_user(USER_ID, email=EMAIL, workspace_id="ws_42")
            spent[0] = timed(our_call(kind, a, b, c, d), numbers[0], n)

        our_route.__annotations__ |= {"a": ContextDep, "b": TrackerDep, "c": LLMTracerDep, "d": ErrorReporterDep}
        route = our_route  # type: ignore[assignment]
    app.get("/calls/{n}")(route)
    runner = asyncio.Runner()

    def do(n: int) -> dict[str, Any]:
        process = time.process_time()
        runner.run(request(app, f"/calls/{n}"))
        drain()
        process = time.process_time() - process
        numbers[0] += n
        return {"caller": spent[0] / n * 1e6, "delivered": process / n * 1e6}

    return do


def check_arrived(kind: str, whose: str, n: int, arrived: Mapping[str, int]) -> None:
    """Every call is one signal in the sink, and every error whole. Raises RuntimeError."""
    if kind == "capture_exception" and arrived.get("sentry frame", 0) < FRAMES * n:
        raise RuntimeError(f"{kind} of {whose}: of {n} errors with {FRAMES} frames arrived {dict(arrived)}")
    if kind in ARRIVES and (arrived.get(ARRIVES[kind], 0) != n or arrived["doubled"]):
        raise RuntimeError(f"{kind} of {whose}: of {n} arrived {dict(arrived)}")


HEADS = ("call", "ours: us for its caller", "the SDK's", "ratio", "ours: us with delivery", "the SDK's", "ratio")


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    part = Part()
    with ExitStack() as stack:
        pairs = [(kind, whose) for kind in PER_ROUND for whose in ("ours", "sdk")]
        workers = {pair: stack.enter_context(Worker("bench.calls:open_calls", *pair, sink.url)) for pair in pairs}
        measures: dict[str, dict[str, list[float]]] = {f"{kind}, {whose}": {} for kind, whose in pairs}
        for number in range(1 + plan.pick(2, 11)):
            random.Random(number).shuffle(pairs)
            for kind, whose in pairs:
                found = workers[kind, whose].ask(n=PER_ROUND[kind])
                check_arrived(kind, whose, PER_ROUND[kind], sink.take())
                if number:  # the first round warms up
                    for measure, value in found.items():
                        measures[f"{kind}, {whose}"].setdefault(measure, []).append(value)
    part.measures = measures
    part.tables["Calls alone"] = (HEADS, [_row(kind, measures) for kind in PER_ROUND])
    for kind, limit in LIMITS.items():
        mine, theirs = (measures[f"{kind}, {whose}"]["caller"] for whose in ("ours", "sdk"))
        name = f"{kind}, for its caller, x the SDK's"
        part.figures.append(Figure(name, f"<= {limit:.2f} x", limit, ratios(mine, theirs)))
    return part


def _row(kind: str, measures: dict[str, dict[str, list[float]]]) -> list[str]:
    cells = [kind]
    for measure in ("caller", "delivered"):
        mine, theirs = (measures[f"{kind}, {whose}"][measure] for whose in ("ours", "sdk"))
        cells += [Middle.of(mine).text(), Middle.of(theirs).text(), ratios(mine, theirs).text(3)]
    return cells
