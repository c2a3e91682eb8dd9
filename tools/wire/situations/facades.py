"""Each call of each facade with usual values, typed events, GA4's rules, and what an LLM trace is made of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel

from metricx_observe import ConfigurationError
from metricx_observe.events import (
    ConnectedGoogleAds,
    ConnectedMetaAds,
    ConnectedShopify,
    CopilotQuerySent,
    Event,
    Personal,
    UserLoggedIn,
    UserSignedUp,
)

from .running import Run, add, situation


class Bought(Event):
    """One of the application's."""

    name = "bought"
    item: str
    price: float
    buyer: Annotated[str, Personal] = "buyer@example.com"
    count: int = 1


class Provider(BaseModel):
    """A provider's answer as an object."""

    model: str = "claude-x"
    content: list[dict[str, Any]] = [{"type": "text", "text": "hello"}]
    usage: dict[str, int] = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3}


@dataclass
class Line:
    """A part of an order."""

    item: str
    price: float


def calls(*made: tuple[str, tuple[Any, ...], dict[str, Any]], job: bool = True) -> Any:
    """Calls of the tracker, whose ids are noted."""

    def do(run: Run) -> None:
        observe = run.observability()

        def all_of_them() -> None:
            for name, args, kwargs in made:
                run.see(name, getattr(observe.tracker, name)(*args, **kwargs))

        if job:
            with observe.context(user_id="u-1", workspace_id="w-1", email="u-1@example.com"):
                all_of_them()
        else:
            all_of_them()

    return do


def one(name: str, *args: Any, **kwargs: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return name, args, kwargs


add("track.plain", calls(one("track", "feature_used", {"feature": "export", "format": "csv"})))
add("track.outside", calls(one("track", "feature_used", {"a": 1}), one("track", "mine", user_id="u"), job=False))
add("track.anonymous", calls(one("track", "seen", anonymous_id="anon-1"), job=False))
add(
    "track.ids",
    calls(*(one("track", "seen", user_id=id) for id in (7, UUID(int=7), "x" * 300, "", "  ", None, 1.5, True, b"b"))),
)
add(
    "track.timestamps",
    calls(*(
        one("track", "then", timestamp=at)
        for at in (
            datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 1, 12, 0, 0, 123456), "2024-05-01T12:00:00Z",
            datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))), 1714564800, "yesterday",
        )
    )),
)  # fmt: skip
add(
    "track.names",
    calls(*(one("track", name) for name in ("ga_mine", "first_open", "x" * 60, "1st", "two words", "", "  ", "Größe"))),
)
add(
    "track.parameters",
    calls(
        one("track", "many", {f"p{number}": number for number in range(40)}),
        one("track", "long", {"text": "x" * 150, "ga_x": 1, "a b": 2}),
    ),
)
add(
    "track.nested",
    calls(
        one(
            "track",
            "nested",
            {"lines": [Line("a", 1.5)], "when": datetime(2024, 1, 1), "n": {"deep": {"er": [1, None]}}, "gone": None},
        )
    ),
)
add(
    "track.nested-secrets",
    calls(one("track", "nested", {"deep": {"password": "deep-CANARY", "n": 1}, "api_key": "flat-CANARY"})),
)
add(
    "track.large",
    calls(
        one("track", "large", {"text": "many words " * 9_000}),
        one("track", "larger", {f"k{n}": "word " * 100 for n in range(300)}),
    ),
)
add(
    "track.numbers",
    calls(one("track", "numbers", {"a": 2**53 + 1, "b": -(2**63), "c": 1e300, "d": 0.1 + 0.2, "e": 10**25})),
)
add(
    "track.event",
    calls(
        one("track", Bought(item="book", price=9.99)),
        one("track", Bought(item="pen", price=1), {"shop": "s", "count": 3}),
    ),
)
add("track.event-of-wrong-type", calls(one("track", Bought(item=7, price="much"))))  # type: ignore[arg-type]
add(
    "track.documented-events",
    calls(
        one("track", UserSignedUp(email="a@example.com", workspace_id=UUID(int=7))),  # type: ignore[arg-type]
        one("track", UserLoggedIn(email="a@example.com", workspace_id="w")),
        one("track", ConnectedGoogleAds(account_id=7, account_name="Shop")),  # type: ignore[arg-type]
        one("track", ConnectedMetaAds(account_id="8", account_name="Shop")),
        one("track", ConnectedShopify(shop_domain="shop.example")),
        one("track", CopilotQuerySent(question_length=12, workspace_id="w")),
        one("track", "user_signed_up", {"email": "a@example.com", "workspace_id": "w"}),
    ),
)
add("track.twice", calls(*[one("track", "same", {"a": 1})] * 3))
add(
    "identify.bound",
    calls(
        one("identify"),
        one("identify", traits={"plan": "pro"}),
        one("identify", "u-1", email="new@example.com", workspace_id="w-9"),
    ),
)
add(
    "identify.other",
    calls(one("identify", "u-2", email="b@example.com", traits={"name": "Bob"}), one("track", "after")),
)
add("identify.nobody", calls(one("identify"), one("identify", "u"), one("identify", None, traits={"a": 1}), job=False))
add(
    "identify.user-properties",
    calls(one("identify", "u", traits={"a_very_long_user_property_name": 1, "long": "x" * 60, "ga_x": 1})),
)
add("group", calls(one("group"), one("group", "w-2", traits={"seats": 3}), one("group", 7)))
add("group.nobody", calls(one("group"), one("group", "w"), job=False))
add("alias", calls(one("alias", "before"), one("alias", "before", "after"), one("alias", None), one("alias", "")))
add("alias.nobody", calls(one("alias", "before"), one("alias", "before", "after"), job=False))
add(
    "page",
    calls(
        one("page"),
        one("page", "Home"),
        one("page", "Home", category="shop", properties={"a": 1, "url": "https://x/?token=page-CANARY"}),
    ),
)

for _policy in ("keep", "hash", "drop"):
    add(
        f"personal-data.{_policy}",
        calls(
            one("track", Bought(item="book", price=1, buyer="Ann@Example.com ")),
            one("track", "user_signed_up", {"email": "ann@example.com", "workspace_id": "w"}),
            one("track", "plain", {"email": "ann@example.com", "note": "write to ann@example.com or +1 202 555 0146"}),
            one("identify", email="ann@example.com", traits={"phone": "+1 202 555 0146", "name": "Ann"}),
            one("group", "w", traits={"contact": "ann@example.com"}),
            one("page", "mail to ann@example.com"),
        ),
        personal_data=_policy,
    )
add(
    "scrub.own-rules",
    calls(one("track", "own", {"house_number": "own-CANARY", "note": "order SHOP-1234-CANARY", "session": "kept"})),
    scrub_names=("house_number",), scrub_patterns=(r"SHOP-\d{4}-CANARY",), scrub_safe_names=("session",),
)  # fmt: skip
add(
    "scrub.equal-secrets",
    calls(one("track", "equal", {"password": "hunter2", "again": {"password": "hunter2"}, "secret": "other"})),
)


@situation("events.rules")
def _rules(run: Run) -> None:
    for name in ("ga_mine", "first_open", "x" * 60, "two words", ""):
        try:
            type("Wrong", (Event,), {"name": name, "__module__": __name__})
            run.see(name, "defined")
        except ConfigurationError as error:
            run.see(name, str(error))
    for values in ({}, {"item": "a"}, {"item": "a", "price": 1, "more": 2}):
        try:
            Bought(**values)
            run.see("made", values)
        except Exception as error:
            run.see("refused", type(error).__name__)


def traced(build: Any, **settings: Any) -> Any:
    def do(run: Run) -> None:
        observe = run.observability(**settings)
        with observe.context(user_id="u-1", workspace_id="w-1") as context:
            context.set_tag("plan", "pro")
            build(run, observe.llm)

    return do


def usual(run: Run, llm: Any) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    with llm.trace("copilot", input="hello", session_id="s-1", metadata={"a": 1, "b": [1]}, tags=["x", "y"]) as trace:
        with trace.generation(
            "understand", model="m-1", input=messages, model_parameters={"temperature": 0.2, "stop": None}
        ) as generation:
            generation.update(
                output="hi", usage={"input": 100, "output": 50, "total": 150}, cost={"input": 0.1, "total": 0.2},
                metadata={"step": 1}, completion_start_time=datetime(2024, 1, 1, tzinfo=UTC),
            )  # fmt: skip
        with trace.span("search", input={"q": "x"}) as span, span.tool("browse", input=[1]) as tool:
            tool.update(output={"found": 3}, level="debug")
        trace.score("quality", 0.9, comment="good")
        trace.update(output="hi")
    run.see("same trace", generation.trace_id == trace.trace_id)
    run.see("url", trace.url)
    run.see("id", trace.id)


def failing(run: Run, llm: Any) -> None:
    for error in (ValueError("no model, key=sk-CANARY-0123456789abcdef"), asyncio.CancelledError()):
        try:
            with llm.trace("copilot") as trace, trace.generation("call", model="m"):
                raise error
        except BaseException as raised:
            run.see("raised", type(raised).__name__)
    with llm.trace("by hand") as trace:
        trace.fail("because")
        trace.generation("call").fail(ValueError("why")).end()


def lengths(run: Run, llm: Any) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    trace = llm.trace("past", start_time=start)
    generation = trace.generation("call", start_time=start + timedelta(seconds=1))
    generation.end(start + timedelta(seconds=2.5))
    trace.span("backwards", start_time=start).end(start - timedelta(seconds=1))
    trace.end(start + timedelta(seconds=3))
    trace.end()
    trace.update(output="too late")
    generation.span("after its end").end()


def updates(run: Run, llm: Any) -> None:
    with llm.trace("t", metadata={"a": 1}) as trace:
        trace.update(metadata={"b": 2}, tags="one", user_id="u-9", session_id=7, workspace_id="w-9", nonsense=1)
        trace.update(input="i", output="o", level="LOUD", status_message="s")
        with trace.generation("g") as generation:
            generation.update(
                usage={"input": "many", "cached": 2}, cost=0.5, model_parameters={"p": [1]}, level="warning"
            )
            generation.update(usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})


def nested(run: Run, llm: Any) -> None:
    with llm.trace("outer", user_id="u-2"), llm.trace("inner", metadata={"i": 1}) as inner:
        with llm.generation("free", model="m"), llm.trace("deep"):
            pass
        with inner.span("span"):
            pass
    with llm.generation("alone", model="m", input="x"):
        pass
    never = llm.trace("never ended")
    never.span("part of it").end()


def responses(run: Run, llm: Any) -> None:
    given: dict[str, Any] = {
        "anthropic": Provider(),
        "openai": {
            "model": "gpt-x", "choices": [{"message": {"role": "assistant", "content": "hello", "tool_calls": None}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}},
        },
        "text": "only text", "nothing": None, "empty": {}, "usage": {"usage": {"input": 1}},
    }  # fmt: skip
    with llm.trace("responses") as trace:
        for name, response in given.items():
            with trace.generation(name) as generation:
                generation.record(response)


def scores(run: Run, llm: Any) -> None:
    with llm.trace("scored") as trace, trace.generation("call") as generation:
        for value in (1, 0.5, True, "good", "x" * 900):
            run.see("score", trace.score("quality", value, comment="password=score-CANARY"))
        run.see("of a part", generation.score("part", 2))
        run.see("not a number", generation.score("nan", float("nan")))


def large(run: Run, llm: Any) -> None:
    with (
        llm.trace("large", input="many words " * 9_000) as trace,
        trace.generation("call", model="m", input=[{"role": "user", "content": "word " * 20_000}] * 3) as generation,
    ):
        generation.update(output="word " * 400_000, metadata={"k": "word " * 50_000})


def chunks(run: Run, llm: Any) -> None:
    with llm.trace(
        "chat",
        input=[
            {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "data": "aGVsbG8=" * 50}]}
        ],
    ):
        pass
    with llm.trace("data", input="data:image/png;base64," + "aGVsbG8=" * 100, metadata={"password": "meta-CANARY"}):
        pass


for _name, _build in {
    "usual": usual, "failing": failing, "lengths": lengths, "updates": updates, "nested": nested,
    "responses": responses, "scores": scores, "large": large, "chunks": chunks,
}.items():  # fmt: skip
    add(f"llm.{_name}", traced(_build))


@situation("llm.outside")
def _outside(run: Run) -> None:
    usual(run, run.observability().llm)


@situation("llm.threads")
def _threads(run: Run) -> None:
    from concurrent.futures import ThreadPoolExecutor

    observe = run.observability()
    with ThreadPoolExecutor(2) as pool, observe.context(user_id="u-1"), observe.llm.trace("parent") as trace:
        list(pool.map(lambda name: trace.span(f"part_{name}").end(), ["a", "b", "c"]))
