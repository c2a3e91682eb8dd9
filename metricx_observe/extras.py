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
    came_from = ""
    with suppress(PackageNotFoundError, ValueError, AttributeError):
        came_from = str(json.loads(distribution("metricx-observe").read_text("direct_url.json") or "{}").get("url", ""))
    if not came_from or "@" in urlsplit(came_from).netloc:  # an address with a password is nothing to show
        return f"pip install 'metricx-observe[{extra}]'"
    if not came_from.startswith("file:"):
        return f"pip install 'metricx-observe[{extra}] @ {came_from}'"
    path = unquote(urlsplit(came_from).path)
    editable = "" if path.endswith((".whl", ".gz")) else "-e "
    return f"pip install {editable}'{path}[{extra}]'"
