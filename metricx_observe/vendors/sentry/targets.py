"""Which hosts get `sentry-trace` and `baggage`: those of METRICX_TRACE_HOSTS, and nobody else.

The SDK's own default is every host, and it looks for a target anywhere in a URL. What is given to it here matches a
whole host only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import httpx
import sentry_sdk
from sentry_sdk.tracing_utils import Baggage, should_propagate_trace

from metricx_observe.exceptions import ConfigurationError
from metricx_observe.request.outgoing import DEFAULT_PORTS, host_and_port

logger = logging.getLogger(__name__)

_BEFORE_HOST = r"(?i)\A{scheme}://(?:[^\s/?#@\\]*@)?"
_AFTER_HOST = r"(?=[/?#]|\Z)"


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
    def headers_for(client: Any, request: Any, url: Any, *rest: Any) -> Any:
        headers = redirect_headers(client, request, url, *rest)
        if not should_propagate_trace(sentry_sdk.get_client(), str(url)):
            headers.pop("sentry-trace", None)
            if "baggage" in headers:
                headers["baggage"] = Baggage.strip_sentry_baggage(headers["baggage"])
                if not headers["baggage"].strip():
                    del headers["baggage"]
        return headers

    headers_for._metricx = True  # type: ignore[attr-defined]  # once for each class
    return headers_for
