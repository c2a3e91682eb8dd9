"""Runs the situations of some modules, in the interpreter and with the package of the checkout that is looked at.

It writes a line of JSON for each situation that has ended: its name, what the caller saw and what was logged.
"""

from __future__ import annotations

import importlib
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path


def main() -> None:
    """What to do stands in the one argument."""
    order = json.loads(sys.argv[1])
    sys.argv = ["situations"]
    sys.path[0] = order["checkout"]  # this file's folder has modules with common names
    sys.path.append(order["tools"])
    import metricx_observe

    found = Path(metricx_observe.__file__).resolve()
    if not found.is_relative_to(Path(order["checkout"]).resolve()):
        sys.exit(f"metricx_observe is {found}, which is not in {order['checkout']}")
    running = importlib.import_module("wire.situations.running")
    for module in order["modules"]:
        importlib.import_module(f"wire.situations.{module}")
    with Path(order["out"]).open("w") as out:
        for situation in running.SITUATIONS:
            if any(fnmatchcase(situation.name, pattern) for pattern in order["only"].split(",")):
                out.write(json.dumps(running.told(situation, order["sink"])) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
