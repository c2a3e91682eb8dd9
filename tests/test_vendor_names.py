"""Outside of `vendors/` no code knows a vendor by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import metricx_observe

NAMED = re.compile("sentry|rudder|langfuse", re.IGNORECASE)
PUBLIC = {"flush_langfuse", "get_langfuse", "init_langfuse", "init_sentry", "sentry_options", "shutdown_langfuse"}
"""The documented functions and their parameter, which are called what they are called."""
ON_THE_WIRE = {"sentry-trace", b"sentry-trace", "sentry_trace", "_SENTRY_TRACE", "langfuse_"}
"""Headers of a request, which say where a trace began: `vendors/` sees no request."""
IMPORTED = {"sentry_sdk"}
"""What a delivery process can import."""
PACKAGE = Path(metricx_observe.__file__).parent


def docstrings(tree: ast.AST) -> Iterator[ast.expr]:
    """Texts that stand alone: of modules, classes and functions, and behind a name."""
    yield from (
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def words(tree: ast.AST) -> Iterator[object]:
    """Every name and every text of a module's code."""
    left_out = {*docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in left_out:
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            yield getattr(node, field, None)


def test_no_module_names_a_vendor() -> None:
    """Neither in its names nor in its texts, but for what is public and what is on the wire."""
    naming = {}
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE)
        if where.parts[0] not in ("vendors", "receiver"):
            found = {word for word in words(ast.parse(path.read_text())) if isinstance(word, (str, bytes))}
            found -= PUBLIC | ON_THE_WIRE | IMPORTED
            if named := {
                word for word in found if NAMED.search(word if isinstance(word, str) else word.decode("latin-1"))
            }:
                naming[str(where)] = named
    assert naming == {}


def test_what_the_registry_goes_through_does_not_even_speak_of_one() -> None:
    """The modules that open, read, announce and look after vendors name none in their comments either."""
    rooms = ("observability", "pipeline", "settings", "startup", "request/health")
    process = "delivery_process/client", "delivery_process/process", "delivery_process/server"
    for name in (*rooms, *process, "cli/outbox", "cli/forget", "cli/__init__"):
        assert not NAMED.findall((PACKAGE / f"{name}.py").read_text()), name
