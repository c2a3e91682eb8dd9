"""Settings: the only reader of the environment.

The documented names come without a prefix (SENTRY_DSN, …), ours with METRICX_. `.env` in the working directory is read,
the environment wins over it. No error text contains a value.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .exceptions import ConfigurationError

RECEIVER_URL = "http://127.0.0.1:4390"


def _split(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Words separated by commas."""

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
    url: str = ""
    """Sentry: the DSN. RudderStack: the data plane. Langfuse: the base URL."""
    key: str = ""
    secret: str = ""
    reason: str = ""
    """Why it is off, or what is wrong: names the variable and what to type, never a value."""

    def __repr__(self) -> str:
        return f"Vendor(state={self.state!r}, reason={self.reason!r})"


def _name(*names: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names))


class Settings(BaseSettings):
    """All settings. Fields may be given as keywords too: `Settings(sentry_dsn=..., environment="production")`."""

    model_config = SettingsConfigDict(
        env_prefix="METRICX_",
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        frozen=True,
    )

    sentry_dsn: SecretStr | None = _name("SENTRY_DSN", "sentry_dsn")
    rudderstack_write_key: SecretStr | None = _name("RUDDERSTACK_WRITE_KEY", "rudderstack_write_key")
    rudderstack_data_plane_url: str | None = _name("RUDDERSTACK_DATA_PLANE_URL", "rudderstack_data_plane_url")
    langfuse_public_key: str | None = _name("LANGFUSE_PUBLIC_KEY", "langfuse_public_key")
    langfuse_secret_key: SecretStr | None = _name("LANGFUSE_SECRET_KEY", "langfuse_secret_key")
    langfuse_base_url: str = Field(
        default="https://cloud.langfuse.com",
        validation_alias=AliasChoices("LANGFUSE_BASE_URL", "LANGFUSE_HOST", "langfuse_base_url"),
    )
    environment: str | None = _name("ENVIRONMENT", "environment")
    log_level: str | None = _name("LOG_LEVEL", "log_level")
    service: str | None = _name("METRICX_SERVICE", "OTEL_SERVICE_NAME", "service")
    release: str | None = _name("METRICX_RELEASE", "SENTRY_RELEASE", "release")

    outbox_url: str | None = None
    outbox_max_bytes: int = Field(256 << 20, ge=1 << 20)
    outbox_max_age: float = Field(72 * 3600.0, gt=0)
    """Seconds; GA4 refuses events older than 72 h."""
    durability: Literal["normal", "acknowledged"] = "normal"
    receiver_url: str = RECEIVER_URL
    traces_sample_rate: float | None = Field(None, ge=0, le=1)
    traces_max_per_second: float = Field(10, ge=0)
    errors_max_per_second: float = Field(200, ge=0)
    error_statuses: Words = ("500-599",)
    ignore_paths: Words = ("/health*", "/livez", "/readyz", "/metrics")
    in_app: Words = ()
    send_bodies: bool = False
    send_locals: bool = True
    send_client_ip: bool = False
    personal_data: Literal["keep", "hash", "drop"] = "keep"
    scrub_names: Words = ()
    scrub_safe_names: Words = ()
    scrub_patterns: Words = ()
    trusted_proxies: Words = ()
    strict: bool = False
    carry_secret: SecretStr | None = None

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str | None) -> str | None:
        if value is not None and value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            raise ValueError("unknown level: type one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
        return value and value.upper()

    @field_validator("error_statuses")
    @classmethod
    def _statuses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            first, _, last = word.partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                raise ValueError("type statuses and ranges, e.g. 500-599 or 404,500-599")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            try:
                ipaddress.ip_network(word, strict=False)
            except ValueError:
                raise ValueError("type addresses or networks, e.g. 10.0.0.0/8") from None
        return value

    @field_validator("receiver_url", "langfuse_base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not is_url(value):
            raise ValueError("is no URL: type it with its scheme, e.g. https://host")
        return value.rstrip("/")

    @field_validator("outbox_url")
    @classmethod
    def _outbox(cls, value: str | None) -> str | None:
        if value and not (value == "memory://" or value.startswith("sqlite:///")):
            raise ValueError("type sqlite:///path or memory://")
        return value

    @property
    def mode(self) -> Literal["development", "test", "production"]:
        """How vendors without keys are treated. An unset ENVIRONMENT is development until any vendor's key is set."""
        if self.environment is None:
            return "production" if any(self._given(vendor) for vendor in VENDORS) else "development"
        name = self.environment.strip().lower()
        return "development" if name == "development" else "test" if name == "test" else "production"

    @property
    def environment_name(self) -> str:
        """What stands on each signal: lower case and at most 40 characters, as Langfuse wants it."""
        return (self.environment or self.mode).strip().lower()[:40]

    @property
    def service_name(self) -> str:
        """METRICX_SERVICE, else OTEL_SERVICE_NAME, else the working directory's name."""
        return self.service or Path.cwd().name or "app"

    @property
    def sample_rate(self) -> float:
        """Share of requests that are traced: 1.0 where Sentry goes to the local receiver, else 0.1, unless set."""
        if self.traces_sample_rate is not None:
            return self.traces_sample_rate
        return 1.0 if self.vendor("sentry").state == "local" else 0.1

    @property
    def statuses(self) -> frozenset[int]:
        """The statuses that are reported as errors."""
        spans = (word.partition("-") for word in self.error_statuses)
        return frozenset(code for first, _, last in spans for code in range(int(first), int(last or first) + 1))

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
        fault = self._fault(name) if self._given(name) else ""
        if fault:
            return Vendor("fault", reason=fault)
        if self.mode == "production" and not self._given(name):
            return Vendor("off", reason=f"not set: {', '.join(_KEYS[name])}")
        if not _installed(name):
            wanted = self._given(name) and self.mode != "test"
            return Vendor("fault" if wanted else "off", reason=_missing(name))
        if self.mode == "test":
            return Vendor("on", **_LOCAL[name](RECEIVER_URL))
        if self._given(name):
            return Vendor("on", **self._target(name))
        return Vendor("local", **_LOCAL[name](self.receiver_url))

    def _given(self, name: str) -> bool:
        return any(_plain(getattr(self, key.lower())) for key in _KEYS[name])

    def _fault(self, name: str) -> str:
        for key in _KEYS[name]:
            value = _plain(getattr(self, key.lower()))
            if not value:
                return f"{key} is not set but {' and '.join(k for k in _KEYS[name] if k != key)} is: set both or none"
            if _is_placeholder(value):
                return f"{key} is still the document's placeholder: type the value from the vendor's settings page"
            if key == "SENTRY_DSN" and not _is_dsn(value):
                return f"{key} is malformed: type https://PUBLIC_KEY@HOST/PROJECT_ID, as Sentry's settings show it"
            if key == "RUDDERSTACK_DATA_PLANE_URL" and not is_url(value):
                return f"{key} is no URL: type it with its scheme, e.g. https://your.dataplane.rudderstack.com"
        return ""

    def _target(self, name: str) -> dict[str, str]:
        first = _plain(getattr(self, _KEYS[name][0].lower()))
        if name == "sentry":
            return {"url": first}
        if name == "rudderstack":
            return {"url": str(self.rudderstack_data_plane_url).rstrip("/"), "key": first}
        return {"url": self.langfuse_base_url, "key": first, "secret": _plain(self.langfuse_secret_key)}


_LOCAL = {
    "sentry": lambda url: {"url": url.replace("://", "://local@", 1) + "/1"},
    "rudderstack": lambda url: {"url": url, "key": "local"},
    "langfuse": lambda url: {"url": url, "key": "pk-lf-local", "secret": "sk-lf-local"},
}
"""Each vendor's address at the local receiver, in the shape that its SDK takes."""


def load_settings(overrides: Mapping[str, Any], ignore: Iterable[str] = ()) -> Settings:
    """Read the environment. `ignore` names fields whose faulty values are left at their defaults.

    Raises:
        ConfigurationError: For a value that is wrong; names each variable and what to type, never the value.
    """
    try:
        return Settings(**overrides, **{name: Settings.model_fields[name].default for name in ignore})
    except ValidationError as error:
        faults = {str(item["loc"][0]): _words_of(item["msg"]) for item in error.errors(include_input=False)}
    text = "; ".join(f"{_variable(name)}: {fault}" for name, fault in faults.items())
    failure = ConfigurationError(text)
    failure.fields = tuple(_field(name) for name in faults)
    raise failure


def _words_of(message: str) -> str:
    return message.removeprefix("Value error, ")


def _field(name: str) -> str:
    lowered = name.lower().removeprefix("metricx_")
    return {"langfuse_host": "langfuse_base_url", "otel_service_name": "service"}.get(lowered, lowered)


def _variable(name: str) -> str:
    field = _field(name)
    alias = Settings.model_fields[field].validation_alias if field in Settings.model_fields else None
    if name.isupper():
        return name
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"METRICX_{field.upper()}"


def _plain(value: object) -> str:
    return (value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")).strip()


def is_url(value: str) -> bool:
    """Whether `value` is an http(s) URL with a host."""
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _is_dsn(value: str) -> bool:
    if not is_url(value):
        return False
    parts = urlsplit(value)
    return bool(parts.username) and parts.path.rpartition("/")[2].isdigit()


def _is_placeholder(value: str) -> bool:
    return value in ("xxx", "pk-lf-xxx", "sk-lf-xxx") or "://xxx@" in value or "://xxx." in value


def _installed(name: str) -> bool:
    return find_spec(_PACKAGES[name]) is not None


def _missing(name: str) -> str:
    return f"its SDK is not installed: pip install 'metricx-observe[{name}]'"
