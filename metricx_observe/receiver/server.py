"""Run the receiver with uvicorn."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from metricx_observe.exceptions import ConfigurationError
from .app import create_app
from .guard import LOOPBACK_HOSTS
from .limits import DEFAULT_HOST, DEFAULT_PORT, Limits
from .store import default_store_path


def run(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    store_path: str | Path | None = None,
    token: str | None = None,
    allowed_hosts: Collection[str] | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        store_path: default `default_store_path()`.
        allowed_hosts: names for the Host header besides the loopback ones; any, where a token is demanded.

    Raises:
        ConfigurationError: another address than loopback without a token, or an address that is taken.
    """
    if not is_loopback(host) and not token:
        raise ConfigurationError(f"{host} can be reached from other machines: give a token, or listen on {DEFAULT_HOST}")
    allowed = (*LOOPBACK_HOSTS, *(allowed_hosts or ()), *(("*",) if token and not allowed_hosts else ()))
    with listen(host, port) as listener:
        app = create_app(store_path or default_store_path(), token=token, allowed_hosts=allowed, limits=limits)
        try:
            server(app).run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # uvicorn has shut down in order, and raises the signal again


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
        limit_concurrency=500,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigurationError when the address cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as error:
        reason = error.strerror or "not available"
        raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}; try --port") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
