"""The command line of `tools/same_wire.py`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from .compare import report
from .runner import digest, run

EXPECTED = Path(__file__).parents[1] / "same_wire.expected"


def main(arguments: list[str] | None = None) -> int:
    """Run, compare, or both. The exit code is 1 for a difference that is not expected, 2 for a run that failed."""
    parser = argparse.ArgumentParser(prog="same_wire", description="Compare what two checkouts put on the wire.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="write the wire of one checkout")
    one.add_argument("--checkout", type=Path, required=True)
    one.add_argument("--python", type=Path, help="its interpreter; CHECKOUT/.venv/bin/python when not given")
    one.add_argument("--out", type=Path, required=True)
    both = commands.add_parser("check", help="run both, and compare")
    both.add_argument("--old", type=Path, required=True)
    both.add_argument("--new", type=Path, default=Path(__file__).parents[2])
    both.add_argument("--old-python", type=Path)
    both.add_argument("--new-python", type=Path)
    for each in (one, both):
        each.add_argument("--jobs", type=int, default=2)
        each.add_argument("--only", default="*", help="patterns of situations' names, with commas between")
    two = commands.add_parser("compare", help="compare what two runs wrote")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    for each in (two, both):
        each.add_argument("--expected", type=Path, default=EXPECTED)
    given = parser.parse_args(arguments)
    if given.command == "compare":
        return report(given.old, given.new, given.expected)
    if given.command == "run":
        return 2 * _written(given.checkout, given.python, given.out, given)
    with tempfile.TemporaryDirectory(prefix="same-wire-") as folder:
        old, new = Path(folder, "old.json"), Path(folder, "new.json")
        failed = _written(given.old, given.old_python, old, given) | _written(given.new, given.new_python, new, given)
        return 2 if failed else report(old, new, given.expected)


def _written(checkout: Path, python: Path | None, out: Path, given: argparse.Namespace) -> bool:
    """Run against one checkout. True when something failed that is no situation's."""
    python = python or checkout / ".venv" / "bin" / "python"
    document, faults = run(checkout.resolve(), python.absolute(), only=given.only, jobs=given.jobs)
    written = {"made by": digest(), "situations": document}
    out.write_text(json.dumps(written, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    for fault in faults:
        print(fault)
    signals = sum(len(listed) for found in document.values() for listed in found.values())
    print(f"{checkout}: {len(document)} situations, {signals} signals and answers")
    return bool(faults)
