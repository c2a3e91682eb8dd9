"""Settings: the only reader of the environment.

The documented names come without a prefix (SENTRY_DSN, …), ours with METRICX_. `.env` in the working directory is read,
the environment wins over it. No error text contains a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .exceptions import ConfigurationError
from .extras import install_command
from .logs import level_of

RECEIVER_URL = "http://127.0.0.1:4390"
VENDORS = ("sentry", "rudderstack", "langfuse")
_PACKAGES = {"sentry": "sentry_sdk", "rudderstack": "rudderstack", "langfuse": "langfuse"}
_KEYS = {
    "sentry": ("SENTRY_DSN",),
    "rudderstack": ("RUDDERSTACK_WRITE_KEY", "RUDDERSTACK_DATA_PLANE_URL"),
    "langfuse": ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"),
}


@dataclass(frozen=True, slots=True)
class Vendor:
    """What the settings say of one vendor: where it goes, or why it is off."""

    state: Literal["on", "local", "off", "fault"]
    url: str = field(default="", repr=False)
    """Sentry: the DSN. RudderStack: the data plane. Langfuse: the base URL."""
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    reason: str = ""
    """Why it is off, or what is wrong: names the variable and what to type, never a value."""


def is_url(value: str) -> bool:
    """Whether `value` is an http(s) URL with a host."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not re.search(r"\s", value)


def _is_dsn(value: str) -> bool:
    return is_url(value) and bool(urlsplit(value).username) and urlsplit(value).path.rpartition("/")[2].isdigit()


_CHECKS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "SENTRY_DSN": (_is_dsn, "is malformed: type https://PUBLIC_KEY@HOST/PROJECT_ID, as Sentry's settings show it"),
    "RUDDERSTACK_DATA_PLANE_URL": (is_url, "is no URL: type it as RudderStack shows it, https://…"),
    "LANGFUSE_BASE_URL (or LANGFUSE_HOST)": (is_url, "is no URL: type it with its scheme, https://cloud.langfuse.com"),
}


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
    name = {"analytics": "rudderstack"}.get(value, value) if isinstance(value, str) else value
    if name not in VENDORS:
        raise ValueError(f"type {', '.join(VENDORS)}, or some of them with commas between")
    return name


def _switch(value: object) -> object:
    """As the vendors' SDKs read theirs: anything but `true` and `false` is the default, and no error."""
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value


Switch = Annotated[bool | None, BeforeValidator(_switch)]
VendorName = Annotated[str, BeforeValidator(_vendor_name)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""Words separated by commas."""
Statuses = Annotated[frozenset[int], NoDecode, BeforeValidator(_statuses)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


def _name(*names: str, default: str | None = None) -> Any:
    return Field(default=default, validation_alias=AliasChoices(*names))


class Settings(BaseSettings):
    """All settings. Fields may be given as keywords too: `Settings(sentry_dsn=..., environment="production")`."""

    model_config = SettingsConfigDict(
        env_prefix="METRICX_",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    sentry_dsn: SecretStr | None = _name("SENTRY_DSN")
    rudderstack_write_key: SecretStr | None = _name("RUDDERSTACK_WRITE_KEY")
    rudderstack_data_plane_url: str | None = _name("RUDDERSTACK_DATA_PLANE_URL")
    langfuse_public_key: str | None = _name("LANGFUSE_PUBLIC_KEY")
    langfuse_secret_key: SecretStr | None = _name("LANGFUSE_SECRET_KEY")
    langfuse_base_url: str = _name("LANGFUSE_BASE_URL", "LANGFUSE_HOST", default="https://cloud.langfuse.com")
    environment: str | None = _name("ENVIRONMENT")
    log_level: str | None = _name("LOG_LEVEL")
    service: str | None = _name("METRICX_SERVICE", "OTEL_SERVICE_NAME")
    release: str | None = _name("METRICX_RELEASE", "SENTRY_RELEASE", "RELEASE_VERSION")
    sentry_environment: str | None = _name("SENTRY_ENVIRONMENT")
    langfuse_environment: str | None = _name("LANGFUSE_TRACING_ENVIRONMENT")
    langfuse_tracing: Switch = Field(default=True, validation_alias=AliasChoices("LANGFUSE_TRACING_ENABLED"))
    langfuse_sample_rate: float = Field(
        default=1.0, ge=0, le=1, validation_alias=AliasChoices("LANGFUSE_SAMPLE_RATE")
    )
    otel_sdk_disabled: Switch = Field(default=False, validation_alias=AliasChoices("OTEL_SDK_DISABLED"))

    enabled: bool = True
    disabled: Annotated[tuple[VendorName, ...], NoDecode, BeforeValidator(_words)] = ()

    outbox_url: Annotated[str, AfterValidator(_outbox_url)] | None = None
    outbox_max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    outbox_max_age: float = Field(default=72 * 3600.0, gt=0)
    """Seconds; GA4 refuses events older than 72 h."""
    outbox_ephemeral: bool = False
    """The outbox's disk ends with the process, as in a container without a volume."""
    delivery: Literal["thread", "process"] = "thread"
    durability: Literal["normal", "acknowledged"] = "normal"
    receiver_url: Annotated[str, AfterValidator(_url)] = RECEIVER_URL
    traces_sample_rate: float | None = Field(
        default=None,
        ge=0,
        le=1,
        validation_alias=AliasChoices("METRICX_TRACES_SAMPLE_RATE", "SENTRY_TRACES_SAMPLE_RATE"),
    )
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
        """What is wrong with LOG_LEVEL. Not an error of validation: it is no reason to send nothing."""
        known = self.log_level is None or level_of(self.log_level) is not None
        return "" if known else "LOG_LEVEL is no level: type one of DEBUG, INFO, WARNING, ERROR, CRITICAL"

    @property
    def chose_personal_data(self) -> bool:
        """Whether METRICX_PERSONAL_DATA was set at all."""
        return "personal_data" in self.model_fields_set

    @property
    def mode(self) -> Literal["development", "test", "production"]:
        """How vendors without keys are treated. An unset ENVIRONMENT is development until any vendor's key is set, and
        test under pytest, where nothing may be written to the user's home."""
        if self.environment is None:
            if any(any(self._keys(vendor).values()) for vendor in VENDORS):
                return "production"
            return "test" if "PYTEST_VERSION" in os.environ else "development"
        name = self.environment.strip().lower()
        return "development" if name == "development" else "test" if name == "test" else "production"

    @property
    def environment_name(self) -> str:
        """What stands on each signal, of the characters that Langfuse takes, at most 40 of them."""
        return _environment(self.environment or self.mode)

    def environment_at(self, vendor: Literal["sentry", "langfuse"]) -> str:
        """The vendor's own variable wins over ENVIRONMENT there."""
        own = self.sentry_environment if vendor == "sentry" else self.langfuse_environment
        return _environment(own) if own else self.environment_name

    @property
    def service_name(self) -> str:
        """METRICX_SERVICE, else OTEL_SERVICE_NAME, else the working directory's name."""
        try:
            return self.service or Path.cwd().name or "app"
        except OSError:  # it is gone
            return "app"

    @property
    def sample_rate(self) -> float:
        """Share of requests that are traced: 1.0 where Sentry goes to the local receiver, else 0.1, unless set."""
        if self.traces_sample_rate is not None:
            return self.traces_sample_rate
        return 1.0 if self.vendor("sentry").state == "local" else 0.1

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

    def vendor(self, name: str) -> Vendor:
        """Where this vendor's signals go, or why nowhere. Says "fault" for what is set but cannot work."""
        if off := self._switched_off(name):
            return Vendor("off", reason=off)
        keys = self._keys(name)
        given = any(keys.values())
        if given and (fault := self._fault(name, keys)):
            return Vendor("fault", reason=fault)
        if not given and self.mode == "production":
            return Vendor("off", reason=f"not set: {', '.join(keys)}")
        if not _is_installed(name):
            return Vendor("fault" if given and self.mode != "test" else "off", reason=_not_installed(name))
        if given and self.mode != "test":
            return Vendor("on", *self._target(name, *keys.values()))
        state: Literal["on", "local"] = "on" if self.mode == "test" else "local"
        return Vendor(state, *_local(name, self.receiver_url))

    def _switched_off(self, name: str) -> str:
        """By which variable a vendor is switched off."""
        switches = {
            "METRICX_ENABLED": not self.enabled,
            "METRICX_DISABLED": name in self.disabled,
            "LANGFUSE_TRACING_ENABLED": name == "langfuse" and self.langfuse_tracing is False,
            "OTEL_SDK_DISABLED": name == "langfuse" and self.otel_sdk_disabled is True,
        }
        return next((f"switched off by {variable}" for variable, off in switches.items() if off), "")

    def _keys(self, name: str) -> dict[str, str]:
        """What is set of a vendor's variables, by their names."""
        given = {key: getattr(self, key.lower()) for key in _KEYS[name]}
        return {
            key: (value.get_secret_value() if isinstance(value, SecretStr) else value or "").strip()
            for key, value in given.items()
        }

    def _fault(self, name: str, keys: Mapping[str, str]) -> str:
        url = {"LANGFUSE_BASE_URL (or LANGFUSE_HOST)": self.langfuse_base_url} if name == "langfuse" else {}
        for key, value in {**keys, **url}.items():
            if not value:
                return f"{key} is not set but {' and '.join(k for k in keys if k != key)} is: set both or none"
            if re.search(r"^(pk-lf-|sk-lf-)?xxx$|://xxx[@.]", value):
                return f"{key} is still the document's placeholder: type the value from the vendor's settings page"
            if key in _CHECKS and not _CHECKS[key][0](value):
                return f"{key} {_CHECKS[key][1]}"
            if re.search(r"[^!-~]", value):
                return f"{key} has characters that no key has: copy it again from the vendor's settings page"
        return ""

    def _target(self, name: str, first: str, second: str = "") -> tuple[str, ...]:
        """Url, key and secret."""
        if name == "sentry":
            return (first,)
        if name == "rudderstack":
            return second.rstrip("/"), first
        return self.langfuse_base_url.strip().rstrip("/"), first, second


def _local(name: str, url: str) -> tuple[str, ...]:
    """A vendor's address at the local receiver, in the shape that its SDK takes."""
    if name == "sentry":
        return (url.replace("://", "://local@", 1) + "/1",)
    return (url, "local") if name == "rudderstack" else (url, "pk-lf-local", "sk-lf-local")


_NEVER_GUESSED = frozenset(
    {"carry_secret", "disabled", "enabled", "personal_data", "scrub_names", "scrub_patterns", "send_locals"}
)
"""What is wrong here cannot be taken as its default: something would be sent that was not to be."""
_HINTS = {
    "bool_parsing": "type true or false",
    "float_parsing": "type a number, e.g. 0.1",
    "int_parsing": "type a whole number",
}


def load_settings(overrides: Mapping[str, Any], told: list[str] | None = None) -> Settings:
    """Read the environment. `overrides` are fields of `Settings`, which win over it.

    With `told` a value that is wrong is taken as its default where that is safe, and the fault goes there.

    Raises:
        ConfigurationError: For a value that is wrong; names each variable and what to type, never the value.
    """
    if unknown := sorted(set(overrides) - set(Settings.model_fields)):
        raise ConfigurationError(f"no such setting: {', '.join(unknown)}")
    # by the first of its names: given by the field's own, the environment wins in pydantic-settings before 2.9
    names = {name: getattr(each.validation_alias, "choices", [name])[0] for name, each in Settings.model_fields.items()}
    try:
        return Settings(**{names[name]: value for name, value in overrides.items()})
    except ValidationError as error:
        items = error.errors(include_input=False)
        wrong = {_field(str(item["loc"][0])) for item in items}
        faults = {_variable(str(item["loc"][0])): _HINTS.get(item["type"], item["msg"]) for item in items}
        if told is not None and wrong <= Settings.model_fields.keys() - _NEVER_GUESSED:
            told += [f"{fault}; its default is taken" for fault in _texts(faults)]
            defaults = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in wrong}
            return load_settings({**overrides, **defaults})
    except (OSError, UnicodeDecodeError) as error:
        faults = {".env": f"cannot be read ({type(error).__name__}): it must be a text file in UTF-8"}
    raise ConfigurationError("; ".join(_texts(faults))) from None


def _texts(faults: Mapping[str, str]) -> list[str]:
    return [f"{name}: {text.removeprefix('Value error, ')}" for name, text in faults.items()]


def _field(name: str) -> str:
    """The field that pydantic means by a name or an alias."""
    for known, each in Settings.model_fields.items():
        if name.lower() in (known, *(str(choice).lower() for choice in getattr(each.validation_alias, "choices", ()))):
            return known
    return name


def unknown_variables() -> list[str]:
    """What is set of METRICX_ and nobody reads, with the nearest name: "METRICX_X is not known: …"."""
    known = {"METRICX_RECEIVER_TOKEN"}
    for field_name, each in Settings.model_fields.items():
        known |= {*map(str, getattr(each.validation_alias, "choices", [f"METRICX_{field_name.upper()}"]))}
    given = {name.upper() for name in (*os.environ, *_in_file()) if name.upper().startswith("METRICX_")}
    told = []
    for name in sorted(given - known):
        nearest = get_close_matches(name, known, 1)
        told.append(f"{name} is not known" + (f": did you mean {nearest[0]}?" if nearest else ""))
    return told


def _in_file() -> list[str]:
    try:
        return [*dotenv_values(".env")]
    except (OSError, UnicodeDecodeError):
        return []


def _environment(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.strip().lower())[:40]


def _variable(name: str) -> str:
    """The variable's name: pydantic gives a field's, or a documented variable's own."""
    ours = name in Settings.model_fields and Settings.model_fields[name].validation_alias is None
    return f"METRICX_{name.upper()}" if ours else name.upper()


def _is_installed(name: str) -> bool:
    try:
        return find_spec(_PACKAGES[name]) is not None
    except ImportError:
        return False


def _not_installed(name: str) -> str:
    return f"its SDK is not installed ({_PACKAGES[name]}): {install_command(name)}"
