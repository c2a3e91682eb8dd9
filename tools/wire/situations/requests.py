"""What a request's own facts make of signals: bodies, headers, addresses, ids, mounts, websockets and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket, WebSocketException
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from metricx_observe import ContextDep, ErrorReporterDep, LLMTracerDep, ObserveMiddleware, SignalsDep, TrackerDep
from metricx_observe.context import current

from .asgi import lifespan
from .running import Run, add, situation


def shop(app: FastAPI, *, fails: bool = False) -> None:
    """An application with one route for everything."""

    @app.api_route("/items/{item}", methods=["GET", "POST", "PUT", "HEAD", "OPTIONS"])
    async def route(
        request: Request, item: str, context: ContextDep, tracker: TrackerDep, errors: ErrorReporterDep
    ) -> str:
        context.bind_user("u-1", workspace_id="w-1")
        await request.body()
        tracker.track("seen", {"item": item})
        tracker.page("Item", category="shop")
        if fails:
            raise ValueError("seen")
        errors.capture_message("seen")
        return "ok"


def requested(
    path: str = "/items/7", *bodies: bytes, method: str = "GET", headers: Any = None, fails: bool = False, **scope: Any
) -> Any:
    async def do(run: Run) -> None:
        app = run.app()
        shop(app, fails=fails)
        await run.call(app, path, *bodies, method=method, headers=headers, **scope)

    return do


GOOD_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS: dict[str, Any] = {
    "request-id-good": {"x-request-id": "req_1.A-b"},
    "request-id-bad": {"x-request-id": "bad id\x01"},
    "request-id-long": {"x-request-id": "a" * 129},
    "request-id-twice": [("x-request-id", "first"), ("x-request-id", "second")],
    "traceparent-sampled": {"traceparent": GOOD_PARENT},
    "traceparent-not-sampled": {"traceparent": GOOD_PARENT[:-1] + "0"},
    "traceparent-bad": {"traceparent": "00-zz-00-01"},
    "sentry-trace-sampled": {"sentry-trace": "771a43a4192642f0b136d5159a501700-1234567890abcdef-1"},
    "sentry-trace-undecided": {"sentry-trace": "771a43a4192642f0b136d5159a501700-1234567890abcdef"},
    "both-traces": {"traceparent": GOOD_PARENT, "sentry-trace": "771a43a4192642f0b136d5159a501700-1234567890abcdef-0"},
    "baggage": {
        "sentry-trace": "771a43a4192642f0b136d5159a501700-1234567890abcdef-1",
        "baggage": "sentry-trace_id=771a43a4192642f0b136d5159a501700,sentry-environment=web,other=1",
    },
    "cookies-of-ga": {
        "cookie": "_ga=GA1.1.1234567890.1700000000; _ga_ABC123=GS1.1.1700000000.5.1.1700000300.0.0.0; theme=dark",
    },
    "cookies-of-rudderstack": {
        "cookie": "rl_anonymous_id=RS_ENC_v3_ImFub24tMSI%3D; rl_session=RS_ENC_v3_eyJpZCI6MTcwMDAwMDAwMDAwMH0%3D",
    },
    "cookies-of-rudderstack-plain": {"cookie": "rl_anonymous_id=anon-1; sessionid=cookie-CANARY"},
    "browser": {
        "user-agent": "Mozilla/5.0 (Macintosh) Safari/605", "accept-language": "de-DE,de;q=0.9",
        "referer": "https://search.example/?q=shop&token=ref-CANARY",
    },
    "credentials": {
        "authorization": "Bearer bearer-CANARY-0123456789", "cookie": "session=cookie-CANARY",
        "x-api-key": "key-CANARY",
        "x-forwarded-for": "203.0.113.9", "x-custom": "kept",
    },
    "not-latin": {"x-name": "caf\xe9", "user-agent": "\xff\xfe"},
    "host-bad": [("host", "bad host/..")],
}  # fmt: skip
for _name, _headers in HEADERS.items():
    add(f"requests.headers.{_name}", requested(headers=_headers))
add("requests.headers.credentials-of-an-error", requested(headers=HEADERS["credentials"], fails=True))
add("requests.query", requested("/items/7?page=2&token=query-CANARY&email=ann@example.com&utm_source=news&gclid=g1"))
add("requests.path-not-matched-by-route", requested("/other/7?x=1"))
add("requests.method-not-allowed", requested(method="DELETE"))
add("requests.head", requested(method="HEAD"))
add("requests.options", requested(method="OPTIONS"))
add("requests.root-path", requested(root_path="/api"))
add("requests.https", requested(scheme="https", server=("shop.example", 443)))
add("requests.no-client", requested(client=None, server=None))
add("requests.path-odd", requested("/items/a%20b", raw_path=b"/items/a%20b"))

IP: dict[str, dict[str, Any]] = {
    "off": {"send_client_ip": False},
    "on": {"send_client_ip": True},
    "trusted": {"send_client_ip": True, "trusted_proxies": (ip_network("198.51.100.0/24"),)},
    "not-trusted": {"send_client_ip": True, "trusted_proxies": (ip_network("10.0.0.0/8"),)},
}
for _name, _settings in IP.items():
    add(
        f"requests.client-ip.{_name}",
        requested(headers={"x-forwarded-for": "203.0.113.9, 198.51.100.8", "x-real-ip": "203.0.113.10"}, fails=True),
        **_settings,
    )

JSON, FORM = {"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}
PARTS = {"content-type": "multipart/form-data; boundary=b"}
MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nReport\r\n'
    b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nform-CANARY\r\n'
    b'--b\r\nContent-Disposition: form-data; name="doc"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"file-CANARY\r\n--b--\r\n"
)
BODIES: dict[str, tuple[Any, tuple[bytes, ...]]] = {
    "json": (JSON, (b'{"item":7,"password":"body-CANARY","nested":{"api_key":"body-CANARY","n":[1,2]}}',)),
    "json-in-pieces": (JSON, (b'{"item"', b":7}")),
    "json-broken": (JSON, (b'{"item":7,"password":"body-CANARY"',)),
    "form": (FORM, (b"a=1&password=body-CANARY&b=x+y",)),
    "multipart": (PARTS, (MULTIPART,)),
    "text": ({"content-type": "text/plain"}, (b"some text with password=body-CANARY",)),
    "binary": ({"content-type": "application/octet-stream"}, (b"\xff\xfe\x00",)),
    "large": (JSON, (b'{"text":"' + b"many words " * 20_000 + b'"}',)),
    "none": (JSON, ()),
    "without-type": (None, (b"hello",)),
}
for _name, (_headers, _bodies) in BODIES.items():
    add(
        f"requests.body.{_name}",
        requested("/items/7", *_bodies, method="POST", headers=_headers, fails=True),
        send_bodies=True, send_locals=False,
    )  # fmt: skip
add("requests.body.off", requested("/items/7", *BODIES["json"][1], method="POST", headers=JSON, fails=True))


@situation("requests.redirect")
async def _redirect(run: Run) -> None:
    app = run.app()
    shop(app)

    @app.get("/old")
    async def old(tracker: TrackerDep) -> RedirectResponse:
        tracker.track("moved")
        return RedirectResponse("/items/7", 308)

    await run.call(app, "/old")
    await run.call(app, "/items/7/")


@situation("requests.routers")
async def _routers(run: Run) -> None:
    app = run.app()
    inner, outer = APIRouter(prefix="/inner/{a}"), APIRouter(prefix="/outer")

    @inner.get("/{b:path}")
    async def route(tracker: TrackerDep, a: str, b: str) -> None:
        tracker.track("nested")

    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")
    await run.call(app, "/v1/outer/inner/1/2/3")


@situation("requests.mounts")
async def _mounts(run: Run) -> None:
    app, middle, inner = run.app(), FastAPI(), FastAPI()
    shop(inner)
    middle.mount("/inner", inner)
    app.mount("/middle", middle)
    app.mount("/plain", Starlette(routes=[Route("/x/{y}", lambda request: PlainTextResponse("plain"))]))
    await run.call(app, "/middle/inner/items/7")
    await run.call(app, "/middle/inner/none")
    await run.call(app, "/middle/none")
    await run.call(app, "/plain/x/1")


@situation("requests.mount-with-its-own-install")
async def _own_install(run: Run) -> None:
    observe = run.observability()
    app, inner = FastAPI(), FastAPI()
    observe.install(app, identify=lambda connection: "outer")
    observe.install(inner, identify=lambda connection: "inner")
    shop(inner)
    app.mount("/inner", inner)
    await run.call(app, "/inner/items/7")


@situation("requests.plain-starlette")
async def _starlette(run: Run) -> None:
    async def route(request: Request) -> PlainTextResponse:
        observe.tracker.track("seen")
        return PlainTextResponse("ok")

    observe = run.observability()
    app = Starlette(routes=[Route("/x/{y}", route)])
    observe.install(app)
    await run.call(app, "/x/1")


@situation("requests.middleware-added-by-hand")
async def _by_hand(run: Run) -> None:
    observe = run.observability()
    app = FastAPI(middleware=[Middleware(ObserveMiddleware, observability=observe, identify=lambda connection: "u-2")])
    shop(app, fails=True)
    async with lifespan(app) as answered:
        await run.call(app, "/items/7")
    run.see("lifespan", answered)


@situation("requests.lifespan")
async def _lifespan(run: Run) -> None:
    observe = run.observability()
    app = FastAPI()
    observe.install(app)
    shop(app)
    async with lifespan(app) as answered:
        await run.call(app, "/items/7")
    run.see("lifespan", answered)
    run.see("open", observe.is_open)
    await run.call(app, "/items/8")


@situation("requests.lifespan-fails")
async def _lifespan_fails(run: Run) -> None:
    from contextlib import asynccontextmanager

    observe = run.observability()

    @asynccontextmanager
    async def starts(app: FastAPI) -> AsyncIterator[None]:
        observe.tracker.track("starting", user_id="u")
        raise RuntimeError("no database")
        yield

    app = FastAPI(lifespan=starts)
    observe.install(app)
    async with lifespan(app) as answered:
        pass
    run.see("lifespan", answered)


@situation("requests.before-routing")
async def _before_routing(run: Run) -> None:
    """A middleware of the application's own that sends before the route is known, and after."""
    observe = run.observability()
    app = FastAPI()

    class Early:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            observe.tracker.track("early")
            observe.errors.capture_message("early")
            await self.app(scope, receive, send)
            observe.tracker.track("late")
            observe.errors.capture_message("late")

    app.add_middleware(Early)
    observe.install(app)
    shop(app)
    await run.call(app, "/items/7?token=query-CANARY")
    await run.call(app, "/none/of/them")


@situation("requests.headers-changed")
async def _headers_changed(run: Run) -> None:
    app = run.app()

    @app.get("/")
    async def route(request: Request, tracker: TrackerDep, errors: ErrorReporterDep) -> None:
        tracker.track("before")
        errors.capture_message("before")
        request.scope["headers"].append((b"x-later", b"added"))
        request.scope["path"] = "/changed"
        tracker.track("after")
        errors.capture_message("after")

    await run.call(app, "/", headers={"user-agent": "first"})


@situation("requests.tags-and-binding")
async def _tags(run: Run) -> None:
    app = run.app()

    @app.get("/")
    async def route(context: ContextDep, signals: SignalsDep) -> None:
        context.set_tag("plan", "pro")
        context.set_tag("seats", 3)
        context.set_tag("password", "tag-CANARY")
        context.set_tag("long", "x" * 300)
        context.bind_user("u-1", email="a@example.com", traits={"a": 1})
        signals.tracker.track("first")
        context.bind_user("u-1", traits={"b": 2}, workspace_id="w-1")
        signals.tracker.identify()
        context.bind_workspace("w-2", name="Two")
        signals.tracker.group(traits={"size": 4})
        signals.tracker.track("second")
        context.bind_user("u-2")
        signals.tracker.track("third")
        with signals.llm.trace("asked") as trace:
            context.bind_user("u-3", workspace_id="w-3")
            trace.update(output="answer")
        context.bind_user(None)
        signals.tracker.track("fourth")
        signals.errors.capture_message("at the end")
        run.see("user", repr(context.user))

    await run.call(app, "/")


@situation("requests.user-of-a-call")
async def _user_of_a_call(run: Run) -> None:
    app = run.app()

    @app.get("/")
    async def route(context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> None:
        context.bind_user("bound", workspace_id="w-bound")
        tracker.track("other", user_id="given", anonymous_id="anonymous")
        tracker.identify("given", email="g@example.com")
        tracker.alias("before", "given")
        with llm.trace("other", user_id="given", workspace_id="w-given", session_id="s-1", tags=["a", "b"]):
            pass
        tracker.track("bound")

    await run.call(app, "/", headers={"cookie": "rl_anonymous_id=anon-1"})


@situation("requests.outliving-task")
async def _outliving(run: Run) -> None:
    app = run.app()
    go, tasks = asyncio.Event(), list[Any]()

    @app.get("/")
    async def route(context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep) -> None:
        context.bind_user("u-1", workspace_id="w-1")

        async def later() -> None:
            await go.wait()
            tracker.track("later", {"request": current() is not None})
            with llm.trace("later"):
                pass
            errors.capture_message("later")

        tasks.append(asyncio.create_task(later()))

    await run.call(app, "/?token=query-CANARY", headers={"user-agent": "browser"})
    go.set()
    await asyncio.gather(*tasks)


@situation("requests.concurrent")
async def _concurrent(run: Run) -> None:
    app = run.app()

    @app.get("/{user}")
    async def route(user: str, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> None:
        context.bind_user(user)
        await asyncio.sleep(0)
        with llm.trace(f"of_{user}"):
            await asyncio.sleep(0)
            tracker.track(f"of_{user}")

    await asyncio.gather(*(run.call(app, f"/u{number}", headers={"x-request-id": f"r{number}"}) for number in range(5)))


@situation("requests.health-and-ignored-paths", ignore_paths=("/health*", "/private/*"))
async def _health(run: Run) -> None:
    app = run.app(health_path="/health/observability")
    shop(app, fails=True)

    @app.get("/private/{x}")
    async def private(tracker: TrackerDep) -> None:
        tracker.track("private")

    await run.call(app, "/healthz")
    await run.call(app, "/private/1")
    answer = await run.call(app, "/health/observability", headers={"accept": "text/plain"})
    run.caller[-1] = {"health": sorted({line.split("{")[0].split(" ")[0] for line in answer["body"].splitlines()})}


@situation("requests.stream")
async def _stream(run: Run) -> None:
    app = run.app()
    _streams(app)
    await run.call(app, "/finished")


@situation("requests.stream-of-a-client-that-leaves")
async def _stream_leaves(run: Run) -> None:
    app = run.app()
    _streams(app)
    await run.call(app, "/finished", leaves_after=2)


def _streams(app: FastAPI) -> None:
    @app.get("/finished")
    async def finished(context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> StreamingResponse:
        context.bind_user("u-1")
        trace = llm.trace("streamed", input="question")

        async def body() -> AsyncIterator[bytes]:
            with trace:
                for number in range(3):
                    tracker.track(f"part_{number}")
                    yield str(number).encode()
                    await asyncio.sleep(0)
                trace.update(output="whole")

        return StreamingResponse(body(), media_type="text/event-stream")


def _sockets(app: FastAPI) -> None:
    @app.websocket("/echo/{room}")
    async def echo(socket: WebSocket, room: str, tracker: TrackerDep, context: ContextDep) -> None:
        context.bind_user("u-1")
        await socket.accept(headers=[(b"x-own", b"1")])
        tracker.track("joined", {"room": room})
        while True:
            await socket.send_text(await socket.receive_text())
            tracker.track("message")

    @app.websocket("/rejected")
    async def rejected(socket: WebSocket, tracker: TrackerDep) -> None:
        tracker.track("rejected")
        raise WebSocketException(1008, "not you")

    @app.websocket("/closed")
    async def closed(socket: WebSocket) -> None:
        await socket.close(1001)

    @app.websocket("/crashed")
    async def crashed(socket: WebSocket) -> None:
        await socket.accept()
        raise ValueError("crashed")

    @app.websocket("/refused", dependencies=[Depends(lambda: 1 // 0)])
    async def refused(socket: WebSocket) -> None: ...


for _name, _path in {
    "accepted": "/echo/7?token=query-CANARY", "rejected": "/rejected", "closed": "/closed", "crashed": "/crashed",
    "crashed-before": "/refused", "not-found": "/none",
}.items():  # fmt: skip

    def _socket(path: str) -> Any:
        async def do(run: Run) -> None:
            app = run.app()
            _sockets(app)
            await run.connect(app, path, "one", "two", headers={"x-request-id": "socket-1"})

        return do

    add(f"requests.websocket.{_name}", _socket(_path))
