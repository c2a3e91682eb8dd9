"""Each signal belongs to the user of the request that it was made in, wherever in the code and however many run."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context as Variables
from itertools import cycle, islice
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import Message
from websockets.sync.client import connect as connect_websocket

from metricx_observe import ContextDep, ErrorReporterDep, Observability, TrackerDep
from metricx_observe.context import bind_user, carry, current, detached, restore

from .attribution_app import PATHS, attribution_app, times
from .receiver_server import Receiver
from .support import call, connect, keys_for, observed, scope_of, serving

PER_PLACE = ("error", "track", "trace", "generation")


class Sent(NamedTuple):
    """One request: which user it was made as, and where."""

    user: str
    path: str

    @property
    def headers(self) -> dict[str, str]:
        return {"x-user": self.user, "x-request-id": f"{self.user}.request"}


def requests(n: int) -> list[Sent]:
    """`n` requests of as many users, over all kinds of code in turn."""
    run = uuid4().hex[:8]
    return [Sent(f"{run}-{number}", path) for number, path in enumerate(islice(cycle(PATHS), n))]


def expected_user(signal: dict[str, Any]) -> Any:
    """The user that a signal's own content names."""
    payload, kind = signal["payload"], signal["kind"]
    if kind == "track":
        return payload["properties"]["expected"]
    if kind == "error":
        return payload["message"]
    return payload["attributes"]["langfuse.observation.input"].strip('"')


def assert_attributed(found: Iterable[dict[str, Any]], sent: Iterable[Sent]) -> None:
    """Every request's signals are there, exactly, and each with its own user, workspace, e-mail and request id."""
    counts: Counter[tuple[str, str]] = Counter()
    by_request = {request.headers["x-request-id"]: request for request in sent}
    for signal in found:
        request = by_request.get(signal["request_id"])
        if request is None:
            continue
        known = request.path != "/anonymous"
        if signal["kind"] != "transaction":
            assert expected_user(signal) == request.user, signal
        assert signal["user_id"] == (request.user if known else None), (request, signal)
        assert signal["workspace_id"] == (f"w-{request.user}" if known else None), (request, signal)
        if signal["vendor"] == "sentry":
            email = (signal["payload"].get("user") or {}).get("email")
            assert email == (f"{request.user}@example.com" if known else None), (request, signal)
        counts[request.user, signal["kind"]] += 1
    wanted = {(user, kind): times(path) for user, path in by_request.values() for kind in PER_PLACE}
    assert counts == {**wanted, **{(user, "transaction"): 1 for user, _ in by_request.values()}}


async def test_each_signal_of_500_concurrent_requests_has_the_user_that_its_request_was_made_with(
    receiver: Receiver,
) -> None:
    """In every kind of code, for all three vendors, with none wrong and none missing."""
    sent = requests(500)
    with observed(receiver, errors_max_per_second=100_000) as observability:
        app = attribution_app(observability)

        async def make(request: Sent) -> None:
            if request.path.endswith("/websocket"):
                answer = await connect(app, request.path, "hello", headers=request.headers)
                assert answer.texts == ["hello"]
            else:
                answer = await call(app, request.path, headers=request.headers)
                assert answer.status == 200, (request, answer)
            assert answer.error is None
            assert answer.headers["x-request-id"] == request.headers["x-request-id"]

        await asyncio.gather(*map(make, sent))
        assert await asyncio.to_thread(observability.flush, 30)
        found = await asyncio.to_thread(receiver.signals)
    assert_attributed(found, sent)


def test_each_signal_has_its_requests_user_under_uvicorn(receiver: Receiver) -> None:
    """The same under a real server, with keep-alive connections that one user after another uses."""
    sent = requests(3 * len(PATHS))
    with observed(receiver, **keys_for(receiver), errors_max_per_second=100_000) as observability:
        with serving(attribution_app(observability)) as url, httpx.Client(base_url=url, trust_env=False) as client:

            def make(request: Sent) -> None:
                if request.path.endswith("/websocket"):
                    address = url.replace("http", "ws") + request.path
                    with connect_websocket(address, additional_headers=request.headers, proxy=None) as socket:
                        socket.send("hello")
                        assert socket.recv() == "hello"
                        assert socket.response is not None
                        assert socket.response.headers["x-request-id"] == request.headers["x-request-id"]
                else:
                    response = client.get(request.path, headers=request.headers)
                    assert response.status_code == 200
                    assert response.headers["x-request-id"] == request.headers["x-request-id"]

            with ThreadPoolExecutor(8) as clients:
                list(clients.map(make, sent))
        found = receiver.signals()  # the end of the lifespan has delivered all
    assert_attributed(found, sent)


def small_app(observability: Observability) -> FastAPI:
    """Routes that the tests below steer by events of their own."""
    app = FastAPI()
    observability.install(app)

    @app.get("/as/{user}")
    async def bound(user: str, context: ContextDep, tracker: TrackerDep) -> None:
        context.bind_user(user)
        tracker.track("seen")

    @app.get("/nobody")
    async def nobody(tracker: TrackerDep, errors: ErrorReporterDep) -> None:
        tracker.track("seen")
        errors.capture_message("seen")

    return app


async def test_no_user_is_left_over_in_the_next_request_of_the_same_task(receiver: Receiver) -> None:
    """A request binds its user to itself only, also where the server runs the next one in the same Context."""
    with observed(receiver) as observability:
        app = small_app(observability)
        ids = [uuid4().hex, uuid4().hex]
        for path, request_id in zip(("/as/alice", "/nobody"), ids, strict=True):
            await app(scope_of(path, headers={"x-request-id": request_id}), _nothing, _ignore)
            assert current() is None
        observability.flush()
        (first,) = receiver.signals(request_id=ids[0], kind="track")
        assert first["user_id"] == "alice"
        for signal in receiver.wait_for(3, request_id=ids[1]):
            assert signal["user_id"] is None, signal


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _ignore(message: Message) -> None:
    pass


async def test_a_cancelled_request_leaves_its_user_to_nobody(receiver: Receiver) -> None:
    """A server cancels a request whose client left: the cell goes with it, and what was put arrives."""
    with observed(receiver) as observability:
        app, waiting, request_id = small_app(observability), asyncio.Event(), uuid4().hex

        @app.get("/hanging")
        async def hanging(context: ContextDep, tracker: TrackerDep) -> None:
            context.bind_user("alice")
            tracker.track("begun")
            waiting.set()
            await asyncio.get_running_loop().create_future()

        after: list[Any] = []

        async def serve() -> None:
            try:
                await app(scope_of("/hanging", headers={"x-request-id": request_id}), _nothing, _ignore)
            finally:
                after.append(current())

        task = asyncio.create_task(serve())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert after == [None]
        observability.flush()
        found = receiver.signals(request_id=request_id)
        assert {signal["kind"]: signal["user_id"] for signal in found} == {"track": "alice", "transaction": "alice"}
        (transaction,) = [signal["payload"] for signal in found if signal["kind"] == "transaction"]
        assert transaction["contexts"]["response"]["status_code"] == 499
        assert transaction["contexts"]["trace"]["data"]["http.response.status_code"] == 499


async def test_a_dropped_coroutine_unbinds_nobody_else(receiver: Receiver) -> None:
    """One that is closed while another request runs ends there, in the other's Context, and must not touch its cell."""
    with observed(receiver) as observability:
        app, request_id = small_app(observability), uuid4().hex

        @app.get("/hanging")
        async def hanging(context: ContextDep) -> None:
            context.bind_user("alice")
            await _Suspended()

        @app.get("/closing")
        async def closing(context: ContextDep, errors: ErrorReporterDep) -> None:
            context.bind_user("bob")
            dropped.close()
            state = current()
            assert state is not None
            assert state.user is not None
            assert state.user.id == "bob"
            errors.capture_message("still bob's")

        await call(app, "/nobody")  # builds the stack
        dropped = app(scope_of("/hanging"), _nothing, _ignore)
        Variables().run(dropped.send, None)
        answer = await call(app, "/closing", headers={"x-request-id": request_id})
        assert answer.error is None
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
        assert error["user_id"] == "bob"


class _Suspended:
    """Waits for ever, with no loop that could know of it."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_breadcrumbs_stay_with_their_request(receiver: Receiver) -> None:
    """Of many requests at once, in async and sync routes, each error shows its own steps and no other's."""
    with observed(receiver) as observability:
        app, run = FastAPI(), uuid4().hex[:8]
        observability.install(app)
        barrier = asyncio.Barrier(10)

        @app.get("/async/{name}")
        async def step(name: str, errors: ErrorReporterDep) -> None:
            errors.add_breadcrumb(f"begin {name}")
            logging.getLogger("steps").info("logged %s", name)
            await barrier.wait()
            errors.add_breadcrumb(f"end {name}")
            raise LookupError(name)

        @app.get("/sync/{name}")
        def sync_step(name: str, errors: ErrorReporterDep) -> None:
            errors.add_breadcrumb(f"begin {name}")
            logging.getLogger("steps").info("logged %s", name)
            errors.add_breadcrumb(f"end {name}")
            raise LookupError(name)

        logging.getLogger("steps").setLevel(logging.INFO)
        names = [f"{kind}-{run}-{number}" for number in range(10) for kind in ("async", "sync")]
        await asyncio.gather(*(call(app, f"/{name.partition('-')[0]}/{name}") for name in names))
        observability.flush()
        errors = [error for error in receiver.signals(kind="error") if run in error["name"]]
    assert len(errors) == 20
    for error in errors:
        name = error["name"].removeprefix("LookupError: ")
        crumbs = [crumb.get("message") for crumb in error["payload"]["breadcrumbs"]["values"]]
        assert crumbs == [f"begin {name}", f"logged {name}", f"end {name}"]


async def test_two_jobs_at_once_keep_to_themselves(receiver: Receiver) -> None:
    """`observe.context(...)` in two tasks: each job's signals share its user, workspace, request id and trace id."""
    with observed(receiver) as observability:
        barrier, ids = asyncio.Barrier(2), dict[str, str]()

        async def job(name: str) -> None:
            with observability.context(user_id=name, workspace_id=f"w-{name}") as context:
                ids[name] = context.request_id
                observability.errors.add_breadcrumb(name)
                await barrier.wait()
                observability.tracker.track("job")
                await asyncio.to_thread(observability.errors.capture_message, name)
                with observability.llm.trace("job"):
                    await barrier.wait()
            assert current() is None

        await asyncio.gather(job("alice"), job("bob"))
        observability.flush()
        for name, request_id in ids.items():
            found = receiver.signals(request_id=request_id)
            assert {signal["kind"] for signal in found} == {"track", "error", "trace"}
            assert {(signal["user_id"], signal["workspace_id"]) for signal in found} == {(name, f"w-{name}")}
            assert len({signal["request_trace_id"] or signal["trace_id"] for signal in found}) == 1
            (error,) = (signal for signal in found if signal["kind"] == "error")
            crumbs = [crumb.get("message") for crumb in error["payload"]["breadcrumbs"]["values"]]
            assert [crumb for crumb in crumbs if crumb in ids] == [name]


async def test_a_user_bound_outside_a_request_is_this_tasks_only(receiver: Receiver) -> None:
    """Two tasks that bind without a context of their own never see each other's user."""
    with observed(receiver) as observability:
        barrier, run = asyncio.Barrier(2), uuid4().hex[:8]

        async def work(name: str) -> None:
            bind_user(name, workspace_id=f"w-{name}")
            await barrier.wait()
            observability.tracker.track("work", {"expected": name})
            observability.errors.capture_message(name)

        bind_user(f"{run}-main")
        await asyncio.gather(work(f"{run}-alice"), work(f"{run}-bob"))
        observability.tracker.track("work", {"expected": f"{run}-main"})
        observability.flush()
        found = [signal for signal in receiver.signals() if str(signal["user_id"]).startswith(run)]
    assert len(found) == 5
    for signal in found:
        assert signal["user_id"] == expected_user(signal)


async def test_what_begins_detached_acts_as_nobody(receiver: Receiver) -> None:
    """A consumer that is started lazily in a request under `detached()` has none of its user, steps and trace id."""
    with observed(receiver) as observability:
        app, run, consumers = FastAPI(), uuid4().hex[:8], list[asyncio.Task[None]]()
        observability.install(app)
        request_over = asyncio.Event()

        async def consume(name: str) -> None:
            await request_over.wait()
            observability.tracker.track(f"consumed_{name}")
            observability.errors.capture_exception(ValueError(f"consumed_{name}"))

        @app.get("/")
        async def start(context: ContextDep, errors: ErrorReporterDep) -> None:
            context.bind_user("alice")
            errors.add_breadcrumb("alice's step")
            consumers.append(asyncio.create_task(consume(f"attached_{run}")))
            with detached():
                consumers.append(asyncio.create_task(consume(f"detached_{run}")))
            assert current() == context.state

        request_id = uuid4().hex
        await call(app, "/", headers={"x-request-id": request_id})
        request_over.set()
        await asyncio.gather(*consumers)
        observability.flush()
        everything = receiver.signals()
    trace = next(signal["trace_id"] for signal in everything if signal["request_id"] == request_id)
    (track,) = (signal for signal in everything if signal["name"] == f"consumed_detached_{run}")
    (error,) = (signal for signal in everything if signal["name"] == f"ValueError: consumed_detached_{run}")
    for signal in (track, error):
        assert (signal["user_id"], signal["request_id"]) == (None, None)
        assert signal["trace_id"] != trace
    assert not (error["payload"].get("breadcrumbs") or {}).get("values")
    (attached,) = (signal for signal in everything if signal["name"] == f"consumed_attached_{run}")
    assert attached["user_id"] == "alice"  # the failing example: for ever somebody's


@pytest.mark.parametrize("secret", [None, "a shared secret"])
async def test_a_job_continues_its_request_in_the_worker(receiver: Receiver, secret: str | None) -> None:
    """What `carry()` gives travels with a job, and `restore()` puts the job's signals with the request's."""
    with observed(receiver, carry_secret=secret) as observability:
        app, request_id, jobs = FastAPI(), uuid4().hex, list[dict[str, str]]()
        observability.install(app)

        @app.get("/")
        async def enqueue(context: ContextDep) -> None:
            context.bind_user("alice", email="alice@example.com", workspace_id="w-alice")
            jobs.append(carry())

        await call(app, "/", headers={"x-request-id": request_id})
        assert "alice@example.com" not in str(jobs)
        with restore(json.loads(json.dumps(jobs[0]))):
            observability.tracker.track("job")
            observability.errors.capture_exception(ValueError("in the job"))
        observability.flush()
        found = receiver.wait_for(3, request_id=request_id)
    assert {signal["kind"] for signal in found} == {"transaction", "track", "error"}
    assert {(signal["user_id"], signal["workspace_id"]) for signal in found} == {("alice", "w-alice")}
    assert len({signal["trace_id"] for signal in found}) == 1


async def test_a_long_lived_task_pins_nothing_of_the_request_that_began_it(receiver: Receiver) -> None:
    """Neither scope, nor Request, nor an exception's frames live on with a task that a request leaves behind."""
    with observed(receiver) as observability:
        app, left_behind, pinned = FastAPI(), list[asyncio.Task[None]](), list[weakref.ref[Any]]()
        observability.install(app)
        over = asyncio.Event()

        class Large:
            """Stands for what is expensive to keep."""

        async def linger(tracker: Any) -> None:
            await over.wait()
            tracker.track("after")

        @app.get("/")
        async def start(request: Request, tracker: TrackerDep, errors: ErrorReporterDep) -> None:
            request.scope["large"] = large = Large()
            pinned.extend([weakref.ref(request), weakref.ref(large)])
            left_behind.append(asyncio.create_task(linger(tracker)))
            try:
                raise ValueError("handled")
            except ValueError as error:
                errors.capture_exception(error)

        answer = await call(app, "/")
        assert answer.status == 200
        observability.flush()
        gc.collect()
        assert [reference() for reference in pinned] == [None, None]
        over.set()
        await asyncio.gather(*left_behind)


async def test_a_forgotten_tasks_exception_is_never_put_on_another_user(receiver: Receiver) -> None:
    """asyncio logs it when the task is collected, which may be in anybody's request: it is reported without a user."""
    with observed(receiver) as observability:
        app, run = FastAPI(), uuid4().hex[:8]
        observability.install(app)
        forgotten: list[Any] = []

        async def fail() -> None:
            raise ValueError(run)

        @app.get("/forgets")
        async def forgets(context: ContextDep) -> None:
            context.bind_user("alice")
            forgotten.append(asyncio.create_task(fail()))
            await asyncio.sleep(0)

        @app.get("/collects")
        async def collects(context: ContextDep, errors: ErrorReporterDep) -> None:
            context.bind_user("bob")
            errors.add_breadcrumb("bob's step")
            forgotten.clear()
            gc.collect()

        request_id = uuid4().hex
        await call(app, "/forgets")
        await call(app, "/collects", headers={"x-request-id": request_id})
        observability.flush()
        (error,) = (signal for signal in receiver.signals(kind="error") if run in signal["name"])
        (transaction,) = receiver.signals(request_id=request_id)
    assert (error["user_id"], error["request_id"]) == (None, None)
    assert error["trace_id"] != transaction["trace_id"]
    assert "bob" not in json.dumps(error["payload"].get("breadcrumbs"))
