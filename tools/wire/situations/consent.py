"""What the user allowed, said by `consent=` or in the middle of a request, and what then goes to whom."""

from __future__ import annotations

from typing import Any

import sentry_sdk

from metricx_observe import Consent, ContextDep, ErrorReporterDep, LLMTracerDep, TrackerDep
from metricx_observe.context import set_consent

from .running import Run, add

EMAIL = "ann@example.com"


def asked(consent: Any, later: dict[str, bool] | None = None, installed: bool = True, **settings: Any) -> Any:
    """A request that sends all kinds with personal data, before and after its consent is changed, and fails."""

    async def do(run: Run) -> None:
        app = run.app(consent=consent) if installed else run.app()

        @app.get("/{item}")
        async def route(
            item: str, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep
        ) -> None:
            context.bind_user("u-1", email=EMAIL, workspace_id="w-1", traits={"name": "Ann"})
            context.set_tag("reply_to", EMAIL)
            sentry_sdk.set_user({"id": "u-1", "email": EMAIL, "username": "ann"})

            def send(name: str) -> None:
                run.see("track", tracker.track(name, {"note": f"write to {EMAIL}"}) is not None)
                run.see("identify", tracker.identify() is not None)
                with llm.trace(name, input=f"from {EMAIL}", session_id="s", metadata={"m": EMAIL}) as trace:
                    with trace.generation("call", model="m", input="question") as generation:
                        generation.update(output="answer", usage={"input": 1}, model_parameters={"t": 1})
                    trace.score("good", 1, comment=EMAIL)
                errors.add_breadcrumb(f"mail to {EMAIL}")
                errors.capture_message(f"no answer from {EMAIL}", extra={"phone": "+1 202 555 0146"})

            send("before")
            if later is not None:
                context.set_consent(**later)
                send("after")
            raise ValueError(f"{EMAIL} is not known at 203.0.113.9")

        await run.call(
            app, "/7?email=ann%40example.com", headers={"x-real-ip": "203.0.113.9", "cookie": "_ga=GA1.1.1.2"}
        )

    return do


CONSENTS: dict[str, Any] = {
    "yes": True, "no": False, "unasked": None, "all": Consent(True, True), "no-content": Consent(True, False),
    "no-analytics": Consent(False, True), "nothing": Consent(False, False),
}  # fmt: skip
for _name, _consent in CONSENTS.items():
    add(f"consent.installed.{_name}", asked(lambda connection, given=_consent: given), send_client_ip=True)
add("consent.installed.fails", asked(lambda connection: 1 // 0))
for _name, _later in {
    "analytics-off": {"analytics": False}, "analytics-on": {"analytics": True}, "content-off": {"llm_content": False},
    "content-on": {"llm_content": True}, "all-off": {"analytics": False, "llm_content": False},
}.items():  # fmt: skip
    add(f"consent.later.{_name}", asked(None, _later, installed=False))
add("consent.later.allowed-after-a-no", asked(lambda connection: False, {"analytics": True}))
add("consent.without-locals", asked(lambda connection: False), send_locals=False, personal_data="hash")


def of_a_job(run: Run) -> None:
    observe = run.observability()
    with observe.context(user_id="u-1"):
        set_consent(analytics=False, llm_content=False)
        run.see("track", observe.tracker.track("seen"))
        with observe.llm.trace("asked", input="content"):
            observe.errors.capture_message("failed")
    run.see("after", observe.tracker.track("seen", user_id="u-2") is not None)


add("consent.job", of_a_job)
