"""`tools/walk.py` says how far one call of `track` walks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent.parent / "tools" / "walk.py"


def test_each_part_of_the_way_is_counted() -> None:
    """Functions, calls and files of the call itself, of the writer and of the courier."""
    ran = subprocess.run([sys.executable, TOOL, "--all"], capture_output=True, text=True, timeout=60, check=True)
    lines = ran.stdout.splitlines()
    counted = [re.findall(r"\d+", line) for line in lines[1:4]]
    assert [line.split("  ")[0] for line in lines[1:4]] == ["the call", "to the outbox", "to the post"]
    assert all(0 < int(functions) <= int(calls) for functions, calls, *_ in counted)
    assert int(counted[-1][4]) == sum(int(calls) for _, calls, *_ in counted)
    assert re.search(r"1  signals/tracker\.py +Tracker\.track\n", ran.stdout)
