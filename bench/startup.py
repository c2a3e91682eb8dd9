"""Start-up: what an import costs, and memory and threads of a process with no vendor, with each, with all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile

from bench.figures import Figure, Middle, Part, ratios
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
_KEYS = {
    "sentry": {"sentry_dsn": None},
    "rudderstack": {"rudderstack_write_key": None, "rudderstack_data_plane_url": None},
    "langfuse": {"langfuse_public_key": None, "langfuse_secret_key": None},
}


def processes(url: str) -> dict[str, str]:
    """By name, the code that is run after `app = FastAPI()`."""
    found = {"FastAPI alone": ""}
    for wanted in ((), ("sentry",), ("rudderstack",), ("langfuse",), tuple(_KEYS)):
        off = {key: value for name, keys in _KEYS.items() if name not in wanted for key, value in keys.items()}
        name = "all three" if len(wanted) == 3 else wanted[0] if wanted else "no vendor"
        found[f"ours, {name}"] = OURS.format(url=url, off=off)
    dsn = url.replace("://", "://public@") + "/1"
    sdks = {"sentry": SENTRY, "rudderstack": RUDDERSTACK, "langfuse": LANGFUSE}
    sdks = {name: code.format(url=url, dsn=dsn) for name, code in sdks.items()}
    return found | {f"SDK, {name}": code for name, code in sdks.items()} | {"SDKs, all three": "".join(sdks.values())}


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
