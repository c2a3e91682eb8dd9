"""What to type for a part of the package that is not installed: no index may have the package yet."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """The command that installs an extra from where this package came: a checkout, a wheel, or an index.

    pip writes down where it took a package from that is of no index (PEP 610).
    """
    came_from, editable = "", False
    with suppress(PackageNotFoundError, ValueError, AttributeError):
        found = json.loads(distribution("metricx-observe").read_text("direct_url.json") or "{}")
        came_from, editable = str(found.get("url", "")), bool(found.get("dir_info", {}).get("editable"))
    if not came_from or "@" in urlsplit(came_from).netloc:  # an address with a password is nothing to show
        return f"pip install 'metricx-observe[{extra}]'"
    if not came_from.startswith("file:"):
        return f"pip install 'metricx-observe[{extra}] @ {came_from}'"
    path = unquote(urlsplit(came_from).path)
    return f"pip install {'-e ' if editable else ''}'{path}[{extra}]'"
