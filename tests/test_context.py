"""The cell: who is bound where, and what travels with a job."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route, Router

from metricx_observe import context as contexts
from metricx_observe.context import (
    Consent,
    Context,
    RequestContext,
    User,
    Workspace,
    bind_user,
    bind_workspace,
    carry,
    current,
    current_cell,
    detached,
    job_cell,
    restore,
    set_consent,
    set_tag,
    use_cell,
)
from metricx_observe.ids import printable, text_id, valid_request_id, valid_trace_id
from metricx_observe.request.facts import RequestInfo, first_headers


class Hostile:
    """A value of which nothing can be read."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.fixture
def cell() -> Context:
    return job_cell()


@pytest.fixture
def secret() -> Iterator[bytes]:
    """METRICX_CARRY_SECRET, as `Observability` sets it."""
    contexts.hooks.carry_secret = b"a shared secret"
    yield contexts.hooks.carry_secret
    contexts.hooks.carry_secret = None


def test_the_same_user_again_merges_fields(cell: Context) -> None:
    """What an earlier dependency knew stays, what is new is added."""
    cell.bind_user("alice", email="alice@example.com", traits={"plan": "pro"}, workspace_id="acme")
    cell.bind_user("alice", traits={"seats": 3})
    assert cell.user == User("alice", "alice@example.com", {"plan": "pro", "seats": 3})
    assert cell.workspace == Workspace("acme")


def test_another_user_replaces_everything_of_the_first(cell: Context) -> None:
    """Neither e-mail, traits nor workspace of one user are ever on another."""
    cell.bind_user("alice", email="alice@example.com", traits={"plan": "pro"}, workspace_id="acme")
    cell.bind_user("bob")
    assert (cell.user, cell.workspace) == (User("bob"), None)


def test_a_workspace_that_was_bound_first_stays_with_the_user(cell: Context) -> None:
    """A dependency may know the workspace before who it is; its name is kept, and another id replaces it."""
    cell.bind_workspace("acme", name="Acme")
    cell.bind_user("alice", workspace_id="acme")
    assert cell.workspace == Workspace("acme", "Acme")
    cell.bind_user("alice", workspace_id="other")
    assert cell.workspace == Workspace("other")


@pytest.mark.parametrize("nobody", [None, "", "  ", "\n", Hostile()])
def test_a_blank_id_unbinds(cell: Context, nobody: object) -> None:
    """None, blanks and what has no text are nobody, and raise nothing."""
    cell.bind_user("alice", workspace_id="acme")
    cell.bind_user(nobody, email="alice@example.com", workspace_id="acme")
    assert (cell.user, cell.workspace) == (None, None)
    cell.bind_workspace(nobody)
    assert cell.workspace is None


@pytest.mark.parametrize(
    ("id", "text"),
    [
        (7, "7"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("a\nb", "a b"),
        (" padded ", "padded"),
        ("x" * 300, "x" * 200),
        (0, "0"),
    ],
)
def test_an_id_becomes_one_line_of_at_most_200_characters(cell: Context, id: object, text: str) -> None:
    """Langfuse drops longer user ids, and a line break breaks log records and tags."""
    cell.bind_user(id)
    assert cell.user == User(text)


def test_odd_traits_are_left_out(cell: Context) -> None:
    """What is no mapping binds nothing, and raises nothing."""
    cell.bind_user("alice", traits=["no", "mapping"])  # type: ignore[arg-type]
    assert cell.user == User("alice")


def test_tags_and_consent_add_to_what_is_there(cell: Context) -> None:
    """Keys have at most 32 characters and values 200, Sentry's limits; a consent that is not given stays."""
    cell.set_tag("plan", "pro\n")
    cell.set_tag("k" * 40, 7)
    cell.set_tag(None, Hostile())  # type: ignore[arg-type]
    cell.set_consent(analytics=True)
    cell.set_consent(llm_content=False)
    assert cell.state.tags == {"plan": "pro", "k" * 32: "7", "unnamed": ""}
    assert cell.state.consent == Consent(analytics=True, llm_content=False)


def test_threads_that_bind_at_once_lose_nothing(cell: Context) -> None:
    """Each of 8 threads sets 50 tags: all are there."""

    def work(number: int) -> None:
        for each in range(50):
            cell.set_tag(f"{number}-{each}", each)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cell.state.tags) == 400


def test_the_state_is_immutable_for_whoever_took_it(cell: Context) -> None:
    """A record keeps the context of its time, whatever is bound later."""
    cell.bind_user("alice", traits={"plan": "pro"})
    before = cell.state
    cell.bind_user("alice", traits={"plan": "free"})
    cell.set_tag("a", 1)
    assert before.user == User("alice", None, {"plan": "pro"})
    assert before.tags == {}


def test_a_cell_is_shared_by_every_copy_of_its_context() -> None:
    """What a thread or task of the request binds, the request has."""
    with use_cell(job_cell()) as cell:
        contextvars.copy_context().run(bind_user, "alice")
        state = current()
        assert state is not None
        assert state.user == User("alice")
        assert current_cell() is cell
    assert current() is None


def test_outside_a_request_nothing_bound_reaches_another_task() -> None:
    """Each function binds to a new cell of the current Context: a copy of it keeps what it had."""

    def outside() -> None:
        bind_user("alice", workspace_id="acme")
        first = current()
        copy = contextvars.copy_context()
        bind_user("bob")
        bind_workspace("other", name="Other")
        set_tag("a", 1)
        set_consent(analytics=False)
        assert copy.run(current) == first
        state = current()
        assert state is not None
        assert first is not None
        assert state[:2] == first[:2]  # still the same piece of work
        assert (state.user, state.workspace) == (User("bob"), Workspace("other", "Other"))
        assert (state.tags, state.consent) == ({"a": "1"}, Consent(analytics=False))

    contextvars.Context().run(outside)
    assert current() is None


def test_a_generator_that_ends_elsewhere_leaves_the_others_cell() -> None:
    """Its `finally` runs in a Context of which it never set anything."""

    def streaming() -> Iterator[None]:
        with use_cell(job_cell("alice")):
            yield

    def elsewhere() -> None:
        with use_cell(job_cell("bob")) as mine:
            body.close()  # type: ignore[attr-defined]
            assert current_cell() is mine

    body = streaming()
    contextvars.Context().run(next, body)
    contextvars.Context().run(elsewhere)


async def test_under_detached_no_request_applies() -> None:
    """Neither there nor in a task that begins there; what is bound there is its own."""

    async def consume() -> RequestContext | None:
        before = current()
        bind_user("the consumer")
        assert current() is not None
        return before

    with use_cell(job_cell("alice")) as cell:
        with detached():
            assert current() is None
            assert carry() == {}
            assert await asyncio.create_task(consume()) is None
        assert cell.user == User("alice")
        assert current_cell() is cell
    assert contexts.DETACHED.user is None


def test_what_is_carried_is_restored() -> None:
    """User, workspace, ids and consent; no e-mail address travels."""
    with use_cell(job_cell("alice", "acme", email="alice@example.com")) as cell:
        cell.set_consent(analytics=False, llm_content=True)
        carried = carry()
    assert "alice@example.com" not in carried.values()
    with restore(carried) as restored:
        assert current() == restored.state
        assert restored.state == cell.state._replace(user=User("alice"))
    assert current() is None


def test_a_signed_context_is_restored_only_as_it_was(secret: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With METRICX_CARRY_SECRET a changed, unsigned or foreign one binds nobody, and the log names no value."""
    with use_cell(job_cell("alice", "acme")):
        carried = carry()
    with restore(carried) as restored:
        assert restored.user == User("alice")
    unsigned = {key: value for key, value in carried.items() if key != "signature"}
    for forged in ({**carried, "user_id": "admin"}, unsigned, {**carried, "signature": "é"}, {**carried, "more": "1"}):
        caplog.clear()
        with caplog.at_level(logging.WARNING), restore(forged) as restored:
            assert (restored.user, restored.workspace) == (None, None)
        assert "not signed with METRICX_CARRY_SECRET" in caplog.text
        assert "alice" not in caplog.text


def test_two_contexts_never_sign_alike(secret: bytes) -> None:
    """A value that looks like the next field is told apart from it."""
    signatures = set()
    for user, workspace in (("a", "b"), ("a\nworkspace_id=1:b", None)):
        with use_cell(job_cell(user, workspace, request_id="r", trace_id="1" * 32)):
            signatures.add(carry()["signature"])
    assert len(signatures) == 2


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.integers(),
        st.dictionaries(st.text(), st.one_of(st.none(), st.text(), st.binary(), st.integers())),
        st.dictionaries(st.sampled_from(["user_id", "request_id", "trace_id", "consent_analytics"]), st.text()),
    )
)
def test_restore_takes_whatever_a_queue_gives(carried: Any) -> None:
    """It never raises, and its ids are valid ones."""
    with restore(carried) as cell:
        assert valid_request_id(cell.request_id)
        assert valid_trace_id(cell.trace_id)
        assert cell.user is None or cell.user.id


@given(st.text())
def test_only_what_fits_a_header_and_a_log_line_is_a_request_id(value: str) -> None:
    """1 to 128 of [A-Za-z0-9._+/=:-]."""
    expected = 1 <= len(value) <= 128 and all(c.isascii() and (c.isalnum() or c in "._-+/=:") for c in value)
    assert (valid_request_id(value) == value) is (expected and value != "")


@given(st.text())
def test_one_line_is_one_line(value: str) -> None:
    """No line break or control character is left, and printable text is as it was."""
    line = printable(value)
    assert line.isprintable()
    assert len(line) == len(value)
    assert not value.isprintable() or line == value


def test_an_id_that_has_no_text_is_none() -> None:
    """A hostile object raises nothing."""
    assert text_id(Hostile()) is None


def test_a_job_has_the_identity_that_it_is_given() -> None:
    """`job_cell` binds what is not blank; there is no request."""
    assert job_cell("alice", "acme", email="a@b").user == User("alice", "a@b")
    assert job_cell(workspace_id="acme").workspace == Workspace("acme")
    assert job_cell(" ", " ").user is None
    assert job_cell().request is None


def test_the_facts_of_a_request_outlive_its_scope() -> None:
    """Method, URL, headers and the route that matched are known after `end`, when the scope is let go."""
    scope: dict[str, Any] = {
        "method": "GET", "scheme": "https", "path": "/a/1", "headers": [(b"host", b"host"), (b"a", b"1"), (b"a", b"2")],
        "query_string": b"q=1",
    }  # fmt: skip
    cell = Context(RequestContext("r", "1" * 32), RequestInfo(scope, first_headers(scope["headers"])))
    info = cell.request
    assert info is not None
    assert "route" not in scope
    route = Route("/a/{id}", print)
    scope |= {"route": route, "endpoint": print, "router": Router([route])}
    cell.end()
    scope.clear()
    assert (info.method, info.url, info.route, info.query) == ("GET", "https://host/a/1", "/a/{id}", b"q=1")
    assert (info.header(b"a"), info.header(b"b")) == ("1", None)
