"""The local receiver: a real endpoint for the three SDKs on loopback, a store, an API and a page.

It imports nothing of the core and no vendor's SDK: it reads the wire formats, so that what is seen here is what a
vendor would have been sent.
"""

from __future__ import annotations

from .app import create_app
from .limits import DEFAULT_HOST, DEFAULT_PORT, Limits
from .server import run
from .store import Store, default_store_path

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Limits", "Store", "create_app", "default_store_path", "run"]
