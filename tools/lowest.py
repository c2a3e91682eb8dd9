"""Print the lowest version of each direct dependency as pip's constraints: `python -m tools.lowest > constraints.txt`.

Of the package and of its extras that run: what tests and checks need besides comes as new as it is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("sentry", "rudderstack", "langfuse", "cli", "receiver", "redis", "demo")


def lowest(requirements: list[str]) -> Iterator[str]:
    """`fastapi==0.115` of `fastapi>=0.115`; nothing of our own extras."""
    for each in requirements:
        found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", each)
        if found is not None:
            yield f"{found[1]}=={found[2]}"
        elif not each.startswith("metricx-observe["):
            raise SystemExit(f"pyproject.toml: {each!r} has no lower bound: type name>=version first")


def constraints() -> list[str]:
    """Of all direct dependencies."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    return sorted({line for group in groups for line in lowest(group)})


if __name__ == "__main__":
    print("\n".join(constraints()))
