"""The local receiver: a real endpoint for the three SDKs on loopback, a store, an API and a page.

It imports no vendor's SDK: it reads the wire formats, so that what is seen here is what a vendor would have been sent.
"""

from .app import create_app
from .server import DEFAULT_HOST, DEFAULT_PORT, run
from .store import Limits, Store, default_store_path

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Limits", "Store", "create_app", "default_store_path", "run"]
