"""A vendor as the rest of the package sees it: what it declares, where it goes by the settings, and what opens it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.extras import install_command
from metricx_observe.scrubber import Scrubber

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

    from .cli_erasure import Erasure


@dataclass(frozen=True, slots=True)
class Target:
    """What the settings say of one vendor: where its signals go, or why nowhere."""

    state: Literal["on", "local", "off", "fault"]
    url: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    reason: str = ""
    """Why it is off, or what is wrong: names the variable and what to type, never a value."""

    @property
    def is_open(self) -> bool:
        """Whether signals are taken for it."""
        return self.state in ("on", "local")

    @property
    def away_hint(self) -> str:
        """What to do while its address cannot be reached."""
        return "`metricx-observe dev` starts the local page" if self.state == "local" else ""


def is_url(value: str) -> bool:
    """Whether `value` is an http(s) URL with a host."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not re.search(r"\s", value)


def read_from(*variables: str, default: Any = None, **bounds: Any) -> Any:
    """A field of `Settings` that is read from these variables; the first that is set counts."""
    return Field(default=default, validation_alias=AliasChoices(*variables), **bounds)


@dataclass(frozen=True, slots=True)
class Part:
    """Marks a field of `Settings` that says where a vendor's signals go; without a default, the vendor needs it."""

    of_target: Literal["url", "key", "secret"]
    is_valid: Callable[[str], bool] = bool
    fault: str = ""
    """What is told where `is_valid` is false."""


class Variable(NamedTuple):
    """What is set of such a field."""

    name: str
    """As it is shown to whoever has to type it."""
    value: str
    part: Part
    is_needed: bool


class Opened:
    """A vendor that is open. What a vendor has no use for does nothing."""

    sink: Any = None
    """What its facade hands signals to."""

    def middleware_installed(self) -> None:
        """Our middleware sees the requests from now on."""

    def isolated(self) -> AbstractContextManager[None]:
        """A block that its own instrumentation does not see. For delivery's threads."""
        return nullcontext()

    def flush(self) -> None:
        """Hand over what its SDK holds itself."""

    def status(self) -> Mapping[str, Any]:
        """More of its part in `Observability.status()`."""
        return {}

    def stop(self, timeout_s: float) -> None:
        """Hand over for the last time: delivery is closed next."""

    def close(self) -> None:
        """Give back what is the process's: delivery is closed."""


class Vendor(ABC):
    """What a vendor declares. The functions that need its SDK import it: they run only where it is configured."""

    name: ClassVar[str]
    """In `status()`, METRICX_DISABLED and the outbox, and as the package's extra."""
    label: ClassVar[str]
    """In the start-up line and `init_observability()`."""
    title: ClassVar[str]
    """In texts for people."""
    facade: ClassVar[str] = ""
    """Whose signals it takes: errors, tracker or llm."""
    package: ClassVar[str]
    """Its SDK, as Python imports it."""
    distribution: ClassVar[str]
    """Its SDK, as pip calls it."""
    uses: ClassVar[Mapping[str, str]] = {}
    """By `module` or `module:Class` the names of the SDK's inside that we use: see `fit.py`."""
    fields: ClassVar[type[BaseSettings]]
    """Its part of `Settings`, some of them marked as a `Part` of its target."""
    options: ClassVar[str] = ""
    """The keyword of `Observability` that gives its SDK more options."""

    @abstractmethod
    def local(self, url: str) -> Mapping[str, str]:
        """The parts of a `Target` that is the local receiver at `url`, in the shape that its SDK takes."""

    @abstractmethod
    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[Channel]:
        """One channel for each of its endpoints. `note` counts a fault of a call that was mended while it was encoded.

        Raises ImportError where the SDK is not installed, or does not fit.
        """

    @abstractmethod
    def open(
        self, settings: Settings, target: Target, delivery: Delivery, *, scrubber: Scrubber, options: Mapping[str, Any],
        middleware: bool,
    ) -> Opened:  # fmt: skip
        """Start its SDK. `middleware`: whether ours sees the requests. Raises ConfigurationError."""

    def switches(self, settings: Settings) -> Mapping[str, bool]:
        """Its own variables that may switch it off, and whether they do."""
        return {}

    def refused(self, options: Mapping[str, Any]) -> str:
        """What of the options for its SDK may not be set, and what to type."""
        return ""

    def advice(self, settings: Settings) -> str:
        """What to say at start-up where it is on."""
        return ""

    def erasure(self) -> Erasure:
        """How `metricx-observe forget` deletes a user there."""
        from .cli_erasure import Erasure

        return Erasure(self)

    def target(self, settings: Settings) -> Target:
        """Where its signals go, or why nowhere. Says "fault" for what is set but cannot work."""
        given, testing = self.is_configured(settings), settings.mode == "test"
        off = {"METRICX_ENABLED": not settings.enabled, "METRICX_DISABLED": self.name in settings.disabled}
        for variable, is_off in {**off, **self.switches(settings)}.items():
            if is_off:
                return Target("off", reason=f"switched off by {variable}")
        variables = self._variables(settings)
        if given and (fault := next(filter(None, (_fault(each, variables) for each in variables)), "")):
            return Target("fault", reason=fault)
        if not given and settings.mode == "production":
            return Target("off", reason=f"not set: {', '.join(each.name for each in variables if each.is_needed)}")
        if not _is_installed(self.package):
            reason = f"its SDK is not installed ({self.package}): {install_command(self.name)}"
            return Target("fault" if given and not testing else "off", reason=reason)
        if given and not testing:
            parts = {each.part.of_target: each.value for each in variables}
            return Target("on", **{**parts, "url": parts["url"].rstrip("/")})
        return Target("on" if testing else "local", **self.local(settings.receiver_url))

    def is_configured(self, settings: Settings) -> bool:
        """Whether any variable is set that it needs."""
        return any(each.value for each in self._variables(settings) if each.is_needed)

    def _variables(self, settings: Settings) -> list[Variable]:
        found = []
        for field_name, each in self.fields.model_fields.items():
            for part in (mark for mark in each.metadata if isinstance(mark, Part)):
                first, *others = getattr(each.validation_alias, "choices", [field_name])
                name = f"{first} (or {', '.join(others)})" if others else first
                value = getattr(settings, field_name)
                text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
                found.append(Variable(name, text.strip(), part, each.default is None))
        return found


def _fault(variable: Variable, all_of_them: Sequence[Variable]) -> str:
    """What is wrong with a variable of a vendor that is configured."""
    name, value, part, _ = variable
    if not value:
        others = " and ".join(each.name for each in all_of_them if each.is_needed and each.name != name)
        return f"{name} is not set but {others} is: set both or none"
    if re.search(r"^(pk-lf-|sk-lf-)?xxx$|://xxx[@.]", value):
        return f"{name} is still the document's placeholder: type the value from the vendor's settings page"
    if not part.is_valid(value):
        return f"{name} {part.fault}"
    if re.search(r"[^!-~]", value):
        return f"{name} has characters that no key has: copy it again from the vendor's settings page"
    return ""


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
