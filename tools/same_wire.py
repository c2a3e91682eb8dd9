"""Whether two checkouts put the same on the wire: `python tools/same_wire.py check --old PATH --new PATH`.

The same situations run against each, and what reached the three vendors is decoded, normalised and compared. A
difference must stand in `tools/same_wire.expected`, with its reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.wire.command import main

if __name__ == "__main__":
    sys.exit(main())
