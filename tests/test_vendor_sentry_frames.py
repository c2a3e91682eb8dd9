"""Source lines and locals that we put on errors ourselves are those that Sentry's SDK would have sent."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from sentry_sdk.client import Client
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import ignore_logger, unignore_logger
from sentry_sdk.scope import Scope, use_isolation_scope, use_scope
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.serializer import serialize
from sentry_sdk.transport import Transport

from metricx_observe.vendors.sentry.serialise import prepare

from .receiver_server import Receiver
from .support import observed, with_option

Sent = list[dict[str, Any]]


def fail(depth: int, rows: list[dict[str, int]]) -> None:
    """Raise through some frames that hold the same list, a text, numbers and a deep value."""
    text, flag, deep = "it's" + " long" * 30, depth > 1, {"a": {"b": {"c": {"d": {"e": [1]}}}}}
    if not depth:
        raise ValueError(f"{text} {flag} {len(deep)}")
    fail(depth - 1, rows)


def plainly() -> Exception:
    """An error with 20 frames."""
    try:
        fail(18, [{"id": number} for number in range(12)])
    except ValueError as error:
        return error
    raise AssertionError


def chained() -> Exception:
    """An error with a cause that has a cause, through the same function each time."""
    error: Exception | None = None
    for number in range(3):
        try:
            try:
                fail(number, [{"id": number}])
            except ValueError as raised:
                raise KeyError(number) from (error or raised)
        except KeyError as raised:
            error = raised
    assert error is not None
    return error


def grouped() -> Exception:
    """A group of errors."""
    return ExceptionGroup("several", [plainly(), chained()])


class Kept(Transport):
    """A transport that keeps the events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: Sent = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep it."""
        event = envelope.get_event()
        if event is not None:
            self.events.append(orjson.loads(orjson.dumps(event)))


def by_the_sdk(error: Exception, **options: Any) -> dict[str, Any]:
    """The event that the SDK makes of an error by itself."""
    transport, scope = Kept(), Scope()
    dsn = "http://key@sentry.example/1"
    scope.set_client(Client(dsn=dsn, transport=transport, default_integrations=False, **options))
    with use_isolation_scope(Scope()), use_scope(scope):
        sentry_sdk.capture_exception(error)
    return transport.events[0]


def frames(event: dict[str, Any]) -> list[dict[str, Any]]:
    """All frames of an event's exceptions."""
    return [frame for value in event["exception"]["values"] for frame in value.get("stacktrace", {}).get("frames", [])]


def seen(receiver: Receiver, error: Exception, **options: Any) -> dict[str, Any]:
    """What `before_send` is given for an error that is reported in a job, before anything is scrubbed."""
    events: Sent = []

    def keep(event: Any, hint: Any) -> Any:
        events.append(orjson.loads(orjson.dumps(event)))
        return event

    given = {"before_send": keep, **options}
    with observed(receiver, sentry_options=given) as observability, observability.context(user_id=uuid4().hex):
        assert observability.errors.capture_exception(error) is not None
    return events[0]


@pytest.mark.parametrize("make", [plainly, chained, grouped])
def test_frames_are_those_of_the_sdk(receiver: Receiver, make: Any) -> None:
    """Source lines, locals and all else of each frame, of causes too; an exception group is left to the SDK."""
    error = make()
    ours, theirs = frames(seen(receiver, error)), frames(by_the_sdk(error, include_source_context=True))
    assert len(ours) == len(theirs) > 1
    for mine, wanted in zip(ours, theirs, strict=True):
        assert mine == wanted
        assert {"context_line", "pre_context", "vars"} <= mine.keys()


@pytest.mark.parametrize(
    "options",
    [
        {"include_local_variables": False}, {"include_source_context": False}, {"max_value_length": 10},
        {"max_value_length": 60},
        {"custom_repr": lambda value: "shown" if isinstance(value, str) else None}, {"add_full_stack": True},
        pytest.param({"data_collection": {"stack_frame_variables": False}}, marks=with_option("data_collection")),
    ],
    ids=["no locals", "no source", "very short", "short", "own repr", "full stack", "data collection"],
)  # fmt: skip
def test_the_sdks_own_options_hold(receiver: Receiver, options: dict[str, Any]) -> None:
    """What the application says of locals and source is done, whoever does it."""
    error = plainly()
    ours, theirs = frames(seen(receiver, error, **options)), frames(by_the_sdk(error, **options))
    names = ["vars", "function", "lineno"]
    if options != {"max_value_length": 10}:  # that cuts the files' names as well
        names.append("context_line")
    assert [{name: mine.get(name) for name in names} for mine in ours[-19:]] == [
        {name: wanted.get(name) for name in names} for wanted in theirs[-19:]
    ]


def test_a_logged_error_has_locals_and_source(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK captures itself comes complete, with modules and the SDK's name."""
    events: Sent = []
    given = {"before_send": lambda event, hint: events.append(event)}
    with observed(receiver, sentry_options=given) as observability, observability.context(user_id="u1"):
        logging.getLogger("shop").error("it failed", exc_info=plainly())
    (event,) = events
    assert frames(event)[-1]["vars"]["depth"] == "0"
    assert "raise ValueError" in frames(event)[-1]["context_line"]
    assert event["modules"]["fastapi"]
    assert event["sdk"]["name"].startswith("sentry.python")
    assert event["user"] == {"id": "u1"}
    assert "it failed" in caplog.text


def test_the_applications_own_event_scrubber_sees_the_locals(receiver: Receiver) -> None:
    """An `event_scrubber` in `sentry_options` filters them as it does with the SDK alone."""
    scrubber = EventScrubber(denylist=["text"], recursive=True)
    values = [frame["vars"] for frame in frames(seen(receiver, plainly(), event_scrubber=scrubber))[1:]]
    assert len(values) == 19
    assert {value["text"] for value in values} == {"[Filtered]"}
    assert values[0]["depth"] == "18"


def test_what_an_event_processor_takes_off_stays_off(receiver: Receiver) -> None:
    """Locals never come back, and never stand on another frame; what it adds to the user stays."""

    def process(event: Any, hint: Any) -> Any:
        stack = event["exception"]["values"][0]["stacktrace"]
        del stack["frames"][5]
        stack["frames"][-1].pop("vars")
        event["user"]["plan"] = "pro"
        event["transaction"] = "mine"
        return event

    error = plainly()
    with sentry_sdk.isolation_scope() as scope:
        scope.add_event_processor(process)
        event = seen(receiver, error)
    assert "vars" not in frames(event)[-1]
    # the first frame is this file's `plainly`, and the frame of depth 14 was taken out
    assert [frame["vars"]["depth"] for frame in frames(event)[1:-1]] == [
        str(depth) for depth in range(18, 0, -1) if depth != 14
    ]
    assert (event["user"]["plan"], event["transaction"]) == ("pro", "mine")


def test_loggers_that_the_application_ignores_use_nothing_up(receiver: Receiver) -> None:
    """An exception that such a logger logs first is still one of the ten that are sent."""
    ignore_logger("noisy*")
    try:
        with observed(receiver) as observability, observability.context(user_id=(user := uuid4().hex)):
            for _ in range(10):
                error = plainly()
                logging.getLogger("noisy.shop").error("ignored", exc_info=error)
                observability.errors.capture_exception(error)
            assert observability.flush(10)
            assert len(receiver.signals(kind="error", user=user)) == 10
    finally:
        unignore_logger("noisy*")


def test_an_event_of_the_applications_own_stays_as_it_was(receiver: Receiver) -> None:
    """`sentry_sdk.capture_event` with a dict of the application's own leaves all in it, and shares nothing with it."""
    inner = {"b": 1}
    event: Any = {"message": "m", "level": "error", "contexts": {"a": inner}, "tags": {"t": "1"},
                  "exception": {"values": [{"type": "E", "stacktrace": {"frames": [{"function": "f"}]}}]}}  # fmt: skip
    before = orjson.loads(orjson.dumps(event))
    events: Sent = []
    given = {"before_send": lambda event, hint: events.append(event)}
    with observed(receiver, sentry_options=given) as observability, observability.context(user_id="u1"):
        sentry_sdk.capture_event(event)
    assert all(event[key] == before[key] for key in ("message", "level", "exception"))
    assert event["contexts"]["a"] is inner
    assert inner == {"b": 1}
    assert events[0]["contexts"]["a"] == inner
    assert events[0]["contexts"]["a"] is not inner
    assert frames(events[0])[0]["function"] == "f"


def test_own_frames_are_told_wherever_the_process_runs(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK knows the working directory only: elsewhere the application's frames would lose their locals."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    own, *theirs = frames(seen(receiver, raised.value))
    assert own["in_app"]
    assert "own" not in own["vars"]
    assert "tmp_path" in own["vars"]
    assert theirs
    assert not any(frame["in_app"] or "vars" in frame for frame in theirs)


def test_sdk_what_says_how_it_is_shown_is_taken_as_it_is() -> None:
    """The serialiser asks `__sentry_repr__`, which saves its walk through what is JSON already."""
    event: dict[str, Any] = {"tags": {"a": {"b": [1]}}, "exception": {"values": [{"stacktrace": {"frames": []}}]}}
    prepare(event, as_it_is=True)
    event["tags"]["a"]["when"] = {1, 2}  # by a processor that comes later
    shown = serialize(event)
    assert type(shown["tags"]) is type(shown["exception"]["values"][0]["stacktrace"]) is dict
    assert shown["tags"] == {"a": {"b": [1], "when": [1, 2]}}
