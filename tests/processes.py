"""Python processes of their own for tests: a folder to run in, and only the settings that were given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import metricx_observe

CHECKOUT = Path(metricx_observe.__file__).parents[1]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """An environment with nothing of the developer's own shell but the search path and coverage's settings."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE")}
    return {**kept, "HOME": str(folder), "PYTHONPATH": str(CHECKOUT), **variables}


def run_python(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
