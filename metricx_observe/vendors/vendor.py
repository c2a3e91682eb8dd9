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

from metricx_observe.delivery import Delivery, PortableChannel
from metricx_observe.extras import install_command
from metricx_observe.privacy import Scrubber

if TYPE_CHECKING:
    import httpx

    from metricx_observe.settings import Settings


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


def read_from(*names: str, default: Any = None, **bounds: Any) -> Any:
    """A field of `Settings` that is read from these variables; the first that is set counts."""
    return Field(default=default, validation_alias=AliasChoices(*names), **bounds)


class Variable(NamedTuple):
    """A variable that says where a vendor's signals go."""

    part: Literal["url", "key", "secret"]
    """Of `Target`."""
    name: str
    """As it is shown to whoever has to type it."""
    field: str
    """Of `Settings`."""
    is_valid: Callable[[str], bool] = bool
    fault: str = ""
    """What is told where `is_valid` is false."""
    has_default: bool = False
    """Without it the vendor is not configured."""


class ForgetOption(NamedTuple):
    """An option of `metricx-observe forget`."""

    name: str
    help: str
    default: Any = ""
    type: Any = str
    variable: str | None = None


class Opened:
    """A vendor that is open. What a vendor has no use for does nothing."""

    sink: Any = None
    """What its facade hands signals to."""

    def middleware_installed(self) -> None:
        """The middleware sees the requests from now on."""

    def isolated(self) -> AbstractContextManager[None]:
        """A block that the vendor's own instrumentation does not see. For delivery's threads."""
        return nullcontext()

    def flush(self) -> None:
        """Hand over what the vendor's SDK holds itself."""

    def status(self) -> Mapping[str, Any]:
        """More of its part in `Observability.status()`."""
        return {}

    def stop(self, timeout_s: float) -> None:
        """Hand over for the last time, and end what could put more. Delivery is closed after it."""

    def close(self) -> None:
        """Give back what is the process's. Delivery is closed."""


class Vendor(ABC):
    """What a vendor declares. The functions that need its SDK import it: they run only where it is configured."""

    name: ClassVar[str]
    """In `status()`, METRICX_DISABLED, the outbox, and as the package's extra."""
    label: ClassVar[str]
    """In the start-up line and `init_observability()`."""
    title: ClassVar[str]
    """In texts for people."""
    facade: ClassVar[str] = ""
    """The one whose signals it takes: errors, tracker or llm."""
    streams: ClassVar[tuple[str, ...]] = ()
    """What its channels are called in the outbox, where there is more than one."""
    package: ClassVar[str]
    """The SDK as it is imported."""
    distribution: ClassVar[str]
    """The SDK as pip calls it."""
    uses: ClassVar[tuple[str, ...]] = ()
    """`module:name` of what we use of the SDK's inside: see `fit.py`."""
    fields: ClassVar[type[BaseSettings]]
    """The part of `Settings` that is the vendor's."""
    variables: ClassVar[tuple[Variable, ...]]
    options: ClassVar[str] = ""
    """The keyword of `Observability` with which the application may give its SDK more options."""
    forget_options: ClassVar[tuple[ForgetOption, ...]] = ()

    @abstractmethod
    def local(self, url: str) -> Mapping[str, str]:
        """The parts of a `Target` that is the local receiver at `url`, in the shape that the SDK takes."""

    @abstractmethod
    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[PortableChannel]:
        """What delivery needs to know: one channel for each of its endpoints.

        Args:
            note: Counts a fault of a call that was mended while it was encoded.

        Raises:
            ImportError: The SDK is not installed, or does not fit.
        """

    @abstractmethod
    def open(
        self, settings: Settings, target: Target, delivery: Delivery, *, scrubber: Scrubber, options: Mapping[str, Any],
        middleware: bool,
    ) -> Opened:  # fmt: skip
        """Start the SDK. `middleware`: whether ours sees the requests.

        Raises:
            ConfigurationError: It is configured wrongly; says what to type.
        """

    def switches(self, settings: Settings) -> Mapping[str, bool]:
        """Its own variables that may switch it off, and whether they do."""
        return {}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises ConfigurationError for what may not be set; called before anything is opened."""
        return

    def advice(self, settings: Settings) -> str:
        """What to say at start-up where the vendor is on."""
        return ""

    def forget_commands(
        self, settings: Settings, user_id: str, options: Mapping[str, Any]
    ) -> Sequence[str]:  # fmt: skip
        """Lines of shell that delete a user there, with the names of keys in the place of keys."""
        return [f"# {self.title} has no call that deletes a user"]

    def forget(
        self, target: Target, user_id: str, options: Mapping[str, Any], client: Callable[..., httpx.Client]
    ) -> str:  # fmt: skip
        """Delete a user there. Returns what was done; "" where there is no such call. Raises ObserveError."""
        return ""

    def target(self, settings: Settings) -> Target:
        """Where its signals go, or why nowhere. Says "fault" for what is set but cannot work."""
        keys, testing = self._keys(settings), settings.mode == "test"
        given = any(keys.values())
        switches = {
            "METRICX_ENABLED": not settings.enabled,
            "METRICX_DISABLED": self.name in settings.disabled,
            **self.switches(settings),
        }
        if off := [name for name, is_off in switches.items() if is_off]:
            return Target("off", reason=f"switched off by {off[0]}")
        if given and (fault := self._fault(settings)):
            return Target("fault", reason=fault)
        if not given and settings.mode == "production":
            return Target("off", reason=f"not set: {', '.join(keys)}")
        if not _is_installed(self.package):
            reason = f"its SDK is not installed ({self.package}): {install_command(self.name)}"
            return Target("fault" if given and not testing else "off", reason=reason)
        if given and not testing:
            parts = {each.part: _value(settings, each) for each in self.variables}
            return Target("on", **{**parts, "url": parts["url"].rstrip("/")})
        return Target("on" if testing else "local", **self.local(settings.receiver_url))

    def is_configured(self, settings: Settings) -> bool:
        """Whether any of its keys is set."""
        return any(self._keys(settings).values())

    def _keys(self, settings: Settings) -> dict[str, str]:
        return {each.name: _value(settings, each) for each in self.variables if not each.has_default}

    def _fault(self, settings: Settings) -> str:
        """What is wrong with the first variable that is wrong."""
        keys = self._keys(settings)
        for each in self.variables:
            value = _value(settings, each)
            if not value:
                others = " and ".join(name for name in keys if name != each.name)
                return f"{each.name} is not set but {others} is: set both or none"
            if re.search(r"^(pk-lf-|sk-lf-)?xxx$|://xxx[@.]", value):
                told = "is still the document's placeholder: type the value from the vendor's settings page"
                return f"{each.name} {told}"
            if not each.is_valid(value):
                return f"{each.name} {each.fault}"
            if re.search(r"[^!-~]", value):
                return f"{each.name} has characters that no key has: copy it again from the vendor's settings page"
        return ""


def _value(settings: Settings, variable: Variable) -> str:
    """What a variable is set to; "" where it is not."""
    value = getattr(settings, variable.field)
    return (value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")).strip()


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
