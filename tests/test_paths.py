"""What signals say of a request's path: what the route's template says of it, and nothing where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, WebSocket
from starlette.convertors import UUIDConvertor
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from metricx_observe import ErrorReporterDep, Observability, TrackerDep
from metricx_observe.context import current_cell

from .receiver_server import Receiver
from .support import call, connect, observed

TRACED = {"sentry-trace": f"{'a' * 32}-{'b' * 16}-1"}


@pytest.fixture
def observability(receiver: Receiver) -> Iterator[Observability]:
    """One that traces every request."""
    with observed(receiver, traces_sample_rate=1.0, traces_max_per_second=1000) as running:
        yield running


def sends(observability: Observability, where: str) -> None:
    """One signal of each kind that tells of the request."""
    observability.tracker.track(where)
    observability.errors.capture_message(where)


class Pure:
    """A middleware that does something before it goes on."""

    def __init__(self, app: ASGIApp, does: Callable[[Scope], Any], copies: bool = False) -> None:
        self.app, self.does, self.copies = app, does, copies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self.does(scope)
        await self.app({**scope} if self.copies else scope, receive, send)


def spelt(token: str) -> list[str]:
    """How a token may be written."""
    return [token, token.lower(), token.upper(), quote(token, safe=""), quote(token)]


async def told(
    receiver: Receiver, observability: Observability, app: ASGIApp, path: str, token: str, **more: Any
) -> list[dict[str, Any]]:
    """What arrives of one request; the token is in none of it."""
    run = uuid4().hex
    headers = {**TRACED, "x-request-id": run, **more.pop("headers", {})}
    await (connect if more.pop("websocket", False) else call)(app, path, headers=headers, **more)
    await asyncio.to_thread(observability.flush, 10)
    signals = receiver.signals(request_id=run)
    text = json.dumps([signal["payload"] for signal in signals])
    assert not [spelling for spelling in spelt(token) if spelling in text], text
    return signals


def urls(signals: list[dict[str, Any]]) -> set[str]:
    """The addresses that errors, transactions and events tell."""
    found = set()
    for signal in signals:
        payload = signal["payload"]
        page = payload.get("context", {}).get("page", {}) if signal["kind"] == "track" else payload["request"]
        found.add(page["url"])
    return found


def routed(observability: Observability, **install: Any) -> FastAPI:
    """An application with a route that has a token in its path, which sends."""
    app = FastAPI()
    observability.install(app, **install)

    @app.get("/reset/{token}")
    @app.post("/reset/{token}")
    async def reset(token: str) -> None:
        sends(observability, "route")

    return app


@pytest.mark.parametrize("kind", ["pure", "http", "identify", "dependency of the router"])
async def test_before_it_is_routed_nothing_tells_the_path(
    receiver: Receiver, observability: Observability, kind: str
) -> None:
    """A middleware, `identify=`: what they send has the origin only; what the route sends has its template's path."""
    token = f"hunter2-{uuid4().hex}"

    def early(*_: object) -> None:
        sends(observability, "early")

    app = routed(observability, **({"identify": early} if kind == "identify" else {}))
    if kind == "pure":
        app.add_middleware(Pure, does=early)
    elif kind == "http":

        @app.middleware("http")
        async def before(request: Request, call_next: Callable[..., Any]) -> Any:
            early()
            return await call_next(request)

    signals = await told(receiver, observability, app, f"/reset/{token}", token)
    whole = {url for url in urls(signals) if url != "http://testserver"}
    assert all(url.startswith("http://testserver/reset/[scrubbed") for url in whole)
    assert len(signals) == (3 if kind == "dependency of the router" else 5)
    assert whole


@pytest.mark.parametrize("ending", ["answers", "raises", "captures"])
async def test_a_middleware_that_ends_the_request_tells_no_path(
    receiver: Receiver, observability: Observability, ending: str
) -> None:
    """It answers, raises or captures before anything was routed."""
    token = f"hunter2-{uuid4().hex}"

    class Ends(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Callable[..., Any]) -> Any:
            if ending == "captures":
                try:
                    raise RuntimeError(f"no {request.url.path}")
                except RuntimeError as error:
                    observability.errors.capture_exception(error)
            elif ending == "raises":
                raise RuntimeError(f"no {request.url.path}")
            observability.tracker.track("ended")
            return PlainTextResponse("no", 403)

    app = routed(observability)
    app.add_middleware(Ends)
    signals = await told(receiver, observability, app, f"/reset/{token}", token)
    assert urls(signals) == {"http://testserver"}
    assert {signal["name"] for signal in signals if signal["kind"] == "transaction"} == {"<unmatched>"}
    if ending != "answers":
        (error,) = [signal["payload"] for signal in signals if signal["kind"] == "error"]
        assert error["exception"]["values"][-1]["value"] == "no <unmatched>"


async def test_what_no_route_takes_tells_no_path(receiver: Receiver, observability: Observability) -> None:
    """A 404, also below a mount, and a redirect to the path with a slash; a 405 has its route's template."""
    token = f"hunter2-{uuid4().hex}"
    app, sub = routed(observability), FastAPI()

    @app.get("/slashed/{token}/")
    @sub.get("/inside/{token}")
    async def slashed(token: str) -> None: ...

    app.mount("/sub/{tenant}", sub)
    for path in (f"/nowhere/{token}", f"/sub/acme/{token}", f"/slashed/{token}"):
        signals = await told(receiver, observability, app, path, token)
        assert urls(signals) == {"http://testserver"}, path
        assert [signal["name"] for signal in signals] == ["<unmatched>"]
    (transaction,) = await told(receiver, observability, app, f"/reset/{token}", token, method="DELETE")
    assert transaction["name"] == "/reset/{token}"
    assert transaction["payload"]["request"]["url"].startswith("http://testserver/reset/[scrubbed")


async def test_a_middleware_may_copy_the_scope(receiver: Receiver, observability: Observability) -> None:
    """As ASGI asks for: the template is known all the same, also where copies are made on both sides of ours."""
    token = f"hunter2-{uuid4().hex}"
    app = routed(observability)
    app.add_middleware(Pure, does=lambda _: None, copies=True)
    app.add_middleware(Pure, does=lambda _: None, copies=True)
    signals = await told(receiver, observability, app, f"/reset/{token}", token)
    assert all(url.startswith("http://testserver/reset/[scrubbed") for url in urls(signals))
    assert {signal["name"] for signal in signals if signal["kind"] == "transaction"} == {"/reset/{token}"}


async def test_a_copy_inside_a_mount_is_seen_by_the_dependencies(
    receiver: Receiver, observability: Observability
) -> None:
    """Only they get the scope that is routed there."""
    token = f"hunter2-{uuid4().hex}"
    app, sub = FastAPI(), FastAPI()
    observability.install(app)

    @sub.get("/reset/{token}")
    async def reset(token: str, tracker: TrackerDep) -> None:
        tracker.track("known")

    app.mount("/t/{tenant}", Pure(sub, does=lambda _: sends(observability, "early"), copies=True))
    signals = await told(receiver, observability, app, f"/t/acme/reset/{token}", token)
    (track,) = [signal for signal in signals if signal["name"] == "known"]
    assert track["payload"]["context"]["page"]["path"].startswith("/t/acme/reset/[scrubbed")


def shapes(observability: Observability) -> list[tuple[str, Any, str]]:
    """Ways to say that a part of the path is a token: the template, the route, the path up to its token."""

    async def plain(request: Request) -> Response:
        sends(observability, "route")
        return Response()

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        sends(observability, "route")
        await Response()(scope, receive, send)

    async def fast(token: str) -> None:
        sends(observability, "route")

    sub, included = FastAPI(), APIRouter()
    sub.get("/x/{token}")(fast)
    included.get("/y/{token}")(fast)
    sub.include_router(included, prefix="/in/{kind}")
    return [
        ("/u/{token}", Route("/u/{token:uuid}", plain), "/u/"),
        ("/app/{token}", Route("/app/{token}", raw), "/app/"),
        ("/files/{token}/*", Mount("/files/{token}", app=raw), "/files/TOKEN/a/b"),
        ("/wild/{rest}", Route("/wild/{rest:path}", plain), "/wild/a/"),
        ("/m/{token}/x/{token}", Mount("/m/{token:uuid}", app=sub), "/m/TOKEN/x/"),
        ("/m/{a}/in/{kind}/y/{token}", Mount("/m/{a}", app=sub), "/m/1/in/2/y/"),
        ("/d/{tenant}/{token}", Mount("/d", routes=[Mount("/{tenant}", routes=[Route("/{token}", plain)])]), "/d/1/"),
        ("/o/{rest}", Route("/o/{rest:path}", Router([Route("/elsewhere", plain)])), "/o/a/"),
    ]


@pytest.mark.parametrize("number", range(8))
async def test_each_way_to_a_template_is_found(receiver: Receiver, observability: Observability, number: int) -> None:
    """Convertors that change the value, ASGI applications as endpoints, mounts in mounts, the rest of a path."""
    template, route, path = shapes(observability)[number]
    token = str(uuid4()).upper()
    if not re.fullmatch(UUIDConvertor.regex, token):  # Starlette takes capitals from 0.46 on
        token = token.lower()
    app = FastAPI()
    observability.install(app)
    app.router.routes.append(route)
    whole = path.replace("TOKEN", token) if "TOKEN" in path else path
    whole += "" if path.endswith("b") else token
    signals = await told(receiver, observability, app, f"/root{whole}", token, root_path="/root")
    (transaction,) = [signal for signal in signals if signal["kind"] == "transaction"]
    assert transaction["name"] == template
    assert all(url.startswith("http://testserver/root/") for url in urls(signals))


@pytest.mark.parametrize("path", ["/reset/{}", "/one", "/nowhere/{}"])
async def test_a_page_that_a_post_comes_from_tells_no_token(
    receiver: Receiver, observability: Observability, path: str
) -> None:
    """The `Referer` of a form is the page's address: it is read as the application's own routes read it."""
    token = f"hunter2 {uuid4().hex}"
    app = routed(observability)

    @app.post("/one")
    async def one() -> None:
        sends(observability, "route")

    at = quote(token)
    for referer in (f"http://testserver/reset/{at}", f"http://testserver/nowhere/{at}", f"https://x.example/{at}?a=1"):
        headers = {
            "referer": referer, "x-original-url": f"/reset/{at}", "hx-current-url": referer, "x-rewrite-url": f"/{at}",
        }  # fmt: skip
        signals = await told(receiver, observability, app, path.format(token), token, method="POST", headers=headers)
        for signal in signals:
            if signal["kind"] != "track":
                shown = signal["payload"]["request"]["headers"]["referer"]
                assert shown.startswith(referer[: referer.index("/", 9)])
    assert signals


async def test_what_is_percent_encoded_is_the_same_part(receiver: Receiver, observability: Observability) -> None:
    """In the path, in what a server logs of it, and in texts of the application."""
    token = f"hü/nter2 {uuid4().hex}+%"
    log = logging.getLogger("tests.paths")
    app = FastAPI()
    observability.install(app)

    @app.get("/reset/{token:path}/end")
    @app.get("/plain/{token}")
    async def reset(token: str, request: Request) -> None:
        log.warning("GET %s", quote(request.url.path))
        log.warning("GET %s and %s", request.url.path, quote(token, safe=""))
        raise RuntimeError(f"bad {token} of {request.scope['raw_path']!r}")

    encoded = quote(token, safe="")
    await told(receiver, observability, app, f"/plain/{token.replace('/', '-')}", token.replace("/", "-"),
               raw_path=f"/plain/{quote(token.replace('/', '-'), safe='')}".encode())  # fmt: skip
    signals = await told(
        receiver, observability, app, f"/nowhere/{token}", token, raw_path=f"/nowhere/{encoded}".encode()
    )
    assert signals


async def test_websockets_background_tasks_and_what_outlives_a_request(
    receiver: Receiver, observability: Observability
) -> None:
    """They tell the same, also when the request has ended and its scope is gone."""
    token = f"hunter2-{uuid4().hex}"
    app, tasks = FastAPI(), set()
    observability.install(app)

    async def later() -> None:
        cell = current_cell()
        assert cell is not None
        assert cell.info is not None
        while not cell.info.ended:
            await asyncio.sleep(0.001)
        sends(observability, "later")

    @app.get("/reset/{token}")
    async def reset(token: str, background: BackgroundTasks, errors: ErrorReporterDep) -> None:
        background.add_task(sends, observability, "background")
        tasks.add(asyncio.create_task(later()))

    @app.websocket("/ws/{token}")
    async def socket(token: str, websocket: WebSocket) -> None:
        await websocket.accept()
        sends(observability, "websocket")

    run = uuid4().hex
    await call(app, f"/reset/{token}", headers={"x-request-id": run})
    await asyncio.gather(*tasks)
    await asyncio.to_thread(observability.flush, 10)
    signals = receiver.signals(request_id=run)
    assert sorted(signal["name"] for signal in signals) == ["/reset/{token}", *["background"] * 2, *["later"] * 2]
    assert all(url.startswith("http://testserver/reset/[scrubbed") for url in urls(signals))
    signals = await told(receiver, observability, app, f"/ws/{token}", token, websocket=True)
    assert all(url.startswith("ws://testserver/ws/[scrubbed") for url in urls(signals))


@pytest.mark.parametrize("word", ["exception", "contexts", "ValueError", "mallory-001", "tests.test_paths", "w-000001"])
async def test_a_client_cannot_erase_its_own_traces(
    receiver: Receiver, observability: Observability, word: str
) -> None:
    """A part of the path replaces texts that may repeat it: no key, no name of code, nothing that the server bound."""
    app, run = FastAPI(), uuid4().hex
    observability.install(app)

    @app.get("/reset/{token}")
    async def reset(token: str) -> None:
        cell = current_cell()
        assert cell is not None
        cell.bind_user("mallory-001", workspace_id="w-000001")
        cell.set_tag("word", word)
        sentry_sdk.add_breadcrumb(category=word, message="a step", data={word: 1})
        raise ValueError("division")

    await call(app, f"/reset/{word}", headers={"x-request-id": run, **TRACED})
    await asyncio.to_thread(observability.flush, 10)
    found = {signal["kind"]: signal["payload"] for signal in receiver.signals(request_id=run)}
    for event in found.values():
        assert event["user"] == {"id": "mallory-001"}
        assert event["tags"]["workspace_id"] == "w-000001"
        assert event["tags"]["word"] == word
        assert event["contexts"]["workspace"] == {"id": "w-000001"}
        assert event["request"]["url"].startswith("http://testserver/reset/[scrubbed")
    (raised,) = found["error"]["exception"]["values"]
    assert (raised["type"], raised["value"]) == ("ValueError", "division")
    assert raised["stacktrace"]["frames"][-1]["module"] == "tests.test_paths"
    (crumb,) = [each for each in found["error"]["breadcrumbs"]["values"] if each["message"] == "a step"]
    assert crumb["category"] == word
    assert crumb["data"] == {word: 1}


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("/short/a1b2", ["a1b2 is wrong", "no /short/a1b2", "xa1b2x stays"]),
        ("/short/x9", ["x9 stays", "no /short/x9"]),
        ("/files/a/hunter2-0123", ["no a/hunter2-0123", "GET /files/a/hunter2-0123?b=1"]),
        ("/static/a/hunter2-0123", ["GET /static/a/hunter2-0123"]),
    ],
)
async def test_texts_that_repeat_a_part_of_the_path(
    receiver: Receiver, observability: Observability, path: str, texts: list[str]
) -> None:
    """A short part as a word, a shorter one behind a slash, the rest of a path as a whole; the same in a tag."""

    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        sentry_sdk.set_tag("at", path)
        raise RuntimeError("; ".join(texts))

    async def raised(request: Request) -> None:
        await raises(request.scope, request.receive, request._send)

    app = FastAPI()
    observability.install(app)
    app.router.routes += [
        Route("/short/{token}", raised), Route("/files/{name:path}", raised), Mount("/static", app=raises)
    ]  # fmt: skip
    run, part = uuid4().hex, path.partition("/")[2].partition("/")[2]
    await call(app, path, headers={"x-request-id": run})
    await asyncio.to_thread(observability.flush, 10)
    (error,) = [signal["payload"] for signal in receiver.signals(request_id=run, kind="error")]
    for text, shown in zip(texts, error["exception"]["values"][-1]["value"].split("; "), strict=True):
        assert (part in shown) is text.endswith("stays"), shown
    assert part not in error["tags"]["at"]
    assert error["tags"]["request_id"] == run


async def test_a_route_of_an_unknown_kind_costs_nothing_else(receiver: Receiver, observability: Observability) -> None:
    """A router of the application's own making: no path, and every signal arrives."""

    class Odd:
        path_regex = "no pattern"

        def matches(self, scope: Scope) -> Any:
            raise RuntimeError

    class Own:
        routes = (Odd(),)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope["endpoint"] = self
            sends(observability, "odd")
            await Response()(scope, receive, send)

    token = f"hunter2-{uuid4().hex}"
    app = FastAPI()
    observability.install(app)
    app.mount("/own", Own())
    signals = await told(receiver, observability, app, f"/own/{token}", token)
    assert len(signals) == 3
    assert urls(signals) == {"http://testserver"}
