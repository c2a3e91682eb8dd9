"""Private names of the vendors' SDKs and of OpenTelemetry that we use: `private_names.txt`, and nothing else.

Where the list is to change: `python -m tests.test_private_names` prints what the code uses now. Each name needs a
reason there, and a place where a later version without it is noticed: the vendor's `uses`, which is looked for before
it is opened, an import, or the line that uses it and does without.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import metricx_observe

PACKAGE = Path(metricx_observe.__file__).parent
LIST = Path(__file__).with_name("private_names.txt")
MOST = 10
_PRIVATE = re.compile(r"_(?!_)[A-Za-z]\w*")
_DATA = frozenset({"_meta", "_experiments", "_ga", "_ga_"})
"""Keys of the vendors' formats, options and cookies, which are documented."""
_NAMED_TUPLES = frozenset({"_asdict", "_replace", "_fields", "_make"})


def listed() -> dict[str, str]:
    """The names and their reasons."""
    lines = (line for line in LIST.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split(": ", 1) for line in lines)


def used() -> set[str]:
    """Private names of others in the vendors' modules; a private module with what is imported of it."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    known = (tree for path, tree in trees.items() if "receiver" not in path.parts)
    ours = {name for tree in known for name in _made(tree)} | _DATA | _NAMED_TUPLES
    found: set[str] = set()
    for path, tree in trees.items():
        if "vendors" in path.parts:
            found |= {name for name in _names(tree) if name.rpartition(".")[2] not in ours}
    return found


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            hidden = "._" in node.module
            yield from (f"{node.module}.{each.name}" for each in node.names if hidden or _is_private(each.name))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_private(node.value):
            yield node.value


def _made(tree: ast.AST) -> Iterator[str]:
    """Names that our code defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if getattr(node.value, "id", "") == "self" else []
        elif isinstance(node, ast.Assign) and any(getattr(each, "id", "") == "__slots__" for each in node.targets):
            yield from (str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant))


def _is_private(name: str) -> bool:
    return _PRIVATE.fullmatch(name) is not None and not name.startswith("_metricx")


def test_the_private_names_are_those_of_the_list() -> None:
    """A new one is a decision, with its reason; one that went is taken off."""
    assert used() == set(listed())


def test_the_name_of_the_sdk_s_tracer_is_still_the_one_that_we_send() -> None:
    """Langfuse tells its own spans by it; the constant is private, and so is a text of ours."""
    from langfuse._client.constants import LANGFUSE_TRACER_NAME

    assert f'"{LANGFUSE_TRACER_NAME}"' in (PACKAGE / "vendors" / "langfuse" / "channel.py").read_text()


def test_they_are_few_and_each_has_its_reason() -> None:
    """Of the three SDKs and OpenTelemetry; httpx, whose redirects copy all headers, is none of these."""
    reasons = listed()
    assert all(len(reason) > 20 for reason in reasons.values())
    assert len([name for name in reasons if name != "_redirect_headers"]) <= MOST


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}\n" for name in sorted(used())))
