"""Whether an installed SDK is one that we know: what we use of its inside is looked for before a vendor is opened.

A name that has gone would else be found by the signals that vanish with it. What a module imports by name needs no
place in a vendor's `uses`: it cannot be imported without.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pkgutil import resolve_name

from .vendor import Vendor


class Misfit(Exception):
    """Names what an SDK has no more."""


def check(vendor: Vendor) -> None:
    """Look for all that we use. Raises Misfit, or ImportError where a module of the SDK's is not there."""
    for owner, names in vendor.uses.items():
        for name in names.split():
            if not hasattr(resolve_name(owner), name):
                raise Misfit(f"it has no {owner.replace(':', '.')}.{name}")


def misfit(vendor: Vendor, error: Exception) -> str:
    """Why a vendor is off whose SDK is there; where that is the cause, with the versions that we take and what to type.

    Of the error only what cannot hold a value: the name that it is about.
    """
    package = wanted = vendor.distribution
    installed = "?"
    with suppress(PackageNotFoundError):
        installed = version(package)
        ours = (each.partition(";")[0].strip() for each in requires("metricx-observe") or ())
        wanted = next((each for each in ours if re.match(rf"{package}\s*[<>=~!(]", each)), package)
    if not isinstance(error, (Misfit, ImportError, AttributeError, TypeError)):
        return f"{package} {installed} could not be started ({type(error).__name__})"
    about = re.search(r"keyword argument '(\w+)'|^cannot import name '(\w+)'", str(error))
    name = next(filter(None, about.groups())) if about else getattr(error, "name", None)
    why = str(error) if isinstance(error, Misfit) else f"{type(error).__name__}{f': {name}' if name else ''}"
    return f"{package} {installed} does not fit ({why}); type: pip install '{wanted}'"
