"""The errors that this package raises.

ObserveError
├── ConfigurationError   a setting or a wiring mistake; says what to type. Raised at start-up only.
├── NotInstalledError    a dependency was used in an application without `install(app)`
└── InputError           bad input to a facade; raised only with METRICX_STRICT=true
"""

from __future__ import annotations


class ObserveError(Exception):
    """Base class of everything that this package raises."""


class ConfigurationError(ObserveError):
    """A setting is wrong or missing. The text names the variable, the fault and what to type, never the value."""


class NotInstalledError(ObserveError, RuntimeError):
    """A dependency was used in an application that has no `Observability` installed."""


class InputError(ObserveError, ValueError):
    """A facade was given something that cannot be sent as it is. Only raised with METRICX_STRICT=true."""
