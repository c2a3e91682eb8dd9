"""`make bench-guard`: have three hot paths become dearer than the committed baseline, beyond the noise of now?

    python -m bench.guard             compares; exits with 1 when a path is dearer
    python -m bench.guard --record    writes bench/results/baseline.json, after a change that was meant

CPU of the loop's thread, each as a ratio to a bare request of the same repetition, so that another machine's speed
matters little. The repetitions are its measure of noise: a path fails when even its best repetition is above the
baseline's worst by more than they lie apart.
"""

from __future__ import annotations

import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.figures import markdown
from bench.sink import Sink
from bench.worker import Worker

BASELINE = Path(__file__).with_name("results") / "baseline.json"
REPETITIONS, ROUNDS, REQUESTS = 5, 9, 300
CALLS = {"track": 300, "generation 2 KB": 200}
PATHS = ("middleware, nothing emitted", *CALLS)


def repetition(sink: Sink) -> dict[str, float]:
    """The median ratios of one set of fresh processes."""
    found: dict[str, list[float]] = {path: [] for path in PATHS}
    with ExitStack() as stack:
        bare, ours = (
            stack.enter_context(Worker("bench.in_process:open_variant", name, sink.url)) for name in ("bare", "ours0")
        )
        calls = {kind: stack.enter_context(Worker("bench.calls:open_calls", kind, "ours", sink.url)) for kind in CALLS}
        for number in range(1 + ROUNDS):
            base = bare.ask(n=REQUESTS, path="/async")["loop"]
            spent = {PATHS[0]: ours.ask(n=REQUESTS, path="/async")["loop"] - base}
            spent |= {kind: worker.ask(n=CALLS[kind])["caller"] for kind, worker in calls.items()}
            if number:  # the first round warms up
                for path in PATHS:
                    found[path].append(spent[path] / base)
    sink.take()
    return {path: statistics.median(ratios) for path, ratios in found.items()}


def dearer(now: list[float], before: list[float]) -> bool:
    """Whether even the best of now is above the worst of before, by more than the repetitions lie apart."""
    noise = max(max(now) - min(now), max(before) - min(before))
    return min(now) > max(before) + noise


def main() -> int:
    with Sink() as sink:
        repetitions = [repetition(sink) for _ in range(REPETITIONS)]
    now = {path: [found[path] for found in repetitions] for path in PATHS}
    if "--record" in sys.argv:
        BASELINE.write_text(json.dumps(now, indent=1) + "\n")
    before: dict[str, list[float]] = json.loads(BASELINE.read_text())
    verdicts = {path: dearer(now[path], before[path]) for path in PATHS}
    rows = [[path, _text(before[path]), _text(now[path]), "**dearer**" if verdicts[path] else "no"] for path in PATHS]
    print(markdown((("CPU, x a bare request", "baseline", "now", "dearer"), rows)))
    return int(any(verdicts.values()))


def _text(repetitions: list[float]) -> str:
    return f"{statistics.median(repetitions):.3f} ({min(repetitions):.3f} to {max(repetitions):.3f})"


if __name__ == "__main__":
    sys.exit(main())
