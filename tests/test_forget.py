"""`metricx-observe forget`: a user's rows go from outbox, dead letters and receiver, and the vendors are told."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner, Result

from metricx_observe import cli
from metricx_observe.delivery.outbox.upkeep import export, opened
from metricx_observe.exceptions import ObserveError
from metricx_observe.observability import Observability
from metricx_observe.receiver.store import Store, default_store_path
from metricx_observe.settings import load_settings

from .receiver_server import Receiver, running_receiver
from .support import serving
from .test_receiver_store import signal

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there: what is put waits."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An application's environment, with an outbox and a state directory of its own. Gives the outbox's file."""
    path = tmp_path / "outbox.db"
    values = {
        "ENVIRONMENT": "production",
        "SENTRY_DSN": "http://public@127.0.0.1:9/1",
        "RUDDERSTACK_WRITE_KEY": "write",
        "RUDDERSTACK_DATA_PLANE_URL": NOWHERE,
        "LANGFUSE_PUBLIC_KEY": "pk-lf-forget",
        "LANGFUSE_SECRET_KEY": "sk-lf-forget",
        "LANGFUSE_BASE_URL": NOWHERE,
        "METRICX_OUTBOX_URL": f"sqlite:///{path}",
        "METRICX_RECEIVER_URL": NOWHERE,
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return path


def leave_signals(*users: str) -> None:
    """Of each user an event, an error and an LLM trace, from an application that has ended."""
    observability = Observability(load_settings({}))
    for user in users:
        with observability.context(user_id=user):
            observability.tracker.track("seen")
            observability.errors.capture_message("seen")
            with observability.llm.trace("seen"):
                pass
    observability.close(deadline_s=0.0)


def waiting(path: Path) -> str:
    """Everything that the outbox holds."""
    with opened(f"sqlite:///{path}") as outbox:
        return "".join(base64.b64decode(each["payload"]).decode() for each in export(outbox))


def forget(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["forget", *arguments])


def test_a_user_is_deleted_from_the_outbox_and_the_others_stay(environment: Path) -> None:
    """Events, errors and LLM traces that wait; the vendors' calls are printed, with the names of the keys only."""
    leave_signals("user-ann", "user-bob")
    assert waiting(environment).count("user-ann") == waiting(environment).count("user-bob") > 2
    result = forget("user-ann")
    assert result.exit_code == 0, result.output
    assert "outbox and dead letters: 3 messages deleted" in result.output
    assert "user-ann" not in waiting(environment)
    assert "user-bob" in waiting(environment)
    left = b"".join(file.read_bytes() for file in environment.parent.glob("outbox.db*"))
    assert b"user-bob" in left
    assert b"user-ann" not in left  # not in free pages and not in the log either
    for part in ("/v2/regulations", '"userId": "user-ann"', "userId=user-ann", "/traces", 'user.id:"user-ann"'):
        assert part in result.output
    assert "sk-lf-forget" not in result.output


def test_dead_letters_of_the_user_go_too(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a vendor has refused for good is kept for somebody to look at: also that is the user's."""

    async def refuse(request: Request) -> JSONResponse:
        return JSONResponse({}, 400)

    with serving(Starlette(routes=[Route("/v1/batch", refuse, methods=["POST"])])) as url:
        monkeypatch.setenv("RUDDERSTACK_DATA_PLANE_URL", url)
        observability = Observability(load_settings({}))
        observability.tracker.track("refused", user_id="user-ann")
        observability.flush(10)
        observability.close(deadline_s=0.0)
    with opened(f"sqlite:///{environment}") as outbox:
        assert [each["vendor"] for each in export(outbox) if each.get("status") == 400] == ["rudderstack"]
    assert "1 messages deleted" in forget("user-ann").output
    assert "user-ann" not in waiting(environment)


@contextmanager
def receiver_with(*users: str) -> Iterator[Receiver]:
    with running_receiver(token="of-the-receiver") as receiver:
        settings = {"environment": "development", "receiver_url": receiver.url, "outbox_url": "memory://"}
        keys = {"rudderstack_data_plane_url": receiver.url, "rudderstack_write_key": "of-the-receiver"}
        observability = Observability(load_settings({**settings, **keys}), tolerant=True)
        for user in users:
            observability.tracker.track("seen", user_id=user)
        receiver.wait_for(len(users), kind="track")
        observability.close()
        yield receiver


def test_a_running_receiver_deletes_the_users_signals(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its token; other users' signals stay."""
    leave_signals("ann")
    with receiver_with("ann", "bob") as receiver:
        monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
        assert "receiver (answered 401)" in str(forget("ann").exception)
        monkeypatch.setenv("METRICX_RECEIVER_TOKEN", "of-the-receiver")
        assert "receiver: 1 signals deleted" in forget("ann").output
        assert [each["user_id"] for each in receiver.signals()] == ["bob"]


def test_the_file_of_a_receiver_that_has_ended_is_cleaned(environment: Path) -> None:
    """Nothing of the user is left in its bytes either."""
    leave_signals("bob")
    path = default_store_path()
    store = Store(path)
    mine, other = signal(1, b'{"of":"ann-id"}'), signal(2, b'{"of":"bob-id"}')
    store.put(decoded_of(mine._replace(user_id="ann-id"), other._replace(user_id="bob-id")))
    store.close()
    assert "receiver: 1 signals deleted" in forget("ann-id").output
    left = b"".join(file.read_bytes() for file in path.parent.glob("receiver.db*"))
    assert b"ann-id" not in left
    assert b"bob-id" in left


def decoded_of(*signals: Any) -> Any:
    from metricx_observe.receiver.signals import Decoded

    return Decoded(list(signals))


def test_the_receiver_refuses_a_deletion_that_is_not_clear() -> None:
    """An empty user, or another parameter, must not clear everything."""
    with running_receiver() as receiver:
        for query in ({"user": ""}, {"kind": "error"}, {"user": "a", "kind": "error"}):
            assert receiver._invisibly("DELETE", "/api/signals", params=query).status_code == 400
        assert receiver._invisibly("DELETE", "/api/signals", params={"user": "a"}).json() == {"deleted": 0}


def vendors_api(seen: list[Any], traces: int = 3) -> Starlette:
    """RudderStack's and Langfuse's APIs as far as they are documented; `seen` gets what was asked."""

    async def regulate(request: Request) -> JSONResponse:
        seen.append((request.headers["authorization"], await request.json()))
        return JSONResponse([], 201)

    async def observations(request: Request) -> JSONResponse:
        query = dict(request.query_params)
        seen.append((request.headers["authorization"][:6], query))
        first = int(query.get("cursor", "0"))
        # two observations of each trace, one trace a page
        meta = {"cursor": str(first + 1)} if first + 1 < traces else {}
        return JSONResponse({"data": [{"traceId": f"t{first}"}] * 2, "meta": meta})

    async def delete(request: Request) -> JSONResponse:
        seen.append(await request.json())
        return JSONResponse({"message": "ok"})

    return Starlette(
        routes=[
            Route("/v2/regulations", regulate, methods=["POST"]),
            Route("/api/public/v2/observations", observations),
            Route("/api/public/traces", delete, methods=["DELETE"]),
        ]
    )


def test_with_vendors_the_calls_are_made(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RudderStack suppresses the user, and Langfuse deletes each of the user's traces once."""
    leave_signals("bob")
    seen: list[Any] = []
    with serving(vendors_api(seen)) as url:
        monkeypatch.setenv("LANGFUSE_BASE_URL", url)
        monkeypatch.setenv("RUDDERSTACK_API_URL", url)
        monkeypatch.setenv("RUDDERSTACK_ACCESS_TOKEN", "of-the-workspace")
        result = forget("ann", "--vendors")
        assert result.exit_code == 0, result.output
        assert "Langfuse: 3 traces deleted" in result.output
        assert seen[0] == ("Bearer of-the-workspace", {"regulationType": "suppress", "users": [{"userId": "ann"}]})
        assert seen[1] == ("Basic ", {"userId": "ann", "fields": "core", "limit": "1000"})
        assert [each["cursor"] for _, each in seen[2:4]] == ["1", "2"]
        assert seen[4:] == [{"traceIds": ["t0", "t1", "t2"]}]
        seen.clear()
        assert forget("ann", "--vendors", "--destination", "ga4").exit_code == 0
    regulation = {"regulationType": "suppress_with_delete", "destinationIds": ["ga4"], "users": [{"userId": "ann"}]}
    assert seen[0] == ("Bearer of-the-workspace", regulation)


def test_each_step_fails_alone_and_the_status_says_so(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No outbox, no token, an API that answers otherwise: the rest is done, and what is not is named without a key."""

    async def odd(request: Request) -> JSONResponse:
        return JSONResponse({"data": "no list"})

    app = Starlette(routes=[Route("/api/public/v2/observations", odd)])
    with serving(app) as url:
        monkeypatch.setenv("LANGFUSE_BASE_URL", url)
        result = forget("ann", "--vendors")
        assert result.exit_code == 1
        told = str(result.exception)
        assert "outbox (no outbox at" in told
        assert "RudderStack (RUDDERSTACK_ACCESS_TOKEN is not set" in told
        assert "Langfuse (its answer cannot be read)" in told
        for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("RUDDERSTACK_ACCESS_TOKEN", "of-the-workspace")
        monkeypatch.setenv("RUDDERSTACK_API_URL", NOWHERE)
        told = str(forget("ann", "--vendors").exception)
    assert "Langfuse (LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set)" in told
    assert "RudderStack (ConnectError)" in told
    assert "of-the-workspace" not in told


def test_an_empty_id_is_refused(environment: Path) -> None:
    """It would be nobody's, or everybody's."""
    assert isinstance(forget(" ").exception, ObserveError)


def test_scores_of_the_user_go_too(environment: Path) -> None:
    """A score names its user in its metadata."""
    observability = Observability(load_settings({}))
    with observability.context(user_id="ann"), observability.llm.trace("seen") as trace:
        trace.score("helpful", 1.0)
    observability.close(deadline_s=0.0)
    forget("ann")
    assert "ann" not in waiting(environment)


@pytest.mark.usefixtures("environment")
def test_what_is_printed_to_be_pasted_runs_nothing_of_the_user_id() -> None:
    """An id with the end of a line would end the comment that it stands in, and what follows would be a command."""
    printed = CliRunner().invoke(cli.app, ["forget", "ann\nrm -rf x\x1b[2J' \u202e"]).output
    assert "/v2/regulations" in printed
    assert not [each for each in printed.splitlines() if each.startswith("rm")]
    assert printed.replace("\n", "").isprintable()
