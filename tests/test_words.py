"""Names in the package are words of ASGI, OpenTelemetry, a vendor or a message queue's manual: not these."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import metricx_observe

PACKAGE = Path(metricx_observe.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
REFUSED = frozenset(
    {"line", "said", "gate", "tally", "lane", "turn", "waiting", "block", "greeting", "news", "hear", "bury", "revive",
     "adopt", "quiet", "hasten", "rest", "hold", "tell", "look"}
)  # fmt: skip
"""Words that once named connections, answers, breakers, counters and the like here."""


def names(tree: ast.AST) -> Iterator[str]:
    """What a module defines: functions, classes, arguments, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_is_one_of_the_refused_words(path: Path) -> None:
    """Alone or as a part of a longer name; nor is the file's own."""
    found = {path.stem, *names(ast.parse(path.read_text()))}
    words = {name: set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())) for name in found}
    assert {name for name, of in words.items() if of & REFUSED} == set()
