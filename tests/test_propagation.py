"""Outgoing requests carry the request's ids to the hosts that were named, and nobody's identity anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from metricx_observe import ConfigurationError, Observability
from metricx_observe.context import detached, job_cell, use_cell
from metricx_observe.ids import new_id
from metricx_observe.propagation import Propagate

from .receiver_server import Receiver
from .support import call, observed

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
OURS = {"traceparent", "x-request-id"}


class Service:
    """A server on loopback under two names, which redirects where `?to=` says. `seen`: the headers of each request."""

    def __init__(self) -> None:
        seen: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                target = self.path.partition("?to=")[2]
                self.send_response(302 if target else 200)
                if target:
                    self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.seen = seen
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url, self.other = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


def client(*hosts: str) -> httpx.Client:
    return httpx.Client(event_hooks={"request": [Propagate(hosts)]}, trust_env=False, follow_redirects=True)


def test_a_job_hands_its_ids_on_and_nobody(service: Service) -> None:
    """The named host gets the trace and the request id; no header holds the user, the address or the workspace."""
    cell = job_cell("alice", "acme", email="alice@example.com", request_id="r-1", trace_id=TRACE)
    with client("127.0.0.1") as http, use_cell(cell):
        http.get(service.url)
        http.get(service.url)
    first, second = service.seen
    assert (first["x-request-id"], second["x-request-id"]) == ("r-1", "r-1")
    version, trace_id, span_id, flags = first["traceparent"].split("-")
    assert (version, trace_id, len(span_id), flags) == ("00", TRACE, 16, "00")
    assert first["traceparent"] != second["traceparent"]
    assert not any(word in str(service.seen) for word in ("alice", "acme"))


@pytest.mark.parametrize("hosts", [["localhost"], [], ["127.0.0.1:1"], ["*.0.1.127"], ["*.127.0.0.1"]])
def test_a_host_that_is_not_named_gets_nothing(service: Service, hosts: list[str]) -> None:
    """Another name, no name, another port, and a domain that it is not below."""
    with client(*hosts) as http, use_cell(job_cell("alice")):
        http.get(service.url)
    assert OURS.isdisjoint(service.seen[0])


def test_without_a_request_nothing_is_put(service: Service) -> None:
    """Outside a request or job, and under `detached()`."""
    with client("127.0.0.1") as http:
        http.get(service.url)
        with detached():
            http.get(service.url)
    assert all(OURS.isdisjoint(headers) for headers in service.seen)


def test_what_the_request_has_already_stays(service: Service) -> None:
    """The application's own headers win, also when the request is redirected."""
    own = {"X-Request-ID": "mine"}
    with client("127.0.0.1") as http, use_cell(job_cell(request_id="r-1")):
        http.get(f"{service.url}/?to={service.other}", headers=own)
    assert [headers["x-request-id"] for headers in service.seen] == ["mine", "mine"]
    assert ["traceparent" in headers for headers in service.seen] == [True, False]


def test_a_redirect_takes_nothing_along(service: Service) -> None:
    """httpx copies headers to where a redirect leads: ours are taken off for another host, and are there on the way
    back."""
    there_and_back = f"{service.url}/?to={service.other}/?to={service.url}"
    with client("127.0.0.1") as http, use_cell(job_cell(request_id="r-1")):
        http.get(there_and_back)
    assert [set(headers) >= OURS for headers in service.seen] == [True, False, True]
    assert OURS.isdisjoint(service.seen[1])


@pytest.mark.parametrize(
    ("named", "asked", "given"),
    [
        ("api.example.com", "https://API.example.com/x", True),
        ("API.Example.com", "http://api.example.com:8080", True),
        ("api.example.com:443", "https://api.example.com", True),
        ("api.example.com:443", "http://api.example.com", False),
        ("api.example.com:8443", "https://api.example.com:8443", True),
        ("api.example.com", "https://api.example.com.evil.net", False),
        ("api.example.com", "https://api.example.com@evil.net", False),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com:8443", "https://a.example.com:8443", True),
        ("*.example.com:8443", "https://a.example.com", False),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://evilexample.com", False),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("bücher.example", "https://xn--bcher-kva.example", True),
    ],
)
def test_which_hosts_are_meant(named: str, asked: str, given: bool) -> None:
    """A name means all its ports, `:port` one, `*.` what is below a domain and never the domain or a longer word."""
    request = httpx.Request("GET", asked)
    with use_cell(job_cell()):
        Propagate(hosts=named)(request)
    assert (set(request.headers) >= OURS) is given


@pytest.mark.parametrize("host", ["", "*", "*.", "https://api.example.com", "a/b", "u@a", "a b", "a*.b", "::1", "a:b"])
def test_what_is_no_host_is_said_at_once(host: str) -> None:
    """A typing mistake is an error when the client is made: silently matching nothing, or everything, is worse."""
    with pytest.raises(ConfigurationError, match=r"api\.example\.com:8443"):
        Propagate([host])


@pytest.fixture
def running(receiver: Receiver) -> Iterator[Observability]:
    with observed(receiver, trace_hosts="127.0.0.1") as observability:
        yield observability


def calling(observability: Observability, service: Service) -> FastAPI:
    app = FastAPI()
    observability.install(app)
    propagate = Propagate(["127.0.0.1"])

    @app.get("/async")
    async def call_async() -> None:
        async with httpx.AsyncClient(event_hooks={"request": [propagate]}, trust_env=False) as http:
            await http.get(service.url)

    @app.get("/sync")
    def call_sync() -> None:
        with httpx.Client(event_hooks={"request": [propagate]}, trust_env=False) as http:
            http.get(service.url)

    return app


@pytest.mark.parametrize("path", ["/async", "/sync"])
@pytest.mark.parametrize("flags", ["01", "00"])
async def test_a_route_hands_on_what_it_was_called_with(
    running: Observability, service: Service, path: str, flags: str
) -> None:
    """The caller's trace and request id go on, with its decision whether the trace is sampled."""
    request_id = new_id()
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "x-request-id": request_id}
    assert (await call(calling(running, service), path, headers=headers)).status == 200
    (seen,) = service.seen
    assert seen["x-request-id"] == request_id
    assert seen["traceparent"].startswith(f"00-{TRACE}-")
    assert seen["traceparent"].endswith(f"-{flags}")
    assert SPAN not in seen["traceparent"]


async def test_the_other_side_is_below_sentrys_span(running: Observability, service: Service) -> None:
    """Where the SDK traces the request, `traceparent` names the same span as its own `sentry-trace`."""
    await call(calling(running, service), "/async")
    (seen,) = service.seen
    trace_id, span_id, sampled = seen["sentry-trace"].split("-")
    assert seen["traceparent"] == f"00-{trace_id}-{span_id}-0{sampled}"


async def test_with_sentry_off_the_callers_decision_goes_on(receiver: Receiver, service: Service) -> None:
    """No error vendor, no `sentry-trace`: what the caller said is handed on."""
    only_analytics = {
        "environment": "production", "rudderstack_write_key": "k", "rudderstack_data_plane_url": receiver.url,
    }  # fmt: skip
    with observed(receiver, **only_analytics) as observability:
        app = calling(observability, service)
        await call(app, "/sync", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        await call(app, "/sync")
    first, second = service.seen
    assert "sentry-trace" not in first
    assert (first["traceparent"][-3:], second["traceparent"][-3:]) == ("-01", "-00")
