"""An SDK that does not fit costs its own vendor, and start-up says what is missing and which versions are wanted."""

from __future__ import annotations

import ast
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import metricx_observe
from metricx_observe import Observability
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.ids import new_id
from metricx_observe.settings import load_settings
from metricx_observe.vendors import REGISTRY, fit

from .receiver_server import Receiver
from .support import keys_for, observed

USED = [
    (vendor.name, f"{owner}{'.' if ':' in owner else ':'}{name}")
    for vendor in REGISTRY.values()
    for owner, names in vendor.uses.items()
    for name in names.split()
]
OTHERS = {
    "sentry": ("analytics", "langfuse"),
    "langfuse": ("sentry", "analytics"),
    "rudderstack": ("sentry", "langfuse"),
}


def owner(name: str) -> tuple[Any, str]:
    module, _, path = name.partition(":")
    *outer, last = path.split(".")
    found: Any = import_module(module)
    for each in outer:
        found = getattr(found, each)
    return found, last


@pytest.mark.parametrize(("vendor", "name"), USED)
def test_a_name_that_has_gone_is_named(vendor: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, before anything is opened."""
    fit.check(REGISTRY[vendor])
    found, last = owner(name)
    with monkeypatch.context() as gone:
        for each in getattr(found, "__mro__", [found]):
            if last in vars(each):
                gone.delattr(each, last)
        with pytest.raises(fit.Misfit, match=name.replace(":", ".")) as raised:
            fit.check(REGISTRY[vendor])
    assert fit.misfit(REGISTRY[vendor], raised.value).startswith(f"{REGISTRY[vendor].distribution} ")


@pytest.mark.parametrize("vendor", OTHERS)
def test_a_vendor_whose_sdk_lacks_something_is_off_alone(
    receiver: Receiver, vendor: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One error line names it with the versions that are wanted; the other two are on and send."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(type(REGISTRY[vendor]), "uses", {"sentry_sdk.scope:Scope": "gone_tomorrow"})
    user = f"user-{new_id()}"
    with observed(receiver) as observability:
        observability.install(FastAPI())
        states = observability.states()
        assert all(states[other] for other in OTHERS[vendor])
        (line,) = [record for record in caplog.records if "does not fit" in record.getMessage()]
        assert line.levelno == logging.ERROR
        assert "sentry_sdk.scope.Scope.gone_tomorrow" in line.getMessage()
        assert f"pip install '{REGISTRY[vendor].distribution}<" in line.getMessage()
        with observability.context(user_id=user):
            observability.errors.capture_message("hello")
            observability.tracker.track("connected")
            with observability.llm.trace("answer"):
                pass
        assert observability.flush()
    sources = {signal["vendor"] for signal in receiver.signals(user=user)}
    assert sources == OTHERS.keys() - {vendor}


def test_an_sdk_that_takes_other_arguments_is_off_alone(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As langfuse 4.0 does: its client has no `span_exporter`."""
    import metricx_observe.vendors.langfuse.client as ours

    class Older:
        def __init__(self, *, public_key: str, secret_key: str, base_url: str) -> None:
            """No more."""

    monkeypatch.setattr(ours, "Client", Older)
    with observed(receiver) as observability:
        observability.start()
        states = observability.states()
    assert states["sentry"]
    assert states["analytics"]
    assert "does not fit (TypeError: " in states["langfuse"]
    assert "; type: pip install 'langfuse<" in states["langfuse"]


def test_sentry_s_client_is_given_back_when_ours_cannot_be_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before goes on."""
    import sentry_sdk

    import metricx_observe.vendors.sentry.client as ours

    def fails(*_: object) -> None:
        raise ValueError("a value that is nobody's business")

    monkeypatch.setattr(ours, "ignore_logger", fails)
    with observed(receiver) as observability:
        observability.start()
        state = observability.states()["sentry"]
        assert not sentry_sdk.get_client().is_active()
    assert state.endswith("could not be started (ValueError)")


def test_an_option_that_the_sdk_does_not_know_is_a_mistake_with_its_name(receiver: Receiver) -> None:
    """Said by its name alone."""
    settings = load_settings(keys_for(receiver))
    observability = Observability(settings, sentry_options={"trace_sample_rate": 0.5})
    with pytest.raises(ConfigurationError, match=r"has no option trace_sample_rate$"):
        observability.start()


def test_all_that_we_use_of_an_sdk_s_inside_is_looked_for() -> None:
    """Each private attribute that a vendor's module reads, but for our own and those that each use guards itself."""
    listed = {name.rpartition(".")[2].rpartition(":")[2] for _, name in USED}
    guarded = {"_resources", "_redirect_headers", "_metricx", "_handler", "_breadcrumb_handler", "_attributes"}
    guarded |= {"_asdict", "_make", "_replace"}  # of named tuples
    ours = {path: ast.parse(path.read_text()) for path in Path(metricx_observe.__file__).parent.rglob("*.py")}
    defined = {name for tree in ours.values() for node in ast.walk(tree) for name in names_made(node)}
    for path, tree in ours.items():
        if "vendors" in path.parts:
            used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            private = {name for name in used if name.startswith("_") and not name.startswith("__")}
            assert private - defined - listed - guarded == set(), path.name


def names_made(node: ast.AST) -> set[str]:
    """Functions, classes and attributes that a node of our code makes."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return {node.attr}
    return {node.target.id} if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else set()
