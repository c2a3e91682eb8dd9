"""Starting all of it, and ending it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette

from metricx_observe.exceptions import ConfigurationError
from metricx_observe.interrupts import is_interrupt, suppress_faults
from metricx_observe.logs import say
from metricx_observe.observability import Observability
from metricx_observe.request.identity import AskConsent, Identify
from metricx_observe.startup import State, announce, calling_module

from .calls import documented


@documented
def init_observability(
    app: Starlette | None = None,
    *,
    identify: Identify | None = None,
    consent: AskConsent | None = None,
    health_path: str | None = None,
    logger: logging.Logger | None = None,
    sentry_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> dict[str, State]:
    """Start all that is configured, and log what is on. Never raises: a service that is at fault is off.

    A second call changes nothing, but for an `app`, which gets the middleware.

    Args:
        app: Also put the middleware around this application, as `Observability.install` does.
        identify, consent: With `app`: who is signed in, and what the user allowed, as `install` takes them.
        health_path: With `app`: where to serve `Observability.status()`.
        logger: Of the start-up line; the calling module's when None.
        sentry_options: As `Observability` takes them.
        overrides: Fields of `Settings`.

    Returns:
        By service (`sentry`, `analytics`, `langfuse`): `on`, `local: URL` or `off: reason`. What is off is false.
    """
    log = logger if isinstance(logger, logging.Logger) else logging.getLogger(calling_module())
    found = Observability.default
    running = found if found is not None and found.is_open else None
    try:
        running = running or _built(overrides, sentry_options, log)
        if app is not None:
            running.install(app, identify=identify, consent=consent, health_path=health_path, logger=log)
        elif not running.is_open:
            running.start()
            announce(running.settings, running.vendors, log)
    except Exception as error:
        if is_interrupt(error):
            raise
        return _without_middleware(running, error, log)
    return running.states()


def _without_middleware(running: Observability | None, error: Exception, log: logging.Logger) -> dict[str, State]:
    """Start without the middleware, if `app` was not an application; with wrong settings nothing starts."""
    # another error's text may hold what was configured
    reason = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
    if running is not None:
        with suppress_faults():
            running.start()
        if running.is_open:
            say(log, logging.ERROR, "[STARTUP] Observability: no middleware: %s", reason)
            return running.states()
    say(log, logging.ERROR, "[STARTUP] Observability: none: %s", reason)
    from metricx_observe.vendors import REGISTRY

    return {vendor.label: State(f"off: {reason}") for vendor in REGISTRY.values()}


def _built(overrides: dict[str, Any], sentry_options: Mapping[str, Any] | None, log: logging.Logger) -> Observability:
    """Not opened yet. Of a setting that is wrong its default is taken, and a line says so."""
    from metricx_observe.settings import load_settings

    faults = list[str]()
    settings = load_settings(overrides, faults)
    for fault in faults:
        say(log, logging.ERROR, "[STARTUP] %s", fault)
    return Observability(settings, sentry_options=sentry_options, tolerant=True)


def _state(facade: str) -> State:
    """Start all that is configured, and say how the vendor is that takes this facade's signals."""
    from metricx_observe.vendors import REGISTRY

    states = init_observability(logger=logging.getLogger(calling_module()))
    return next(states[vendor.label] for vendor in REGISTRY.values() if vendor.facade == facade)


@documented
def init_sentry() -> State:
    """Start all that is configured, as `init_observability`, and say how Sentry is."""
    return _state("errors")


@documented
def init_analytics() -> State:
    """Start all that is configured, as `init_observability`, and say how RudderStack is."""
    return _state("tracker")


@documented
def init_langfuse() -> State:
    """Start all that is configured, as `init_observability`, and say how Langfuse is."""
    return _state("llm")


@documented
def shutdown_observability() -> None:
    """Deliver what was put so far, at most 5 s long, and end: `Observability.close`. What is left stays on disk."""
    if Observability.default is not None:
        Observability.default.close()
