"""What a signal says is what was true when it was made, whatever happens before somebody encodes it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import FastAPI

from metricx_observe import Observability
from metricx_observe.context import bind_user, current_cell, set_consent, set_tag
from metricx_observe.delivery.outbox.upkeep import export, opened
from metricx_observe.settings import load_settings

from .receiver_server import Receiver
from .support import call, observed

ALLOWED = ("event_id", "exception", "level", "message", "platform", "timestamp", "type", "start_timestamp", "contexts")


async def one(receiver: Receiver, app: FastAPI, observability: Observability, path: str, kind: str) -> dict[str, Any]:
    """The one signal of this kind of a request."""
    run = uuid4().hex
    await call(app, path, headers={"x-request-id": run, "sentry-trace": f"{'a' * 32}-{'b' * 16}-1"})
    await asyncio.to_thread(observability.flush, 10)
    (found,) = [signal for signal in receiver.signals(kind=kind) if run in json.dumps(signal)]
    payload: dict[str, Any] = found["payload"]
    return payload


@pytest.mark.parametrize("touch", [lambda: None, lambda: sentry_sdk.set_tag("touched", "yes")], ids=["plain", "sdk"])
async def test_a_task_that_outlives_its_request_changes_nothing_of_its_transaction(
    receiver: Receiver, touch: Callable[[], None]
) -> None:
    """Its user, consent, tags and spans are of its own signals."""
    app, tasks = FastAPI(), set()
    with observed(receiver, traces_sample_rate=1.0, traces_max_per_second=1000) as observability:
        observability.install(app)

        async def later() -> None:
            cell = current_cell()
            assert cell is not None
            assert cell.info is not None
            with sentry_sdk.start_span(op="late", name="late"):
                while not cell.info.ended:
                    await asyncio.sleep(0)
            bind_user("mallory", email="mallory@example.com", workspace_id="other")
            set_tag("late", "yes")
            set_consent(analytics=False)
            sentry_sdk.set_tag("late", "yes")

        @app.get("/")
        async def route() -> None:
            touch()
            bind_user("ann", workspace_id="w1")
            tasks.add(asyncio.create_task(later()))

        event = await one(receiver, app, observability, "/", "transaction")
    assert event["user"] == {"id": "ann"}
    assert event["tags"]["workspace_id"] == "w1"
    assert "late" not in json.dumps(event)


def test_an_attached_file_is_read_at_the_call(tmp_path: Path) -> None:
    """What it holds later is not what it held; one that Sentry would not take is not read at all."""
    small, large, outbox_url = tmp_path / "small.txt", tmp_path / "large.bin", f"sqlite:///{tmp_path}/outbox.db"
    small.write_text("what it held")
    with large.open("wb") as file:
        file.truncate(1 << 30)
    given = {"environment": "development", "receiver_url": "http://127.0.0.1:9", "outbox_url": outbox_url}
    observability = Observability(load_settings(given))
    observability.start()
    sentry_sdk.capture_message("first")  # the next one waits for the writer
    with sentry_sdk.new_scope() as scope:
        scope.add_attachment(path=str(small))
        scope.add_attachment(path=str(large))
        scope.add_attachment(path=str(tmp_path / "missing.txt"))
        sentry_sdk.capture_message("attached")
    small.write_text("changed")
    observability.close()
    with opened(outbox_url) as outbox:
        stored = b"".join(base64.b64decode(each["payload"]) for each in export(outbox))
    assert stored.count(b"what it held") == 1
    assert b"changed" not in stored
    assert b"[file of 1073741824 bytes, too large to be sent]" in stored


@pytest.mark.parametrize("hook", ["before_send", "processor"])
async def test_a_hook_may_send_any_part_of_an_event(receiver: Receiver, hook: str) -> None:
    """An allow-list sees nothing of ours, and what it leaves is scrubbed by the request's own rules."""
    token, keys = f"hunter2-{uuid4().hex}", set[str]()

    def allowed(event: Any, hint: Any) -> Any:
        keys.update(event)
        kept = {key: event[key] for key in ALLOWED if key in event}
        return {**kept, "extra": {"run": event["tags"]["request_id"]}}

    options = {"before_send": allowed, "before_send_transaction": allowed} if hook == "before_send" else {}
    app = FastAPI()
    with observed(receiver, traces_sample_rate=1.0, sentry_options=options) as observability:
        observability.install(app, consent=lambda _: False)
        observability.start()

        @app.get("/reset/{token}")
        async def reset(token: str) -> None:
            if hook == "processor":
                sentry_sdk.get_isolation_scope().add_event_processor(allowed)
            raise RuntimeError(f"ann@example.com has no {token}")

        event = await one(receiver, app, observability, f"/reset/{token}", "error")
    assert not [key for key in keys if "metricx" in key]
    (raised,) = event["exception"]["values"]
    assert raised["value"].startswith("[dropped email] has no [scrubbed name")
    assert token not in json.dumps(event)


async def test_a_hook_may_leave_the_id_out(receiver: Receiver) -> None:
    """Without it the SDK could send nothing; the event keeps the one that was returned."""
    with observed(receiver, sentry_options={"before_send": lambda event, hint: {"message": "all"}}) as observability:
        event_id = observability.errors.capture_message("x")
        assert event_id is not None
        assert await asyncio.to_thread(observability.flush, 10)
    assert event_id in [signal["id"] for signal in receiver.signals(kind="error") if signal["name"] == "all"]
