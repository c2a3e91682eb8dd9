"""Each odd value in every place of every facade that takes one."""

from __future__ import annotations

from typing import Any

from .running import Run, add
from .values import ODD


def everywhere(value: Any) -> Any:
    def do(run: Run) -> None:
        observe = run.observability()
        with observe.context(user_id="u-1", workspace_id="w-1"):
            observe.tracker.track("odd", {"value": value, "after": 1})
            observe.tracker.identify("u-1", traits={"value": value})
            with observe.llm.trace("odd", input=value, metadata={"value": value}) as trace:
                with trace.generation("call", model="m", input=value, model_parameters={"value": value}) as generation:
                    generation.update(output=value)
                trace.update(output={"value": value})
            run.see("event", observe.errors.capture_message("odd", extra={"value": value}))

    return do


def as_argument(value: Any) -> Any:
    """Where an id, a name or a text is wanted."""

    def do(run: Run) -> None:
        observe = run.observability()
        tracker, llm = observe.tracker, observe.llm
        with observe.context() as context:
            run.see("track name", tracker.track(value, {"a": 1}, user_id="u"))
            run.see("track user", tracker.track("named", user_id=value, anonymous_id=value, timestamp=value))
            run.see("properties", tracker.track("named", value, user_id="u"))
            run.see("identify", tracker.identify(value, email=value, traits=value))
            run.see("group", tracker.group(value, traits=value))
            run.see("alias", tracker.alias(value, value))
            run.see("page", tracker.page(value, category=value, properties=value))
            trace = llm.trace(value, user_id=value, session_id=value, metadata=value, tags=value, start_time=value)
            generation = trace.generation(value, model=value, model_parameters=value)
            generation.update(usage=value, cost=value, level=value, status_message=value, completion_start_time=value)
            generation.record(value)
            run.see("score", trace.score(value, value, comment=value))
            generation.end(value)
            trace.end(value)
            run.see("message", observe.errors.capture_message(value, level=value, extra=value))
            run.see("exception", observe.errors.capture_exception(value, level=value, extra=value))
            run.see("breadcrumb", observe.errors.add_breadcrumb(value, category=value, data=value))
            context.set_tag(value, value)
            context.bind_workspace(value, name=value)
            context.bind_user(value, email=value, traits=value)
            tracker.track("after")

    return do


for _name, _value in ODD.items():
    add(f"values.content.{_name}", everywhere(_value))
for _name in (
    "none", "true", "zero", "huge-int", "nan", "uuid", "bytes", "blank", "line-breaks", "surrogate", "text-of-100-kb",
    "list", "cycle", "odd-keys", "broken-text", "broken-attributes", "aware", "model", "enum", "exception",
    "secret-by-name", "secret-in-text", "email-in-text", "int-subclass", "str-subclass",
):  # fmt: skip
    add(f"values.argument.{_name}", as_argument(ODD[_name]))
