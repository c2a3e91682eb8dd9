"""The public face: a snapshot of its names and of the documented functions' signatures.

A difference is a change that users see. When it is meant, say it in the CHANGELOG and write the snapshot again:

    python -m tests.test_exports > tests/public_api.txt
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import metricx_observe
from metricx_observe import context, dependencies, events, logs, propagation, telemetry

SNAPSHOT = Path(__file__).with_name("public_api.txt")
MODULES: dict[ModuleType, list[str]] = {
    metricx_observe: metricx_observe.__all__,
    context: [
        "bind_user",
        "bind_workspace",
        "carry",
        "current",
        "detached",
        "restore",
        "set_consent",
        "set_tag",
        "tracker",
        "llm",
        "errors",
    ],
    dependencies: ["get_context", "get_error_reporter", "get_llm_tracer", "get_tracker"],
    events: ["Event", "Personal", *(event.__name__ for event in events.DOCUMENTED.values())],
    logs: ["ContextFilter", "ContextFormatter"],
    propagation: ["Propagate"],
}
DOCUMENTED = (
    "init_observability", "track", "identify", "create_copilot_trace", "log_generation", "complete_copilot_trace",
    "set_user_context", "capture_exception",
)  # fmt: skip


def snapshot() -> Iterator[str]:
    """A line for each name, for each public member of a class, and for each documented function's parameters."""
    for module, names in MODULES.items():
        for name in sorted(names):
            value = getattr(module, name)
            yield f"{module.__name__}.{name}{inspect.signature(value) if name in DOCUMENTED else ''}"
            if module is metricx_observe and inspect.isclass(value):
                yield from (f"  .{member}" for member in sorted(_members(value)))


def _members(kind: type) -> set[str]:
    """Methods, properties, and the fields of models and tuples; attributes of a class's own workings are left out."""
    fields = "_fields" if issubclass(kind, tuple) else "model_fields"
    found = set(getattr(kind, fields, ()))
    for base in kind.__mro__:
        if base.__module__.startswith("metricx_observe"):
            found |= {
                name
                for name, value in vars(base).items()
                if inspect.isfunction(value) or isinstance(value, (property, classmethod))
            }
    return {name for name in found if not name.startswith(("_", "model_"))}


def test_the_public_names_are_those_of_the_snapshot() -> None:
    """No public name or documented parameter comes or goes unseen."""
    assert "\n".join(snapshot()).splitlines() == SNAPSHOT.read_text().splitlines()


def test_all_is_sorted_and_complete() -> None:
    """`__all__` is in order, each name is there, and nothing that was imported for it is missing from it."""
    names = metricx_observe.__all__
    assert names == sorted(names)
    assert all(hasattr(metricx_observe, name) for name in names)
    present = {
        name
        for name, value in vars(metricx_observe).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert present - {"TYPE_CHECKING"} | {"Settings"} == set(names)  # that one is loaded when it is asked for
    with pytest.raises(AttributeError):
        _ = metricx_observe.nothing


def test_the_documented_functions_are_in_both_places() -> None:
    """They are importable from the package and from `metricx_observe.telemetry`, and are the same."""
    for name in DOCUMENTED:
        assert getattr(metricx_observe, name) is getattr(telemetry, name)


def test_public_names_have_a_docstring() -> None:
    """Whatever users import says what it is."""
    undocumented = [
        name
        for name in metricx_observe.__all__
        if inspect.isclass(value := getattr(metricx_observe, name)) or inspect.isfunction(value)
        if not inspect.getdoc(value)
    ]
    assert undocumented == []


if __name__ == "__main__":
    print("\n".join(snapshot()))
