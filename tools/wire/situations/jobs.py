"""Code without a request: jobs, carried contexts, detached tasks, and settings that switch things off."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import Any

from metricx_observe import ContextDep, Observability, TrackerDep, context
from metricx_observe.context import bind_user, bind_workspace, carry, current, detached, restore, set_tag

from .running import Run, add, situation


def send(observe: Observability, name: str) -> None:
    """A signal of each kind."""
    observe.tracker.track(name)
    with observe.llm.trace(name, input=name):
        pass
    observe.errors.capture_message(name)


@situation("jobs.context")
def _context(run: Run) -> None:
    observe = run.observability()
    with observe.context(user_id=7, workspace_id="w-1", email="a@example.com") as cell:
        run.see("ids", {"request": cell.request_id, "trace": cell.trace_id})
        send(observe, "inside")
        with observe.context(user_id="u-2"):
            send(observe, "nested")
        send(observe, "again")
    send(observe, "outside")


@situation("jobs.fails")
def _fails(run: Run) -> None:
    observe = run.observability()
    try:
        with observe.context(user_id="u-1"):
            raise ValueError("the job")
    except ValueError as error:
        run.see("event", observe.errors.capture_exception(error))
    with observe.context(user_id="u-2"):
        try:
            raise LookupError("handled")
        except LookupError:
            logging.getLogger("wire.jobs").exception("logged")


@situation("jobs.threads")
def _threads(run: Run) -> None:
    observe = run.observability()

    def work() -> None:
        send(observe, "thread")
        raise ValueError("in a thread")

    with observe.context(user_id="u-1"):
        for thread in (
            threading.Thread(target=work), threading.Thread(target=contextvars.copy_context().run, args=(work,)),
        ):  # fmt: skip
            thread.start()
            thread.join()


@situation("jobs.binding-outside")
async def _binding_outside(run: Run) -> None:
    observe = run.observability()

    async def task(name: str) -> None:
        bind_user(name, email=f"{name}@example.com", traits={"a": 1})
        bind_workspace(f"w-{name}", name="Work")
        set_tag("task", name)
        await asyncio.sleep(0)
        send(observe, name)

    await asyncio.gather(*(asyncio.create_task(task(name)) for name in ("one", "two")))
    run.see("nobody here", current() is None)
    send(observe, "none")


def carried(**settings: Any) -> Any:
    async def do(run: Run) -> None:
        app = run.app()
        found: list[dict[str, str]] = []

        @app.get("/")
        async def route(cell: ContextDep, tracker: TrackerDep) -> None:
            cell.bind_user("u-1", email="a@example.com", workspace_id="w-1")
            cell.set_consent(analytics=True, llm_content=False)
            cell.set_tag("a", "b")
            tracker.track("enqueued")
            found.append(carry())

        await run.call(app, "/", headers={"x-request-id": "request-1"})
        observe = run.open[0]
        run.see("carried", found[0])
        with restore(found[0]):
            send(observe, "restored")
        for name, forged in {
            "user": {**found[0], "user_id": "u-other"}, "none": None, "empty": {},
            "nonsense": {"request_id": "bad id", "trace_id": "x"},
            "signature": {**found[0], "signature": "00"}, "type": 7,
        }.items():  # fmt: skip
            with restore(forged):  # type: ignore[arg-type]
                send(observe, f"forged_{name}")

    return do


add("jobs.carried", carried())
add("jobs.carried-with-secret", carried(), carry_secret="a secret for carrying")


@situation("jobs.detached")
async def _detached(run: Run) -> None:
    app = run.app()
    tasks: list[Any] = []

    @app.get("/")
    async def route(cell: ContextDep) -> None:
        cell.bind_user("u-1")

        async def consume() -> None:
            await asyncio.sleep(0)
            send(run.open[0], "consumer")
            bind_user("of-the-consumer")
            send(run.open[0], "bound")

        with detached():
            tasks.append(asyncio.create_task(consume()))
            send(run.open[0], "detached")
        send(run.open[0], "attached")

    await run.call(app, "/")
    await asyncio.gather(*tasks)


@situation("jobs.module-facades")
def _module_facades(run: Run) -> None:
    run.see("before", context.tracker().track("before", user_id="u"))
    observe = run.observability()
    observe.start()
    with observe.context(user_id="u-1"):
        context.tracker().track("inside")
        with context.llm().trace("inside"):
            pass
        context.errors().capture_message("inside")
    observe.close()
    run.see("after", context.tracker().track("after", user_id="u"))


@situation("jobs.closed-and-started-again")
def _again(run: Run) -> None:
    observe = run.observability()
    send(observe, "first")
    observe.close()
    run.see("closed", observe.tracker.track("closed", user_id="u"))
    run.see("flush", observe.flush())
    observe.start()
    send(observe, "second")
    run.see("flush", observe.flush())
    run.see("open", observe.is_open)


def status(run: Run) -> None:
    observe = run.observability()
    send(observe, "one")
    observe.tracker.track("", {"password": "hunter-CANARY"})
    observe.tracker.track("secret", {"password": "hunter-CANARY"})
    observe.flush()
    found = observe.status()
    run.see("faults", found["faults"])
    run.see("scrubbed", found["scrubbed"])
    run.see("states", {name: str(state) for name, state in observe.states().items()})
    for vendor in ("sentry", "rudderstack", "langfuse"):
        run.see(vendor, {"state": str(found[vendor].get("state")), "delivered": found[vendor].get("delivered")})


add("settings.status", status)


def everything(run: Run) -> None:
    try:
        observe = run.observability()
    except Exception as error:
        run.see("refused", f"{type(error).__name__}: {error}")
        return
    with observe.context(user_id="u-1", workspace_id="w-1"):
        run.see("track", observe.tracker.track("seen", {"a": 1}) is not None)
        run.see("message", observe.errors.capture_message("seen") is not None)
        with observe.llm.trace("asked", input="x") as trace:
            run.see("score", trace.score("good", 1) is not None)
        run.see("url", trace.url)
    run.see("states", {name: str(state) for name, state in observe.states().items()})


SETTINGS: dict[str, dict[str, Any]] = {
    "disabled-sentry": {"disabled": ("sentry",)}, "disabled-analytics": {"disabled": ("analytics",)},
    "disabled-langfuse": {"disabled": ("langfuse",)}, "not-enabled": {"enabled": False},
    "no-sentry-key": {"sentry_dsn": None}, "no-write-key": {"rudderstack_write_key": None},
    "no-langfuse-secret": {"langfuse_secret_key": None}, "placeholder": {"langfuse_public_key": "pk-lf-xxx"},
    "dsn-malformed": {"sentry_dsn": "sentry.example/1"}, "tracing-off": {"langfuse_tracing": False},
    "langfuse-sampled-none": {"langfuse_sample_rate": 0.0},
    "own-environments": {"sentry_environment": "Web Shop", "langfuse_environment": "llm"},
    "environment-odd": {"environment": "Prod/EU west-1 " + "x" * 60}, "no-release": {"release": None},
    "acknowledged": {"durability": "acknowledged"}, "environment-test": {"environment": "test"},
    "log-level-odd": {"log_level": "LOUD"},
}  # fmt: skip
for _name, _settings in SETTINGS.items():
    add(f"settings.{_name}", everything, **_settings)


@situation("settings.unknown")
def _unknown(run: Run) -> None:
    for given in ({"colour": "red"}, {"traces_sample_rate": 2}, {"outbox_url": "ftp://x"}, {"error_statuses": "abc"}):
        try:
            run.observability(**given)
        except Exception as error:
            run.see(f"{[*given]}", f"{type(error).__name__}: {error}")


@situation("settings.strict", strict=True)
def _strict(run: Run) -> None:
    observe = run.observability()
    for name, call in {
        "track": lambda: observe.tracker.track(""), "identify": lambda: observe.tracker.identify(object()),
        "message": lambda: observe.errors.capture_message("x", level="loud"),
        "good": lambda: observe.tracker.track("good", user_id="u"),
        "trace": lambda: observe.llm.trace("t", nonsense=1),  # type: ignore[call-arg]
    }.items():  # fmt: skip
        try:
            run.see(name, call() is not None)
        except Exception as error:
            run.see(name, f"{type(error).__name__}: {error}")
