"""What observing costs: `python -m bench.cost [PART…] [--quick] [--only VARIANT,…]` prints tables and the figures.

See bench/README.md for what each column means and how to read the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

from bench import calls, errors, in_process, scaling, served, startup, throughput
from bench.figures import FIGURE_HEADS, Figure, Part, markdown
from bench.plan import Plan
from bench.sink import Sink
from bench.variants import BUILD

RESULTS = Path(__file__).with_name("results") / "latest.json"
PACKAGES = (
    "fastapi", "starlette", "uvicorn", "sentry-sdk", "rudder-sdk-python", "langfuse", "asgi-correlation-id",
    "opentelemetry-instrumentation-fastapi", "logfire", "posthog",
)  # fmt: skip


def served_parts(sink: Sink, plan: Plan) -> Part:
    """wrk, then the fixed rate that depends on what wrk found."""
    part = served.run(sink, plan)
    ours = part.measures.get("wrk", {}).get("ours")
    if ours:
        more = served.run_paced(sink, plan, statistics.median(found["drained_rate"] for found in ours))
        part.tables |= more.tables
        part.figures += more.figures
        part.measures |= more.measures
    return part


PARTS: dict[str, Callable[[Sink, Plan], Part]] = {
    "requests": in_process.run,
    "calls": calls.run,
    "delivery": throughput.run,
    "startup": startup.run,
    "served": served_parts,
    "errors": errors.run,
    "scaling": scaling.run,
}


def measure(names: Sequence[str], plan: Plan) -> tuple[dict[str, Part], list[str]]:
    """Each part, printed when it is done. A part that fails costs the others nothing, and is told at the end."""
    parts, failed = dict[str, Part](), []
    with Sink() as sink:
        for name in names:
            began = monotonic()
            try:
                parts[name] = PARTS[name](sink, plan)
            except Exception:
                failed.append(name)
                print(f"\n## {name} FAILED\n\n```\n{traceback.format_exc()}```", flush=True)
                sink.take()
                continue
            for title, table in parts[name].tables.items():
                print(f"\n## {title}\n\n{markdown(table)}")
            for note in parts[name].notes:
                print(f"\n{note}")
            print(f"\n({name}: {monotonic() - began:.0f} s)", flush=True)
    return parts, failed


def machine() -> dict[str, Any]:
    """What the absolute times depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    load = [round(load, 1) for load in os.getloadavg()]
    about = {"python": platform.python_version(), "system": platform.system(), "cpus": os.cpu_count(), "load": load}
    return {**about, **versions}


def save(parts: dict[str, Part], failed: Sequence[str], plan: Plan) -> None:
    """Everything, each round's values included; parts that were not measured now stay as they were."""
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() and len(parts) < len(PARTS) else {}
    now = {
        name: {
            "figures": [figure.as_dict() for figure in part.figures],
            "tables": part.tables, "notes": part.notes, "measures": part.measures,
        }
        for name, part in parts.items()
    }  # fmt: skip
    content = {"machine": machine(), "quick": plan.quick, "failed": list(failed), "parts": {**before, **now}}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cost")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="under two minutes, with more noise")
    parser.add_argument("--only", default="", help=f"variants of the requests: {','.join(BUILD)}")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("-n", type=int, default=0, help="requests a round, in process")
    parser.add_argument("--save", action="store_true", help="write bench/results/latest.json in any case")
    given = parser.parse_args()
    requests = given.n or (200 if given.quick else 300)
    plan = Plan(given.quick, tuple(filter(None, given.only.split(","))), given.rounds, requests)
    parts, failed = measure(given.parts or list(PARTS), plan)
    figures: list[Figure] = [figure for part in parts.values() for figure in part.figures]
    print(f"\n## Figures to reach\n\n{markdown((FIGURE_HEADS, [figure.row() for figure in figures]))}")
    if given.save or not (given.parts or given.quick):
        save(parts, failed, plan)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
