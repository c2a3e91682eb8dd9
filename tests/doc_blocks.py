"""The Python blocks of the documentation: where they stand, whether they are complete, and running one as a module."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A fenced block of Python."""

    path: Path
    line: int
    heading: str
    code: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(CHECKOUT)}:{self.line}"

    @property
    def is_complete(self) -> bool:
        """Whether it binds every name that it uses; what does not is a piece of the reader's own program."""
        nodes = list(ast.walk(ast.parse(self.code)))
        used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        return not used - set(_bound(nodes)) - set(dir(builtins)) - {"__name__", "__file__"}

    def run(self, name: str = "documented") -> ModuleType:
        """Execute it as a module, which stays importable. A traceback shows its line in the document."""
        module = sys.modules[name] = ModuleType(name)
        code = compile("\n" * self.line + self.code, str(self.path), "exec", dont_inherit=True)
        exec(code, module.__dict__)
        return module


def _bound(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def blocks(*patterns: str) -> list[Block]:
    """The Python blocks of the files that match, by path."""
    found = []
    for path in sorted(path for pattern in patterns for path in CHECKOUT.glob(pattern)):
        text = path.read_text()
        for match in re.finditer(r"^( *)```py(?:thon)?\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            before = text[: match.start()]
            headings = re.findall(r"^#+ (.*)$", before, re.MULTILINE) or [""]
            found.append(Block(path, before.count("\n") + 1, headings[-1], textwrap.dedent(match[2])))
    return found
