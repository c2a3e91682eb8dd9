"""`docs/explanation/architecture.md` draws the rooms of the package: each file stands in it, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

import metricx_observe

from .processes import CHECKOUT

PACKAGE = Path(metricx_observe.__file__).parent
TEXT = (CHECKOUT / "docs" / "explanation" / "architecture.md").read_text()


def drawn() -> set[str]:
    """The files of its tables of rooms: `folder/` at the head of a row, and its files in the last column."""
    found = set()
    for folder, files in re.findall(r"^\| `([\w/]*)` \|.*\| ([^|]+) \|$", TEXT, re.M):
        found |= {folder.removeprefix("metricx_observe/") + name for name in re.findall(r"`(\w+\.py)`", files)}
    return found


def test_every_file_has_its_room() -> None:
    """A file that is moved or new is drawn where it stands; `__init__.py` is its folder's."""
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert drawn() == files


def test_the_names_in_its_text_are_in_the_tree() -> None:
    """The one road names files, too."""
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT)
    assert [path for path in paths if not any((root / path).exists() for root in (PACKAGE, CHECKOUT))] == []
