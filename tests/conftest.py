"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from .receiver_server import Receiver, running_receiver

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

_PREFIXES = ("METRICX_", "SENTRY_", "RUDDERSTACK_", "LANGFUSE_", "OTEL_")


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
