"""Runs the situations against a checkout: a process for each of their modules, and one recording sink."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .decode import VENDORS, decode
from .frames import Places
from .normalise import Setting, normalise
from .sink import Sink

HERE = Path(__file__).parent
SITUATIONS = HERE / "situations"
_TOOLS = HERE.parent
_DEADLINE_S = 600
_AUTHORITY = _TOOLS.parent / "tests" / "authority.pem"
"""For clients that nobody uses here: reading all authorities takes 50 ms each, and a situation makes two."""
_HELPERS = ("__init__", "running", "asgi", "values")
_GIVEN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{16}")
_LONGEST_FIRST = ("processes", "odd_values")


class Checkout(NamedTuple):
    """What is run."""

    root: Path
    python: Path


def modules() -> list[str]:
    """Names of the modules of situations, those that take long first."""
    names = sorted(path.stem for path in SITUATIONS.glob("*.py") if path.stem not in _HELPERS)
    return sorted(names, key=lambda name: name not in _LONGEST_FIRST)


def digest() -> str:
    """Of this tool's own source: what two versions of it wrote is not to be compared."""
    makers = [path for path in HERE.glob("*.py") if path.stem not in ("command", "compare")]
    sources = sorted([*makers, *SITUATIONS.glob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def run(root: Path, python: Path, *, only: str = "*", jobs: int = 2) -> tuple[dict[str, Any], list[str]]:
    """The normalised wire of a checkout by situation, and what went wrong with the run itself."""
    began = time.time()
    checkout = Checkout(root, python)
    faults: list[str] = []
    raw: dict[str, Any] = {}
    with Sink() as sink, tempfile.TemporaryDirectory(prefix="same-wire-") as folder:

        def one(group: list[str]) -> None:
            started = time.monotonic()
            told, fault = _process(checkout, group, only, sink.url, Path(folder))
            for name, seen in told.items():
                raw[name] = {**decode(sink.take(name)), **seen}
                raw[name]["leaks"] = _leaks(raw[name])
            faults.extend(fault)
            if os.environ.get("SAME_WIRE_TIMES"):
                print(f"{'+'.join(group)}: {len(told)} situations, {time.monotonic() - started:.1f} s", flush=True)

        # a few situations are of a few modules, and each process imports all libraries
        groups = [[module] for module in modules()] if only == "*" else [modules()]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, groups))
        setting = Setting(_places(checkout, Path(folder)), began, sink.url, _given())
    return normalise(dict(sorted(raw.items())), setting), faults


def _process(
    checkout: Checkout, group: list[str], only: str, sink: str, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """What the situations of some modules told, each a dict of lists, and faults."""
    out, home = folder / f"{group[0]}.jsonl", folder / group[0]
    home.mkdir()
    order = {
        "checkout": str(checkout.root), "tools": str(_TOOLS), "modules": group, "only": only, "sink": sink,
        "out": str(out),
    }  # fmt: skip
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "PYTHONPATH": str(checkout.root),
        "PYTHONHASHSEED": "0", "TZ": "UTC", "LANG": "C.UTF-8", "TMPDIR": str(home),
        "SSL_CERT_FILE": str(_AUTHORITY),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [str(checkout.python), str(HERE / "child.py"), json.dumps(order)], cwd=home, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE_S, check=False,
        )  # fmt: skip
        code, errors = done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        code, errors = -1, f"not done after {_DEADLINE_S} s\n{error.stderr!r}"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    times = sorted(((line.pop("seconds"), line["name"]) for line in lines), reverse=True)
    if os.environ.get("SAME_WIRE_TIMES"):
        print(", ".join(f"{name} {seconds:.1f} s" for seconds, name in times[:15]), flush=True)
    told = {line.pop("name"): line for line in lines}
    shutil.rmtree(home, ignore_errors=True)
    if code:
        return told, [f"{'+'.join(group)}: the process ended with {code} after {[*told][-1:]}\n{errors[-4000:]}"]
    return told, []


def _places(checkout: Checkout, folder: Path) -> Places:
    """The environment lies in the checkout mostly, so it comes first."""
    root, venv = str(checkout.root), str(checkout.python.parents[1])
    library = sysconfig.get_paths()["stdlib"]
    named = [(f"{venv}/lib/python{_version()}/site-packages", "<venv>"), (venv, "<venv>"), (library, "<python>")]
    return Places((*named, (str(folder), "<folder>"), (str(HERE), "<situations>"), (root, "<checkout>")))


def _version() -> str:
    return sysconfig.get_python_version()


def _given() -> frozenset[str]:
    """Ids that stand in the situations' own text."""
    return frozenset(
        found for path in SITUATIONS.glob("*.py") for found in _GIVEN_ID.findall(path.read_text(encoding="utf-8"))
    )


def _leaks(found: dict[str, Any]) -> list[dict[str, str]]:
    """Where a text arrived that the situations call a secret: each of those has the word CANARY in it."""
    texts = {vendor: json.dumps(found[vendor], ensure_ascii=False) for vendor in VENDORS}
    return [
        {"signal": f"leak:{vendor}", "secret": secret}
        for vendor, text in texts.items()
        for secret in sorted({text[found.start() - 20 : found.end()] for found in re.finditer("CANARY", text)})
    ]
