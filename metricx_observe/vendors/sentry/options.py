"""The options of Sentry's SDK: ours, and what is lost of an earlier client's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk import integrations as sentry_integrations
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

logger = logging.getLogger(__name__)

OFF = ("anthropic", "openai", "openai_agents", "langchain", "langgraph", "huggingface_hub", "cohere", "litellm",
        "google_genai", "pydantic_ai", "mcp", "dedupe")  # fmt: skip
"""Langfuse has the LLM calls; dedupe's ContextVar keeps the last exception's frames alive in each later task."""


def own_options(settings: Settings, middleware: bool) -> dict[str, Any]:
    """What we give to the SDK where the application gives nothing. Without middleware, with its web integrations."""
    return {
        "environment": settings.environment_at("sentry"),
        "release": settings.release,
        "traces_sample_rate": settings.sample_rate,
        "include_local_variables": settings.send_locals,
        "include_source_context": False,  # ours comes from a cache, see `frames`
        "max_request_body_size": "never",
        "in_app_include": list(settings.in_app),
        "in_app_exclude": ["metricx_observe"],
        "disabled_integrations": [StarletteIntegration(), FastApiIntegration()] if middleware else [],
    }


def warn_of_lost_options(earlier: Any, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Say which options of the client that was there before us are lost, but for the `options` given anew."""
    # the SDK fills in what it was not given: host name, folder, release, and more
    none: dict[str, Any] = dict.fromkeys(("default_integrations", "auto_enabling_integrations"), False)
    filled = {**sentry_sdk.Client(**none).options, **{name: DEFAULT_OPTIONS[name] for name in none}}
    theirs = dict(earlier.options)
    if not (theirs.get("data_collection") or {}).get("provided_by_user"):
        theirs.pop("data_collection", None)  # made of other options, which are named themselves
    now = {**filled, **{name: value for name, value in given.items() if value is not None}}
    lost = [
        name
        for name in sorted((DEFAULT_OPTIONS.keys() & theirs.keys()) - {*options, "dsn", "transport"})
        if not any(_alike(theirs[name], other.get(name)) for other in (filled, now))
    ]
    logger.warning(
        "an earlier sentry_sdk.init is taken over; not carried over: %s. Give them as "
        "Observability.from_env(sentry_options={...}) and remove the earlier call.",
        ", ".join(lost) or "nothing",
    )


def _alike(one: Any, other: Any) -> bool:
    """Whether two options are the same: the SDK's own objects (its scrubber) do not know."""
    return one == other or (type(one) is type(other) and hasattr(one, "__dict__") and vars(one) == vars(other))


def streams_spans(options: Mapping[str, Any]) -> bool:
    """Whether each span is sent by itself when it ends, and there are no transactions."""
    experiments = options.get("_experiments") or {}
    return "stream" in (options.get("trace_lifecycle"), experiments.get("trace_lifecycle"))


@contextmanager
def fewer_imports() -> Iterator[None]:
    """A block in which the SDK does not look for the packages of `OFF`: it imports each to see whether it is there.

    That takes seconds and 100 MB where they are. Of the public options `disabled_integrations` comes after the import,
    and `auto_enabling_integrations` turns off all of them.
    """
    automatic: list[str] = getattr(sentry_integrations, "_AUTO_ENABLING_INTEGRATIONS", [])
    before = automatic[:]
    automatic[:] = [each for each in before if each.split(".")[2:3] not in [[name] for name in OFF]]
    try:
        yield
    finally:
        automatic[:] = before
