"""What observing costs: `python -m bench.cost [PART…] [--quick] [--only VARIANT,…]` prints tables and the figures.

Parts: requests. See bench/README.md for what each column means and how to read the noise.
"""

from __future__ import annotations

import argparse
import sys

from bench import in_process
from bench.figures import FIGURE_HEADS, table
from bench.sink import Sink


def main() -> int:
    from bench.variants import BUILD

    parser = argparse.ArgumentParser(prog="python -m bench.cost")
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--only", default=",".join(BUILD))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--sync", action="store_true")
    given = parser.parse_args()
    names = given.only.split(",")
    with Sink() as sink:
        result = in_process.run(names, sink, rounds=given.rounds, n=given.n, sync=given.sync)
    for title, text in result["tables"].items():
        print(f"\n## {title}\n\n{text}")
    print("\n## Figures to reach\n")
    print(table(FIGURE_HEADS, [figure.row() for figure in result["figures"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
