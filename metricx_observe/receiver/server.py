"""Run the receiver with uvicorn."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from metricx_observe.exceptions import ConfigurationError

from .app import create_app
from .guard import LOOPBACK_HOSTS
from .store import Limits, default_store_path

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4390
"""With DEFAULT_HOST the default of METRICX_RECEIVER_URL."""


def run(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    store_path: str | Path | None = None,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    limits: Limits | None = None,
    on_listen: Callable[[str], object] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        store_path: default `default_store_path()`.
        allowed_hosts: names for the Host header besides the loopback ones. None given, but a token: any.
        on_listen: called with the address as soon as it accepts connections.

    Raises:
        ConfigurationError: another address than loopback without a token, or an address that cannot be had.
    """
    if not _is_loopback(host) and not token:
        raise ConfigurationError(f"{host} is open to other machines: give a token, or listen on {DEFAULT_HOST}")
    allowed = {*LOOPBACK_HOSTS, *(allowed_hosts or ("*" if token else ()))}
    with listen(host, port) as listener:
        app = create_app(store_path or default_store_path(), token=token, allowed_hosts=allowed, limits=limits)
        if on_listen is not None:
            on_listen(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        try:
            server(app).run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # uvicorn has shut down in order and raises the signal again


def server(app: ASGIApp) -> uvicorn.Server:
    """uvicorn as the receiver wants it: quiet, and done soon after it was told to stop."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=2,
        limit_concurrency=500,  # with body_bytes a bound on memory
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigurationError when the address cannot be had."""
    # With the protocol named: asyncio switches Nagle's algorithm off only then, and it costs 40 ms an answer.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = f"{error.strerror}; try another --port"
        raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
