"""What the application says to Sentry's SDK itself, beside us."""

from __future__ import annotations

import logging
from typing import Any

import sentry_sdk
from fastapi import FastAPI, Request
from sentry_sdk.crons import capture_checkin, monitor
from starlette.responses import PlainTextResponse

from metricx_observe import ContextDep, ErrorReporterDep

from .running import Run, add, situation

logger = logging.getLogger("wire.sdk")


def in_request(build: Any, options: dict[str, Any] | None = None, count: int = 1, **settings: Any) -> Any:
    """A request in whose route `build` runs."""

    async def do(run: Run) -> None:
        observe = run.observability(sentry_options=options)
        app = FastAPI()
        observe.install(app)

        @app.get("/items/{item}")
        async def route(item: str, context: ContextDep, errors: ErrorReporterDep) -> None:
            context.bind_user("u-1", email="a@example.com", workspace_id="w-1")
            build(run, errors)

        for _ in range(count):
            await run.call(app, "/items/7", headers={"x-request-id": "request-1"})
        sentry_sdk.flush()

    return do


def captures(run: Run, errors: Any) -> None:
    sentry_sdk.set_tag("own", "tag")
    sentry_sdk.set_context("cart", {"items": 3, "password": "context-CANARY"})
    sentry_sdk.set_extra("extra", {"token": "extra-CANARY"})
    sentry_sdk.add_breadcrumb(message="a step", data={"password": "crumb-CANARY"})
    run.see("message", sentry_sdk.capture_message("from the application", level="warning"))
    try:
        {}["missing"]
    except KeyError as error:
        first = run.see("exception", sentry_sdk.capture_exception(error))
        run.see("the same", errors.capture_exception(error) == first)
    sentry_sdk.capture_event({"message": "an event", "level": "error", "fingerprint": ["mine"]})


def spans(run: Run, errors: Any) -> None:
    with sentry_sdk.start_span(op="db.query", name="select * from users where password='sql-CANARY'") as span:
        span.set_data("rows", 3)
        span.set_tag("table", "users")
        with sentry_sdk.start_span(op="cache.get", name="key"):
            pass
    errors.capture_message("between")


def own_transaction(run: Run, errors: Any) -> None:
    with sentry_sdk.start_transaction(op="task", name="own") as transaction:
        transaction.set_tag("mine", "yes")
        with sentry_sdk.start_span(op="step", name="one"):
            errors.capture_message("inside")


def scopes(run: Run, errors: Any) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.set_user({"id": "somebody"})
        scope.set_level("fatal")
        scope.set_transaction_name("renamed")
        sentry_sdk.capture_message("in a scope")
    with sentry_sdk.isolation_scope() as scope:
        scope.set_tag("isolated", "yes")
        errors.capture_message("isolated")
    errors.capture_message("after")


def check_ins(run: Run, errors: Any) -> None:
    id = capture_checkin(monitor_slug="nightly", status="in_progress")
    capture_checkin(monitor_slug="nightly", check_in_id=id, status="ok", duration=2.5)
    with monitor(monitor_slug="hourly", monitor_config={"schedule": {"type": "crontab", "value": "0 * * * *"}}):
        pass


def attachments(run: Run, errors: Any) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.add_attachment(
            bytes=b"some text with password=file-CANARY", filename="note.txt", content_type="text/plain"
        )
        scope.add_attachment(bytes=b'{"api_key":"file-CANARY"}', filename="note.json", content_type="application/json")
        scope.add_attachment(bytes=b"\x00\xff", filename="raw.bin")
        sentry_sdk.capture_message("with files")


def logs(run: Run, errors: Any) -> None:
    sentry_sdk.logger.info("paid {amount} of {password}", amount=3, password="log-CANARY")
    sentry_sdk.logger.error("failed", attributes={"order": 7, "api_key": "log-CANARY"})
    logger.warning("from logging: %s", "password=log-CANARY")


def metrics(run: Run, errors: Any) -> None:
    sentry_sdk.metrics.count("orders", 1, attributes={"shop": "a", "password": "metric-CANARY"})
    sentry_sdk.metrics.distribution("latency", 12.5, unit="millisecond")
    sentry_sdk.metrics.gauge("queue", 3)


def log_levels(run: Run, errors: Any) -> None:
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)("a %s record with %(braces)s" if level == "debug" else "a %s record", level)
    logger.error({"a": 1})
    logger.error("not enough: %s %s", "one")
    logger.error("by name: %(user)s %(password)s", {"user": "bob", "password": "named-CANARY"})
    logging.getLogger("other.library").error("of a library", stack_info=True)


def sessions(run: Run, errors: Any) -> None:
    scope = sentry_sdk.get_isolation_scope()
    scope.start_session(session_mode="application")
    errors.capture_exception(ValueError("in a session"))
    scope.end_session()


def trace_parts(run: Run, errors: Any) -> None:
    run.see("traceparent", sentry_sdk.get_traceparent())
    run.see("baggage", sentry_sdk.get_baggage())
    current = sentry_sdk.get_current_span()
    run.see("span", current is not None)
    with sentry_sdk.continue_trace(
        {"sentry-trace": "771a43a4192642f0b136d5159a501700-1234567890abcdef-1"}, op="x", name="y"
    ):
        errors.capture_message("continued")


for _name, _build in {
    "captures": captures, "spans": spans, "own-transaction": own_transaction, "scopes": scopes, "check-ins": check_ins,
    "attachments": attachments, "log-levels": log_levels, "trace-parts": trace_parts,
}.items():  # fmt: skip
    add(f"sentry.{_name}", in_request(_build))
add("sentry.spans-not-sampled", in_request(spans), traces_sample_rate=0.0)
add("sentry.captures-for-nobody", in_request(captures), personal_data="drop")
add("sentry.logs", in_request(logs, {"enable_logs": True}))
add("sentry.metrics", in_request(metrics))
add("sentry.sessions", in_request(sessions, {"auto_session_tracking": True}, count=3))
add("sentry.default-pii", in_request(captures, {"send_default_pii": True}))
add("sentry.before-send-drops", in_request(captures, {"before_send": lambda event, hint: None}))
add(
    "sentry.before-send-changes",
    in_request(captures, {"before_send": lambda event, hint: {**event, "tags": {"changed": "yes"}}}),
)
add(
    "sentry.before-send-transaction",
    in_request(spans, {"before_send_transaction": lambda event, hint: {**event, "transaction": "changed"}}),
)
add(
    "sentry.sampler",
    in_request(
        spans, {"traces_sampler": lambda context: 1.0 if context["transaction_context"]["op"] == "http.server" else 0}
    ),
)
add("sentry.streamed-spans", in_request(spans, {"trace_lifecycle": "stream"}))
add("sentry.error-sampler", in_request(captures, {"error_sampler": lambda event, hint: 0.0}))
add(
    "sentry.options",
    in_request(
        captures,
        {
            "server_name": "named",
            "dist": "d1",
            "max_breadcrumbs": 1,
            "attach_stacktrace": True,
            "include_local_variables": False,
        },
    ),
)
add("sentry.ignored-errors", in_request(captures, {"ignore_errors": [KeyError]}))


@situation("sentry.options-refused")
def _refused(run: Run) -> None:
    for option in ("dsn", "transport", "profiles_sample_rate"):
        try:
            run.observability(sentry_options={option: 1})
        except Exception as error:
            run.see(option, f"{type(error).__name__}: {error}")


@situation("sentry.without-a-request")
def _without(run: Run) -> None:
    observe = run.observability()
    observe.start()
    captures(run, observe.errors)
    spans(run, observe.errors)
    with observe.context(user_id="u-1"), sentry_sdk.start_transaction(op="job", name="nightly"):
        captures(run, observe.errors)
        spans(run, observe.errors)


@situation("sentry.second-observability")
def _second(run: Run) -> None:
    first = run.observability()
    first.start()
    second = run.observability(sentry_dsn=run.settings()["sentry_dsn"].replace("public@", "other@"))
    try:
        second.start()
        run.see("second", "opened")
    except Exception as error:
        run.see("second", f"{type(error).__name__}: {error}")
    first.errors.capture_message("of the first")


@situation("sentry.trace-in-page", trace_hosts=("api.example",))
async def _page(run: Run) -> None:
    app = run.app()

    @app.get("/")
    async def route(request: Request) -> PlainTextResponse:
        return PlainTextResponse(sentry_sdk.get_current_scope().trace_propagation_meta())

    await run.call(app, "/")
