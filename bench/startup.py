"""Start-up: what an import costs, and memory and threads of a process with no vendor, with each, with all.

By itself (`make bench-startup`) it says what `install(app)` and `start()` add to a process that has FastAPI and an
application: in an environment without packages for LLM calls, and in one with them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

from bench.figures import FIGURE_HEADS, Figure, Middle, Part, markdown, ratios
from bench.plan import Plan
from bench.sink import Sink
from bench.worker import ROOT, clean_environment

IMPORT = """
import time
began = time.process_time()
import {module}
print(time.process_time() - began)
"""
MODULES = ("fastapi", "metricx_observe", "sentry_sdk", "rudderstack.analytics", "langfuse")
QUICK = ("FastAPI alone", "ours, no vendor", "ours, all three", "SDKs, all three")
RUNNING = """
import json, time
from fastapi import FastAPI
app = FastAPI()
{code}
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
print(json.dumps([int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), time.process_time()]))
"""
OURS = """
from bench.variants import observability
import os
ours = observability("{url}", os.getcwd(), 0.1, **{off})
ours.install(app)
ours.start()
ours.tracker.track("started", {{}}, user_id="u1")
ours.llm.trace("started").end()
ours.errors.capture_message("started")
assert ours.flush(10)
"""
SENTRY = """
import sentry_sdk
sentry_sdk.init("{dsn}", traces_sample_rate=0.1)
sentry_sdk.capture_message("started")
sentry_sdk.flush(10)
"""
RUDDERSTACK = """
from rudderstack import analytics
analytics.write_key, analytics.dataPlaneUrl = "write-key", "{url}"
analytics.track("u1", "started", {{}})
analytics.flush()
"""
LANGFUSE = """
from langfuse import Langfuse
langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url="{url}")
langfuse.start_observation(name="started").end()
langfuse.flush()
"""
STARTED = """
from bench.variants import observability
import os
ours = observability("{url}", os.getcwd(), 0.1, **{off})
ours.install(app)
ours.start()
"""
SDKS_IMPORTED = "import langfuse, rudderstack.analytics, sentry_sdk"
SDKS_STARTED = """
import sentry_sdk
from langfuse import Langfuse
from rudderstack import analytics
sentry_sdk.init("{dsn}", traces_sample_rate=0.1)
langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url="{url}")
"""
LLM_PACKAGES = "anthropic", "openai", "langgraph"
LIMITS = {"CPU s": 1.0, "memory MiB": 20.0}
_KEYS = {
    "sentry": {"sentry_dsn": None},
    "rudderstack": {"rudderstack_write_key": None, "rudderstack_data_plane_url": None},
    "langfuse": {"langfuse_public_key": None, "langfuse_secret_key": None},
}


def processes(url: str) -> dict[str, str]:
    """By name, the code that is run after `app = FastAPI()`."""
    found = {"FastAPI alone": ""} | _with_each_vendor(OURS, url)
    dsn = url.replace("://", "://public@") + "/1"
    sdks = {"sentry": SENTRY, "rudderstack": RUDDERSTACK, "langfuse": LANGFUSE}
    sdks = {name: code.format(url=url, dsn=dsn) for name, code in sdks.items()}
    return found | {f"SDK, {name}": code for name, code in sdks.items()} | {"SDKs, all three": "".join(sdks.values())}


def _with_each_vendor(code: str, url: str) -> dict[str, str]:
    found = {}
    for wanted in ((), ("sentry",), ("rudderstack",), ("langfuse",), tuple(_KEYS)):
        off = {key: value for name, keys in _KEYS.items() if name not in wanted for key, value in keys.items()}
        name = "all three" if len(wanted) == 3 else wanted[0] if wanted else "no vendor"
        found[f"ours, {name}"] = code.format(url=url, off=off)
    return found


def python(code: str) -> str:
    """Run code in a fresh process without `site`: .pth files of other packages would import before it begins."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = clean_environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{sysconfig.get_path('purelib')}"}
        command = [sys.executable, "-S", "-c", code + "\nimport os; sys = os.sys; sys.stdout.flush(); os._exit(0)"]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return ended.stdout.splitlines()[-1]


def run(sink: Sink, plan: Plan) -> Part:
    """The part."""
    part = Part()
    modules = plan.pick(MODULES[:2], MODULES)
    imports: dict[str, list[float]] = {module: [] for module in modules}
    codes = {name: code for name, code in processes(sink.url).items() if not plan.quick or name in QUICK}
    running: dict[str, list[list[float]]] = {name: [] for name in codes}
    for number in range(1 + plan.pick(4, 21)):
        for module in random.Random(number).sample(modules, len(modules)):
            spent = float(python(IMPORT.format(module=module)))
            if number:  # the first round fills the file cache
                imports[module].append(spent * 1e3)
    for _ in range(plan.pick(1, 5)):
        for name, code in codes.items():
            running[name].append(json.loads(python(RUNNING.format(code=code))))
    sink.take()
    part.measures = {"imports": imports, "running": running}
    base = imports["fastapi"]
    rows = [
        [f"import {module}", Middle.of(spent).text(), ratios(spent, base).text(2)] for module, spent in imports.items()
    ]
    part.tables["Import: CPU in ms"] = (("", "ms", "x import fastapi"), rows)
    part.tables["A process after its first signal of each vendor"] = (
        ("", "memory MB", "threads", "CPU until here: ms"),
        [[name, *_process(found)] for name, found in running.items()],
    )
    name = "import metricx_observe, x import fastapi"
    part.figures.append(Figure(name, "<= 1.15 x", 1.15, ratios(imports["metricx_observe"], base)))
    return part


def _process(found: list[list[float]]) -> list[str]:
    memory, threads, spent = zip(*found, strict=True)
    return [Middle.of(memory).text(), f"{max(threads):.0f}", Middle.of(each * 1e3 for each in spent).text(0)]


def added(url: str, rounds: int) -> Part:
    """What starting adds to FastAPI and an application, in this environment."""
    dsn = url.replace("://", "://public@") + "/1"
    codes = {"FastAPI alone": ""} | _with_each_vendor(STARTED, url)
    codes |= {"SDKs, imported": SDKS_IMPORTED, "SDKs, started by hand": SDKS_STARTED.format(url=url, dsn=dsn)}
    found: dict[str, list[list[float]]] = {name: [] for name in codes}
    for number in range(1 + rounds):
        for name, code in codes.items():
            memory, _, spent = json.loads(python(RUNNING.format(code=code)))
            if number:  # the first round fills the file cache
                found[name].append([spent, memory])
    base = found.pop("FastAPI alone")
    rest = {
        name: [[value - bare for value, bare in zip(*pair, strict=True)] for pair in zip(each, base, strict=True)]
        for name, each in found.items()
    }
    rows = [[name, *(_spread([pair[at] for pair in each], 2 - at) for at in (0, 1))] for name, each in rest.items()]
    installed = ", ".join(name for name in LLM_PACKAGES if find_spec(name)) or "none"
    title = f"Start-up, beyond FastAPI and an application; packages for LLM calls: {installed}"
    part = Part(tables={title: (("", *LIMITS), rows)}, measures={"startup": rest})
    for at, (name, limit) in enumerate(LIMITS.items()):
        measured = Middle.of(pair[at] for pair in rest["ours, all three"])
        part.figures.append(Figure(f"start-up, all three: {name}", f"<= {limit:g}", limit, measured))
    return part


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{Middle.of(values).median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Print the table."""
    with Sink() as sink:
        part = added(sink.url, 5)
    for title, table in part.tables.items():
        print(f"\n## {title}\n\n{markdown(table)}")
    print(f"\n{markdown((FIGURE_HEADS, [figure.row() for figure in part.figures]))}")


if __name__ == "__main__":
    main()
