"""Typed events and GA4's rules."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field, PlainSerializer, ValidationError

from metricx_observe.events import (
    DOCUMENTED,
    ConnectedGoogleAds,
    ConnectedMetaAds,
    ConnectedShopify,
    CopilotQuerySent,
    Event,
    Personal,
    UserLoggedIn,
    UserSignedUp,
    ga4_name_faults,
    ga4_parameter_faults,
)
from metricx_observe.exceptions import ConfigurationError


def test_what_the_class_excludes_is_not_sent() -> None:
    """pydantic's own `exclude` and serialisers hold; a value that a serialiser refuses is kept as it is."""

    class Paid(Event):
        name = "paid"
        holder: str = Field(exclude=True)
        amount: Annotated[float, PlainSerializer(lambda amount: round(amount, 2))]

    assert Paid(holder="Jane", amount=1.234).properties() == {"amount": 1.23}
    assert Paid.model_validate({"holder": "Jane", "amount": "much"}).properties()["amount"] == "much"


def test_the_documented_events() -> None:
    """Six events with the names and properties of the document; their addresses are personal."""
    fields = {name: tuple(event.model_fields) for name, event in DOCUMENTED.items()}
    assert fields == {
        "user_signed_up": ("email", "workspace_id"),
        "user_logged_in": ("email", "workspace_id"),
        "connected_google_ads": ("account_id", "account_name"),
        "connected_meta_ads": ("account_id", "account_name"),
        "connected_shopify": ("shop_domain",),
        "copilot_query_sent": ("question_length", "workspace_id"),
    }
    personal = {event for event in DOCUMENTED.values() if event.personal}
    assert personal == {UserSignedUp, UserLoggedIn}
    assert UserSignedUp.personal == {"email"}
    assert {ConnectedGoogleAds, ConnectedMetaAds, ConnectedShopify, CopilotQuerySent} < set(DOCUMENTED.values())


def test_ids_may_be_of_any_type() -> None:
    """A UUID or number as an id becomes text."""
    given: Any = UUID(int=1), 7
    assert UserSignedUp(email="a@b", workspace_id=given[0]).workspace_id == str(UUID(int=1))
    assert ConnectedGoogleAds(account_id=given[1], account_name="x").account_id == "7"


def test_a_missing_or_unknown_field_is_a_mistake_in_the_code() -> None:
    """It raises where the event is made; a value of the wrong type does not."""
    with pytest.raises(ValidationError):
        UserSignedUp(email="a@b")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        UserSignedUp(email="a@b", workspace_id="w", plan="pro")  # type: ignore[call-arg]
    odd: Any = "many"
    assert CopilotQuerySent(question_length=odd, workspace_id="w").question_length == odd


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("feature_used", True), ("connected_google_ads", True), ("A1", True), ("a" * 40, True),
        ("a" * 41, False), ("google_ads_connected", False), ("ga_x", False), ("firebase_x", False), ("_x", False),
        ("gtag.x", False), ("error", False), ("session_start", False), ("app_install", False), ("1st", False),
        ("feature-used", False), ("feature used", False), ("feature.used", False), ("", False), ("größe", False),
        ("errors", True),
    ],
)  # fmt: skip
def test_ga4s_names(name: str, fits: bool) -> None:
    """What GA4 drops in silence is named before: characters, length, reserved names and prefixes."""
    assert (list(ga4_name_faults(name)) == []) == fits


@pytest.mark.parametrize(
    ("properties", "faults"),
    [
        ({"a": 1, "b": "x" * 100, "c": None}, 0), ({f"p{n}": n for n in range(25)}, 0),
        ({f"p{n}": n for n in range(26)}, 1), ({"a": "x" * 101}, 1), ({"ga_x": 1, "_y": 1, "n" * 41: 1}, 3),
        ({1: 2, None: 3, ("a",): 4}, 0),
    ],
)  # fmt: skip
def test_ga4s_parameters(properties: dict[Any, Any], faults: int) -> None:
    """Parameters have a number, a length and reserved prefixes; the words never hold a value."""
    found = list(ga4_parameter_faults(properties))
    assert len(found) == faults
    assert "xxx" not in "".join(found)


def test_an_event_class_is_checked_when_it_is_defined() -> None:
    """A name or field that GA4 would drop is a ConfigurationError that names the class and the fault."""
    with pytest.raises(ConfigurationError, match=r"event class Bad: .*reserves"):

        class Bad(Event):
            """An event with a reserved name."""

            name = "session_start"

    with pytest.raises(ConfigurationError, match="google_x"):

        class AlsoBad(Event):
            """An event with a reserved parameter."""

            name = "fine"
            google_x: int

    class Good(Event):
        """An event with a personal field."""

        name = "good"
        phone: Annotated[str, Personal]
        plan: str = "free"

    assert Good.personal == {"phone"}
