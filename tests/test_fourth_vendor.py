"""A vendor is one object: a fourth one, which nothing in the package knows, is a full member once it is registered."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from metricx_observe import ConfigurationError, Observability, cli, init_observability
from metricx_observe.delivery import Delivery, Message
from metricx_observe.delivery.channel import Described, Importance, Post
from metricx_observe.settings import Settings, load_settings
from metricx_observe.vendors import REGISTRY
from metricx_observe.vendors.vendor import Opened, Part, Target, Vendor, is_url, read_from

from .faults import FaultyVendor
from .support import call


class BeaconSettings(BaseSettings):
    beacon_url: Annotated[str | None, Part("url", is_url, "is no URL: type it with its scheme")] = read_from(
        "BEACON_URL"
    )
    beacon_token: Annotated[SecretStr | None, Part("key")] = read_from("BEACON_TOKEN")


class BeaconChannel:
    vendor = "beacon"
    max_messages, max_bytes, concurrency = 10, 1 << 20, 1

    def __init__(self, target: Target) -> None:
        self.local, self.away_hint, self.destination = target.state == "local", target.away_hint, "beacon#1"
        self._url, self._headers = target.url, {"authorization": target.key}

    def encode(self, record: Any) -> Sequence[Message]:
        return [Message("ping", json.dumps(record).encode())]

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self._url, self._headers, b"\n".join(payloads))

    def importance(self, kind: str) -> Importance:
        return Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        return {}

    def describe(self, kind: str, payload: bytes) -> Described:
        return Described("1", kind, json.loads(payload)["user"])


class Beacon(Vendor):
    name, label, title = "beacon", "pings", "Beacon"
    package, distribution, uses = "json", "beacon-sdk", {"json:JSONEncoder": "encode"}
    fields = BeaconSettings

    def local(self, url: str) -> Mapping[str, str]:
        return {"url": url, "key": "local"}

    def channels(self, settings: Any, target: Target, scrubber: Any, note: Any) -> Sequence[BeaconChannel]:
        return [BeaconChannel(target)]

    def open(self, settings: Any, target: Target, delivery: Delivery, **_: Any) -> Opened:
        return OpenBeacon(partial(delivery.put, self.name))


class OpenBeacon(Opened):
    closed = False

    def __init__(self, sink: Any) -> None:
        self.sink = sink

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyVendor]:
    """Where the fourth vendor's signals arrive. The three others have no keys."""
    monkeypatch.setitem(REGISTRY, "beacon", Beacon())
    monkeypatch.setattr(Observability, "default", None)
    vendor = FaultyVendor()
    for name, value in {
        "ENVIRONMENT": "production", "BEACON_URL": vendor.url, "BEACON_TOKEN": "t0ken", "METRICX_SERVICE": "tests",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield vendor
    vendor.close()


def test_it_is_in_the_start_up_line_and_in_the_states(
    endpoint: FaultyVendor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its label, as the others are."""
    monkeypatch.setenv("METRICX_OUTBOX_URL", "memory://")
    states = init_observability(logger=logging.getLogger("shop"))
    running = Observability.default
    assert running is not None
    running.close()
    assert states["pings"] == "on"
    assert [name for name, state in states.items() if not state] == ["sentry", "analytics", "langfuse"]
    assert "[STARTUP] Observability: pings" in caplog.messages


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("BEACON_URL", "nowhere", "BEACON_URL is no URL: type it with its scheme"),
        ("BEACON_TOKEN", "", "BEACON_TOKEN is not set but BEACON_URL is: set both or none"),
    ],
)
def test_its_wrong_variables_are_told(
    endpoint: FaultyVendor, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """It declares them; `settings` reads them. METRICX_DISABLED knows it too, by either name."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=told):
        Observability.from_env()
    monkeypatch.setenv("METRICX_DISABLED", "pings")
    assert Observability.from_env().vendors["beacon"].reason == "switched off by METRICX_DISABLED"
    assert isinstance(load_settings({"beacon_url": "https://b.example"}), Settings)


async def test_it_delivers_and_is_closed(endpoint: FaultyVendor, tmp_path: Path) -> None:
    """Through the outbox, counted in `status()` and at the health route; `close` ends it after delivery."""
    observability, app = Observability.from_env(outbox_url=f"sqlite:///{tmp_path}/outbox.db"), FastAPI()
    observability.install(app, health_path="/health/observability")
    beacon = observability.opened["beacon"]
    assert isinstance(beacon, OpenBeacon)
    beacon.sink({"user": "ann"}, 20)
    assert observability.flush(10)
    assert [json.loads(message) for message in endpoint.accepted] == [{"user": "ann"}]
    part = observability.status()["beacon"]
    assert (part["state"], part["delivered"]) == ("on", 1)
    answer = await call(app, "/health/observability", headers={"accept": "text/plain"})
    assert b'metricx_observe_delivered_total{vendor="beacon"} 1.0' in answer.body
    assert not beacon.closed
    observability.close()
    assert beacon.closed


def test_threads_deliver_where_another_process_would_not_know_it(
    endpoint: FaultyVendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """METRICX_DELIVERY=process: that one imports no code of the application's."""
    observability = Observability.from_env(outbox_url=f"sqlite:///{tmp_path}/outbox.db", delivery="process")
    observability.start()
    beacon = observability.opened["beacon"]
    assert isinstance(beacon, OpenBeacon)
    beacon.sink({"user": "ann"}, 20)
    assert observability.flush(20)
    assert [json.loads(message) for message in endpoint.accepted] == [{"user": "ann"}]
    assert "this process delivers itself" in caplog.text
    observability.close()


def test_the_command_line_knows_it(endpoint: FaultyVendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What waits for it is in `outbox status`, and `forget` deletes a user's and says what to do there."""
    monkeypatch.setenv("METRICX_OUTBOX_URL", f"sqlite:///{tmp_path}/outbox.db")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("METRICX_RECEIVER_URL", "http://127.0.0.1:9")
    endpoint.close()
    observability = Observability.from_env()
    for user in ("ann", "bob"):
        observability.start()
        observability.opened["beacon"].sink({"user": user}, 20)
    observability.close(0.0)
    assert "beacon" in CliRunner().invoke(cli.app, ["outbox", "status"]).output
    printed = CliRunner().invoke(cli.app, ["forget", "ann", "--vendors"]).output
    assert "outbox and dead letters: 1 messages deleted" in printed
    assert "# Beacon has no call that deletes a user" in printed
