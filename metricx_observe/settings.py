"""Settings: the only reader of the environment.

A vendor's variables are declared by the vendor, and have its own names; ours begin with METRICX_. `.env` in the working
directory is read, the environment wins over it. No error text contains a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import NoDecode, SettingsConfigDict

from .exceptions import ConfigurationError
from .logs import level_of
from .vendors import REGISTRY, VendorSettings
from .vendors.vendor import Target, is_url, read_from

RECEIVER_URL = "http://127.0.0.1:4390"


def _url(value: str) -> str:
    if not is_url(value):
        raise ValueError("is no URL: type it with its scheme, e.g. https://host")
    return value.rstrip("/")


def _outbox_url(value: str) -> str:
    if not (value == "memory://" or value.startswith("sqlite:///")):
        raise ValueError("type sqlite:///absolute/path or memory://")
    return value


def _words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _statuses(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\s*\d{3}(-\d{3})?\s*(,\s*\d{3}(-\d{3})?\s*)*", value, re.ASCII):
        raise ValueError("type statuses and ranges, e.g. 500-599 or 404,500-599")
    spans = (word.partition("-") for word in value.split(","))
    return frozenset(code for first, _, last in spans for code in range(int(first), int(last or first) + 1))


def _network(value: object) -> object:
    try:
        return ip_network(value, strict=False) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("type addresses or networks, e.g. 10.0.0.0/8") from None


def _vendor_name(value: object) -> object:
    labels: dict[object, str] = {vendor.label: name for name, vendor in REGISTRY.items()}
    name = labels.get(value, value)
    if name not in REGISTRY:
        raise ValueError(f"type {', '.join(REGISTRY)}, or some of them with commas between")
    return name


VendorName = Annotated[str, BeforeValidator(_vendor_name)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""Words separated by commas."""
Statuses = Annotated[frozenset[int], NoDecode, BeforeValidator(_statuses)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class Settings(VendorSettings):
    """All settings. Fields may be given as keywords too: `Settings(environment="production", service="shop")`."""

    model_config = SettingsConfigDict(
        env_prefix="METRICX_",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: str | None = read_from("ENVIRONMENT")
    log_level: str | None = read_from("LOG_LEVEL")
    service: str | None = read_from("METRICX_SERVICE", "OTEL_SERVICE_NAME")

    enabled: bool = True
    disabled: Annotated[tuple[VendorName, ...], NoDecode, BeforeValidator(_words)] = ()

    outbox_url: Annotated[str, AfterValidator(_outbox_url)] | None = None
    outbox_max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    outbox_max_age: float = Field(default=72 * 3600.0, gt=0)
    """Seconds; GA4 refuses events older than 72 h."""
    outbox_ephemeral: bool = False
    """The outbox's disk ends with the process, as in a container without a volume."""
    delivery: Literal["thread", "process", "external"] = "thread"
    durability: Literal["normal", "acknowledged"] = "normal"
    receiver_url: Annotated[str, AfterValidator(_url)] = RECEIVER_URL
    traces_max_per_second: float = Field(default=10, ge=0)
    errors_max_per_second: float = Field(default=200, ge=0)
    error_statuses: Statuses = frozenset(range(500, 600))
    ignore_paths: Words = ("/health*", "/livez", "/readyz", "/metrics")
    in_app: Words = ()
    send_bodies: bool = False
    send_locals: bool = True
    send_client_ip: bool = False
    personal_data: Literal["keep", "hash", "drop"] = "keep"
    scrub_names: Words = ()
    scrub_safe_names: Words = ()
    scrub_patterns: Words = ()
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_words)] = ()
    trace_hosts: Words = ()
    strict: bool = False
    carry_secret: SecretStr | None = None

    @property
    def level_fault(self) -> str:
        """What is wrong with LOG_LEVEL. Not an error of validation: signals are sent all the same."""
        known = self.log_level is None or level_of(self.log_level) is not None
        return "" if known else "LOG_LEVEL is no level: type one of DEBUG, INFO, WARNING, ERROR, CRITICAL"

    @property
    def delivery_fault(self) -> str:
        """Why METRICX_DELIVERY=external cannot be obeyed; where that does not stop the start, threads deliver."""
        if self.delivery != "external" or self.mode == "test" or self.outbox != "memory://":
            return ""
        return "METRICX_DELIVERY=external needs a file: type METRICX_OUTBOX_URL=sqlite:///absolute/path"

    @property
    def chose_personal_data(self) -> bool:
        """Whether METRICX_PERSONAL_DATA was set at all."""
        return "personal_data" in self.model_fields_set

    @property
    def mode(self) -> Literal["development", "test", "production"]:
        """How vendors without keys are treated. An unset ENVIRONMENT is development until any vendor's key is set, and
        test under pytest, where nothing may be written to the user's home."""
        if self.environment is None:
            if any(vendor.is_configured(self) for vendor in REGISTRY.values()):
                return "production"
            return "test" if "PYTEST_VERSION" in os.environ else "development"
        name = self.environment.strip().lower()
        return "development" if name == "development" else "test" if name == "test" else "production"

    @property
    def environment_name(self) -> str:
        """What stands on each signal, of the characters that every vendor takes, at most 40 of them."""
        return _environment(self.environment or self.mode)

    def environment_at(self, vendor: str) -> str:
        """The vendor's own variable wins over ENVIRONMENT there."""
        own = getattr(self, f"{vendor}_environment", None)
        return _environment(own) if own else self.environment_name

    @property
    def service_name(self) -> str:
        """METRICX_SERVICE, else OTEL_SERVICE_NAME, else the working directory's name."""
        try:
            return self.service or Path.cwd().name or "app"
        except OSError:  # it is gone
            return "app"

    def ignored(self, path: str) -> bool:
        """Whether requests to this path are left out of tracing."""
        return any(fnmatchcase(path, pattern) for pattern in self.ignore_paths)

    @property
    def outbox(self) -> str:
        """The outbox's URL: METRICX_OUTBOX_URL, else a file in the state directory, else memory."""
        if self.mode == "test":
            return "memory://"
        if self.outbox_url:
            return self.outbox_url
        home = os.environ.get("HOME")
        state = os.environ.get("XDG_STATE_HOME") or (str(Path(home) / ".local" / "state") if home else None)
        if state is None:
            return "memory://"
        folder = quote(f"{self.service_name}-{self.environment_name}", safe="")
        return f"sqlite:///{Path(state) / 'metricx-observe' / folder / 'outbox.db'}"

    def vendor(self, name: str) -> Target:
        """Where this vendor's signals go, or why nowhere. Says "fault" for what is set but cannot work."""
        return REGISTRY[name].target(self)


_NEVER_GUESSED = frozenset(
    {"carry_secret", "disabled", "enabled", "personal_data", "scrub_names", "scrub_patterns", "send_locals"}
)
"""What is wrong here cannot be taken as its default: something would be sent that was not to be."""
_HINTS = {
    "bool_parsing": "type true or false",
    "float_parsing": "type a number, e.g. 0.1",
    "int_parsing": "type a whole number",
}


def load_settings(overrides: Mapping[str, Any], notes: list[str] | None = None) -> Settings:
    """Read the environment. `overrides` are fields of `Settings`, which win over it.

    With `notes` a value that is wrong is taken as its default where that is safe, and the fault goes there.

    Raises:
        ConfigurationError: For a value that is wrong; names each variable and what to type, never the value.
    """
    model = _model()
    if unknown := sorted(set(overrides) - set(model.model_fields)):
        raise ConfigurationError(f"no such setting: {', '.join(unknown)}")
    # by the first of its names: given by the field's own, the environment wins in pydantic-settings before 2.9
    names = {name: getattr(each.validation_alias, "choices", [name])[0] for name, each in model.model_fields.items()}
    try:
        return model(**{names[name]: value for name, value in overrides.items()})
    except ValidationError as error:
        spellings, faults, wrong = _spellings(model), dict[str, str](), set[str]()
        for item in error.errors(include_input=False):
            field, variable = spellings[str(item["loc"][0]).lower()]
            faults[variable] = _HINTS.get(item["type"], item["msg"]).removeprefix("Value error, ")
            wrong.add(field)
        if notes is not None and not wrong & _NEVER_GUESSED:
            notes += [f"{variable}: {fault}; its default is taken" for variable, fault in faults.items()]
            defaults = {name: model.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            settings = load_settings({**overrides, **defaults})
            if "outbox_url" in wrong:
                notes.append(f"METRICX_OUTBOX_URL is taken as {settings.outbox}")
            return settings
    except (OSError, UnicodeDecodeError) as error:
        faults = {".env": f"cannot be read ({type(error).__name__}): it must be a text file in UTF-8"}
    raise ConfigurationError("; ".join(f"{variable}: {fault}" for variable, fault in faults.items())) from None


def _model() -> type[Settings]:
    """`Settings`, with the fields of vendors that were registered later."""
    more = [vendor.fields for vendor in REGISTRY.values() if not issubclass(Settings, vendor.fields)]
    # the configuration of the last base counts
    return type("Settings", (Settings, *more), {"model_config": Settings.model_config}) if more else Settings


def _spellings(model: type[Settings]) -> dict[str, tuple[str, str]]:
    """By each name that pydantic may call it, in lower case: a field, and its variable."""
    found = {}
    for name, each in model.model_fields.items():
        choices = getattr(each.validation_alias, "choices", ())
        found[name] = name, name.upper() if choices else f"METRICX_{name.upper()}"
        found |= {choice.lower(): (name, choice.upper()) for choice in choices}
    return found


def unknown_variables() -> list[str]:
    """What is set of METRICX_ and nobody reads, with the nearest name: "METRICX_X is not known: …"."""
    known = {"METRICX_RECEIVER_TOKEN", *(variable for _, variable in _spellings(_model()).values())}
    in_file: dict[str, str | None] = {}
    with suppress(OSError, UnicodeDecodeError):
        in_file = dotenv_values(".env")
    given = {name.upper() for name in (*os.environ, *in_file) if name.upper().startswith("METRICX_")}
    found = []
    for name in sorted(given - known):
        nearest = get_close_matches(name, known, 1)
        found.append(f"{name} is not known" + (f": did you mean {nearest[0]}?" if nearest else ""))
    return found


def _environment(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.strip().lower())[:40]
