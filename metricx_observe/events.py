"""Typed analytics events, and the rules of GA4 that RudderStack does not check.

What GA4 refuses it refuses in silence, so a name is checked when its class is defined and values when it is tracked.
Source of the rules: the collection limits and reserved names of GA4's Measurement Protocol reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidatorFunctionWrapHandler, field_validator

from .exceptions import ConfigurationError
from .interrupts import suppress_faults
from .normalise import shown_name

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_PREFIX = re.compile(r"_|ga_|google_|firebase_|gtag\.", re.I)
_PREFIXES = "_, ga_, google_, firebase_, gtag."
_RESERVED = re.compile(
    "ad_(activeview|click|exposure|impression|query)|adunit_exposure|app_(clear_data|exception|install|remove|update)|"
    "app_(store_refund|store_subscription_(cancel|convert|renew)|upgrade)|"
    "dynamic_link_(app_open|app_update|first_open)|error|first_(open|visit)|in_app_purchase|"
    "notification_(dismiss|foreground|open|receive)|os_update|screen_view|session_start|user_engagement",
    re.I,
)
MAX_PARAMETERS, MAX_NAME, MAX_VALUE = 25, 40, 100
MAX_USER_NAME, MAX_USER_VALUE = 24, 36


class Personal:
    """Marks a field as personal data: `email: Annotated[str, Personal]`. METRICX_PERSONAL_DATA decides about it."""


Id = Annotated[str, BeforeValidator(lambda value: value if value is None else str(value))]
"""An id that may be given as UUID or int; None stays None, and is left out."""


class Event(BaseModel):
    """Base of typed events: the class attribute `name` is the event's name, the fields are its properties.

    A missing or unknown field is a mistake in the code and raises at once. A value of the wrong type is a matter of
    data: it is kept and counted when the event is tracked, so that telemetry never fails a request.

    Raises:
        ConfigurationError: When the class is defined, for a name or fields that GA4 would drop in silence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: ClassVar[str] = ""
    personal: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields = cls.model_fields
        cls.personal = frozenset(name for name, field in fields.items() if Personal in field.metadata)
        faults = [*ga4_name_faults(cls.name), *ga4_parameter_faults(dict.fromkeys(fields))]
        if faults:
            raise ConfigurationError(f"event class {cls.__name__}: {'; '.join(faults)}")

    def properties(self) -> dict[str, Any]:
        """The fields as they are sent: excluded ones left out, serialisers of the class applied."""
        with suppress_faults():  # a value of the wrong type that a serialiser refuses
            return self.model_dump(warnings=False)
        return dict(self.__dict__)

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep_odd_values(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        with suppress_faults():
            return handler(value)
        return value


def ga4_name_faults(name: str) -> Iterator[str]:
    """What GA4 has against an event's name, in words that say what to type."""
    if not _NAME.fullmatch(name):
        yield f"GA4 wants a name of letters, digits and _, starting with a letter, at most {MAX_NAME} characters"
    if _RESERVED.fullmatch(name):
        yield "GA4 reserves this name"
    if _PREFIX.match(name):
        yield f"GA4 reserves names that start with {_PREFIXES}"


def ga4_user_faults(traits: Mapping[str, Any]) -> list[str]:
    """What GA4 has against a user's properties. Names properties, never values."""
    faults = []
    for name, value in traits.items():
        shown = shown_name(str(name))
        if len(str(name)) > MAX_USER_NAME:
            faults.append(f"GA4 takes {MAX_USER_NAME} characters a user property's name: {shown}")
        if _longest(value) > MAX_USER_VALUE:
            faults.append(f"GA4 takes {MAX_USER_VALUE} characters a user property, {shown} is longer")
    return faults


def _longest(value: object) -> int:
    """Characters of the longest text in a value, however deep."""
    if isinstance(value, str):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return max(map(_longest, inner), default=0)


def ga4_parameter_faults(properties: Mapping[str, Any]) -> list[str]:
    """What GA4 has against an event's properties. Names properties, never values."""
    faults = [f"GA4 takes {MAX_PARAMETERS} parameters an event"] if len(properties) > MAX_PARAMETERS else []
    for name, value in properties.items():
        if isinstance(name, str) and (not _NAME.fullmatch(name) or _PREFIX.match(name)):
            faults.append(
                f"GA4 drops the parameter {shown_name(name)}: letters, digits and _, a letter first, "
                f"at most {MAX_NAME} characters, no reserved prefix"
            )
        if _longest(value) > MAX_VALUE:
            faults.append(f"GA4 takes {MAX_VALUE} characters a value, {shown_name(str(name))} is longer")
    return faults


class UserSignedUp(Event):
    """A new registration."""

    name = "user_signed_up"
    email: Annotated[str, Personal]
    workspace_id: Id


class UserLoggedIn(Event):
    """A log-in."""

    name = "user_logged_in"
    email: Annotated[str, Personal]
    workspace_id: Id


class ConnectedGoogleAds(Event):
    """Google's OAuth is complete."""

    name = "connected_google_ads"
    account_id: Id
    account_name: str


class ConnectedMetaAds(Event):
    """Meta's OAuth is complete."""

    name = "connected_meta_ads"
    account_id: Id
    account_name: str


class ConnectedShopify(Event):
    """Shopify's OAuth is complete."""

    name = "connected_shopify"
    shop_domain: str


class CopilotQuerySent(Event):
    """A question to the copilot."""

    name = "copilot_query_sent"
    question_length: int
    workspace_id: Id


DOCUMENTED: Final[Mapping[str, type[Event]]] = {
    event.name: event
    for event in (UserSignedUp, UserLoggedIn, ConnectedGoogleAds, ConnectedMetaAds, ConnectedShopify, CopilotQuerySent)
}
"""By name, so that a plain `track("user_signed_up", {...})` knows which of its fields are personal."""
