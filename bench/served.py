"""Requests under uvicorn: as many as 64 connections can make (wrk), and at a fixed rate (bench.paced)."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.figures import Figure, Middle, Part, ratios
from bench.payloads import HEADERS
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import BESIDE, BUILD
from bench.worker import MissingPackageError, Round, Worker

CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("requests.lua")
QUICK = ("bare", "noop", "hand", "ours")
PACED = ("bare", "control", "noop", "ours", "ours_process")
PACED_QUICK = ("bare", "control", "ours")
OURS = {"ours": "", "ours_process": BESIDE}
"""Of which figures are made, and how they are named."""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
"""Milliseconds."""


def open_server(name: str, url: str) -> Round:
    """In the worker's process: uvicorn in a thread, so that this one can answer the conductor."""
    import uvicorn

    variant = BUILD[name][1](url)
    # no log: a traceback printed for each exception costs more than what is measured
    server = uvicorn.Server(uvicorn.Config(variant.app, log_config=None, log_level="critical", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    # asyncio sets it only for sockets that it makes itself: without it each answer waits 40 ms for a delayed ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    assert thread.ident is not None
    clock, port = time.pthread_getcpuclockid(thread.ident), listener.getsockname()[1]

    def do(drain: bool = False) -> dict[str, Any]:
        if drain:
            variant.drain()
        cpu = {"loop": time.clock_gettime(clock), "process": variant.cpu_s()}
        return {"port": port, **cpu, "expected": dict(variant.expected), "status": variant.status()}

    return do


def start(names: Sequence[str], sink: Sink, stack: ExitStack, part: Part) -> dict[str, Worker]:
    """A server for each variant whose package is there, warmed up."""
    servers: dict[str, Worker] = {}
    for name in names:
        try:
            servers[name] = stack.enter_context(Worker("bench.served:open_server", name, sink.url))
        except MissingPackageError as error:
            part.notes.append(f"{BUILD[name][0]}: not measured, {error}")
    return servers


def wrk(port: int, seconds: int) -> dict[str, float]:
    """As many requests as 64 connections can make. Raises RuntimeError for any error."""
    pairs = [(name.decode(), value.decode()) for name, value in HEADERS if name != b"host"]  # wrk has its own
    headers = (item for name, value in pairs for item in ("-H", f"{name}: {value}"))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), *headers]
    command.append(f"http://127.0.0.1:{port}/async/1")
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    count, took = re.findall(r"(\d+) requests in ([\d.]+)(?=s)", said)[0]
    found = {"requests": float(count), "took": float(took), "rate": float(count) / float(took)}
    for share in ("50", "99"):
        number, unit = re.findall(rf"{share}%\s+([\d.]+)(\w+)", said)[0]
        found[f"p{share}"] = float(number) * _UNITS[unit]
    return found


def one_round(name: str, server: Worker, sink: Sink, seconds: int) -> dict[str, float]:
    """wrk, then wait until everything is with the vendors. Raises RuntimeError where a signal of ours is missing."""
    before, began = server.ask(), time.perf_counter()
    load = wrk(before["port"], seconds)
    after = server.ask(drain=True)
    drained = time.perf_counter() - began
    arrived, n = sink.take(), load["requests"]
    shares = {kind: arrived.get(kind, 0) / (share * n) for kind, share in after["expected"].items()}
    # wrk leaves without the answers to its last requests, so a few more have arrived than it counted
    whole = all(1.0 <= share <= 1.0 + CONNECTIONS / n for share in shares.values())
    if name.startswith("ours") and (not whole or arrived["doubled"]):
        raise RuntimeError(f"{name}: of {n:.0f} requests arrived {arrived}")
    return load | {
        "loop": (after["loop"] - before["loop"]) / n * 1e6,
        "delivered": (after["process"] - before["process"]) / n * 1e6,
        "drained_rate": n / max(drained, load["took"]),
        "arrived": min(shares.values(), default=1.0),
    }


HEADS = (
    "", "requests/s", "x bare", "until drained: requests/s", "x bare", "p50 ms", "p99 ms", "loop: us a request",
    "process with delivery: us a request", "arrived",
)  # fmt: skip


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    part = Part()
    if shutil.which("wrk") is None:
        part.notes.append("Requests under uvicorn: not measured, wrk is not installed")
        return part
    names = plan.only or plan.pick(QUICK, tuple(BUILD))
    with ExitStack() as stack:
        servers = start(names, sink, stack, part)
        for server in servers.values():
            wrk(server.ask()["port"], 1)
            server.ask(drain=True)
        sink.take()
        measures: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        order, chosen = list(servers), random.Random(5)
        for _ in range(plan.rounds or plan.pick(2, 5)):
            chosen.shuffle(order)
            for name in order:
                measures[name].append(one_round(name, servers[name], sink, plan.pick(1, 3)))
    part.measures["wrk"] = measures
    rows = [_row(name, measures) for name in measures]
    part.tables["Under uvicorn, wrk at 64 connections, async route"] = (HEADS, rows)
    part.figures = figures(measures)
    return part


def _column(measures: dict[str, list[dict[str, float]]], name: str, key: str) -> list[float]:
    return [found[key] for found in measures[name]]


def _row(name: str, measures: dict[str, list[dict[str, float]]]) -> list[str]:
    def middle(key: str, digits: int) -> str:
        return Middle.of(_column(measures, name, key)).text(digits)

    def of_bare(key: str) -> str:
        return ratios(_column(measures, name, key), _column(measures, "bare", "rate")).text(2)

    arrived = min(_column(measures, name, "arrived"))
    return [
        BUILD[name][0], middle("rate", 0), of_bare("rate"), middle("drained_rate", 0), of_bare("drained_rate"),
        middle("p50", 1), middle("p99", 1), middle("loop", 0), middle("delivered", 0), f"{min(arrived, 1.0):.0%}",
    ]  # fmt: skip


def figures(measures: dict[str, list[dict[str, float]]]) -> list[Figure]:
    """Throughput until the outbox is drained. Against by hand at its best: while it still holds what it has to send."""
    if not {"bare", "hand"} <= set(measures):
        return []
    bare, hand = (_column(measures, name, "rate") for name in ("bare", "hand"))
    noop = ratios(_column(measures, "noop", "rate"), bare).text(2) if "noop" in measures else "not measured"
    note, found = f"all arrived; the no-op control: {noop} x bare", []
    for name, how in OURS.items():
        if name in measures:
            mine, what = _column(measures, name, "drained_rate"), "requests/s with all three signals until drained"
            found += [
                Figure(f"{what}, x bare{how}", ">= 0.35 x", 0.35, ratios(mine, bare), at_least=True, note=note),
                Figure(f"{what}, x by hand{how}", ">= 4 x", 4.0, ratios(mine, hand), at_least=True),
            ]
    return found


PACED_HEADS = ("", "requests/s", "p50 ms", "p99 ms", "p99 x bare", "unanswered")


def run_paced(sink: Sink, plan: Plan, most: float) -> Part:
    """p99 at half of `most` requests a second: our own maximum that delivery keeps up with."""
    part, rate = Part(), most / 2
    with ExitStack() as stack:
        client = stack.enter_context(Worker("bench.paced:open_client"))
        servers = start(plan.pick(PACED_QUICK, PACED), sink, stack, part)
        measures: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        order, chosen = list(servers), random.Random(5)
        for number in range(1 + plan.pick(2, 9)):
            chosen.shuffle(order)
            for name in order:
                port = servers[name].ask()["port"]
                found = client.ask(port=port, seconds=plan.pick(1.0, 3.0), rates={"/async": rate})["/async"]
                servers[name].ask(drain=True)
                if number:  # the first round warms up
                    measures[name].append(found)
    part.measures["paced"] = measures
    bare = _column(measures, "bare", "p99")
    rows = []
    for name in measures:
        p50, p99 = (Middle.of(_column(measures, name, key)).text(2) for key in ("p50", "p99"))
        lost = sum(_column(measures, name, "unanswered"))
        ratio = ratios(_column(measures, name, "p99"), bare).text(2)
        rows.append([BUILD[name][0], f"{rate:.0f}", p50, p99, ratio, f"{lost:.0f}"])
    part.tables[f"At a fixed rate of {rate:.0f} requests/s, half of our own maximum"] = (PACED_HEADS, rows)
    noise = ratios(_column(measures, "control", "p99"), bare).text(2)
    for name, how in OURS.items():
        if name in measures:
            what = f"p99 at half of our own maximum, x bare at the same rate{how}"
            p99 = ratios(_column(measures, name, "p99"), bare)
            part.figures.append(Figure(what, "<= 2 x", 2.0, p99, note=f"bare again: {noise}"))
    return part
