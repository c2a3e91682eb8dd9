"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from metricx_observe.context.running import _cell
from metricx_observe.observability import Observability

from .certificates import trust_one_authority
from .receiver_server import Receiver, running_receiver

trust_one_authority()

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

_PREFIXES = ("METRICX_", "SENTRY_", "RUDDERSTACK_", "LANGFUSE_", "OTEL_")


_LONGEST = ("test_answers", "test_servers", "test_receiver_floods", "test_outbox_healing", "test_sidecar")


@pytest.hookimpl(trylast=True)  # pytest-randomly has shuffled them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first: one that began last would be waited for by all workers but its own."""
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """One receiver for the whole run: tests look for their own user or request id."""
    with running_receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's own shell has set for these vendors reaches no test."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in ("ENVIRONMENT", "LOG_LEVEL"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module that leaves an Observability open, or somebody bound, would lend them to the next one."""
    yield
    if (cell := _cell.get()) is not None:
        _cell.set(None)
        pytest.fail(f"{request.node.name} left {cell.state} bound")
    left = Observability.default
    if left is not None and left.is_open:
        left.close()
        pytest.fail(f"{request.node.name} left an Observability open")
