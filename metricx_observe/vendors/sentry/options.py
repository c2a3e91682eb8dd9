"""The options of Sentry's SDK: ours, what is lost of an earlier client's, and which hosts get its headers.

`sentry-trace` and `baggage` go to the hosts of METRICX_TRACE_HOSTS, and to nobody else. The SDK's own default is every
host, and it looks for a target anywhere in a URL. What is given to it here matches a whole host only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx
import sentry_sdk
from sentry_sdk import integrations as sentry_integrations
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.tracing_utils import Baggage, should_propagate_trace

from metricx_observe.exceptions import ConfigurationError
from metricx_observe.request.outgoing import DEFAULT_PORTS, host_and_port

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

logger = logging.getLogger(__name__)

OFF = ("anthropic", "openai", "openai_agents", "langchain", "langgraph", "huggingface_hub", "cohere", "litellm",
        "google_genai", "pydantic_ai", "mcp", "dedupe")  # fmt: skip
"""Langfuse has the LLM calls; dedupe's ContextVar keeps the last exception's frames alive in each later task."""
_BEFORE_HOST, _AFTER_HOST = r"(?i)\A{scheme}://(?:[^\s/?#@\\]*@)?", r"(?=[/?#]|\Z)"


def own_options(settings: Settings, middleware: bool) -> dict[str, Any]:
    """What we give to the SDK where the application gives nothing. Without middleware, with its web integrations."""
    return {
        "environment": settings.environment_at("sentry"),
        "release": settings.release,
        "traces_sample_rate": settings.sample_rate,
        "trace_propagation_targets": propagation_targets(settings.trace_hosts),
        "include_local_variables": settings.send_locals,
        "include_source_context": False,  # ours comes from a cache, see `events`
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


def propagation_targets(hosts: Iterable[str]) -> list[str]:
    """Regular expressions for the SDK's `trace_propagation_targets`, of hosts as `Propagate` takes them.

    A wrong entry is left out with one warning, which does not name it: it may be anything, also a URL with a password.
    """
    targets, wrong = list[str](), 0
    for host in hosts:
        try:
            targets += _expressions(*host_and_port(host))
        except ConfigurationError:
            wrong += 1
    if wrong:
        logger.warning(
            "METRICX_TRACE_HOSTS: %d of its entries cannot be a host and are left out; type api.example.com, "
            "api.example.com:8443 or *.example.com",
            wrong,
        )
    return targets


def _expressions(host: str, port: int | None) -> list[str]:
    below, bare = host.startswith("*."), host.removeprefix("*.")
    shown = {bare, httpx.URL(host=bare).raw_host.decode()}  # a client may write `xn--bcher-kva` for `bücher`
    name = "(?:" + "|".join(rf"\[{each}\]" if ":" in each else re.escape(each) for each in sorted(shown)) + ")"
    name = rf"(?:[\w\-]+\.)+{name}" if below else name
    if port is None:
        return [_BEFORE_HOST.format(scheme="https?") + name + r"(?::\d*)?" + _AFTER_HOST]
    ports = {scheme: f"(?::{port})?" if port == own else f":{port}" for scheme, own in DEFAULT_PORTS.items()}
    return [_BEFORE_HOST.format(scheme=scheme) + name + written + _AFTER_HOST for scheme, written in ports.items()]


def keep_from_redirects() -> None:
    """Take Sentry's headers off a request that a client of httpx or httpx2 redirects to a host without a right to them.

    These clients copy all headers, and the SDK, which puts them on the first request, does not see the second. There is
    no public seam for it: the SDK itself replaces methods of the same classes.
    """
    for name in ("httpx", "httpx2"):
        try:
            client: Any = import_module(f"{name}._client").BaseClient
        except (ImportError, AttributeError):  # not installed, or a later version that is built in another way
            continue
        headers = getattr(client, "_redirect_headers", None)
        if headers is not None and not hasattr(headers, "_metricx"):
            client._redirect_headers = _without_trace(headers)


def _without_trace(redirect_headers: Callable[..., Any]) -> Callable[..., Any]:
    def headers_for(client: Any, request: Any, url: Any, *more: Any) -> Any:
        headers = redirect_headers(client, request, url, *more)
        if not should_propagate_trace(sentry_sdk.get_client(), str(url)):
            headers.pop("sentry-trace", None)
            if "baggage" in headers:
                headers["baggage"] = Baggage.strip_sentry_baggage(headers["baggage"])
                if not headers["baggage"].strip():
                    del headers["baggage"]
        return headers

    headers_for._metricx = True  # type: ignore[attr-defined]  # once for each class
    return headers_for
