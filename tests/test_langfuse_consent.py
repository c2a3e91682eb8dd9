"""The application's own Langfuse spans on the wire: consent at a span's end counts, and no text goes unscrubbed."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import get_client, observe

from metricx_observe import Observability
from metricx_observe.context import Context

from .receiver_server import Receiver
from .support import observed

CONTENT = ("their question", "their answer")


@pytest.fixture
def observability(receiver: Receiver) -> Iterator[Observability]:
    """One that sends to the receiver."""
    with observed(receiver) as running:
        running.start()
        yield running


def arrived(receiver: Receiver, observability: Observability, user: str, count: int = 1) -> str:
    """What a user's spans say, as JSON."""
    assert observability.flush(10)
    return orjson.dumps([each["payload"] for each in receiver.wait_for(count, user=user)]).decode()


def _block(change: Callable[[], object]) -> None:
    with get_client().start_as_current_observation(name="s", as_type="generation", input=CONTENT[0]) as span:
        change()
        span.update(output=CONTENT[1])


def _decorated(change: Callable[[], object]) -> None:
    @observe(name="s")
    def step(question: str) -> str:
        change()
        return CONTENT[1]

    step(CONTENT[0])


def _by_hand(change: Callable[[], object]) -> None:
    span = get_client().start_observation(name="s", input=CONTENT[0])
    change()
    span.update(output=CONTENT[1])
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()


def _conventions(change: Callable[[], object]) -> None:
    """The names of other instrumentations, as attributes and in events."""
    with get_client().start_as_current_observation(name="s") as span:
        names = ("gen_ai.prompt.0.content", "gen_ai.input.messages", "input.value", "llm.input_messages.0.content")
        span._otel_span.set_attributes(dict.fromkeys(names, CONTENT[0]))
        span._otel_span.add_event("gen_ai.choice", {"message": CONTENT[1]})
        change()


STYLES = {"a block": _block, "decorated": _decorated, "ended by another thread": _by_hand, "others": _conventions}
each_style = pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
Style = Callable[[Callable[[], object]], None]


@each_style
@pytest.mark.parametrize("under_ours", [True, False])
@pytest.mark.parametrize(
    ("before", "at_the_end"),
    [(None, False), (True, False), (False, False), (False, True), (None, None), (None, True)],
)
def test_consent_at_the_end_counts(
    receiver: Receiver, observability: Observability, style: Style, under_ours: bool,
    before: bool | None, at_the_end: bool | None,
) -> None:  # fmt: skip
    """Withdrawn inside the block: neither prompt nor answer. Given inside it: both. Times and user stay."""
    user = uuid4().hex
    with observability.context(user_id=user) as context:
        context.set_consent(llm_content=before)

        def change() -> None:
            context.set_consent(llm_content=at_the_end)

        if under_ours:
            with observability.llm.trace("ours", input=CONTENT[0]):
                style(change)
        else:
            style(change)
    text = arrived(receiver, observability, user, 1 + under_ours)
    assert [content in text for content in CONTENT] == [at_the_end is not False] * 2
    assert "no_content" not in text
    assert user in text


def test_who_is_bound_at_the_end_is_on_the_span(receiver: Receiver, observability: Observability) -> None:
    """A user who is bound inside the block, as authentication in a dependency does."""
    user = uuid4().hex
    with observability.context() as context:
        _block(lambda: context.bind_user(user, workspace_id="w-1"))
    text = arrived(receiver, observability, user)
    assert "workspace:w-1" in text


def test_a_span_keeps_to_its_own_request(receiver: Receiver, observability: Observability) -> None:
    """It may end while another request runs on the thread, which allowed something else."""
    first, second = uuid4().hex, uuid4().hex
    with observability.context(user_id=first) as context:
        context.set_consent(llm_content=False)
        span = get_client().start_observation(name="s", input=CONTENT[0])
    with observability.context(user_id=second) as other:
        assert isinstance(other, Context)
        other.set_consent(llm_content=True)
        span.end()
    assert CONTENT[0] not in arrived(receiver, observability, first)


def test_every_text_of_a_span_is_scrubbed(receiver: Receiver, observability: Observability) -> None:
    """Its name, its events with their names and attributes, its status, its attributes' names."""
    user, key = uuid4().hex, f"sk-ant-api03-{secrets.token_urlsafe(30)}"
    start = get_client().start_as_current_observation
    with observability.context(user_id=user), start(name=f"with {key}", metadata={"password": key}) as span:
        inside: Any = span._otel_span
        inside.add_event(f"called with {key}", {"token": key, key: 1})
        inside.set_attribute(f"of {key}", "x")
        inside.record_exception(ValueError(f"no {key}"))
        span.update(level="ERROR", status_message=f"password={key}")
    text = arrived(receiver, observability, user)
    assert key not in text
    assert "called with [scrubbed vendor_key" in text
    assert Key.OBSERVATION_LEVEL in text
