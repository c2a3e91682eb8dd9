"""Who gets Sentry's trace headers on the wire: the hosts of METRICX_TRACE_HOSTS, whatever the HTTP client."""

from __future__ import annotations

import http.client
import logging
import urllib.request
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import requests
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk.tracing_utils import should_propagate_trace

from .receiver_server import Receiver
from .support import call, observed
from .test_propagation import Service

HEADERS = {"sentry-trace", "baggage", "traceparent"}
SAMPLED = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


@pytest.fixture
def service() -> Iterator[Service]:
    """A server on loopback under two names."""
    service = Service()
    yield service
    service.close()


def _standard(url: str) -> None:
    connection = http.client.HTTPConnection(url.partition("//")[2])
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()


def _urllib(url: str) -> None:
    with urllib.request.urlopen(url) as response:
        response.read()


def _requests(url: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.get(url)


def _client(module: ModuleType) -> Callable[[str], None]:
    def get(url: str) -> None:
        with module.Client(trust_env=False, follow_redirects=True) as client:
            client.get(url)

    return get


CLIENTS: dict[str, Callable[[str], None]] = {
    "httpx": _client(httpx), "httpx2": _client(httpx2), "requests": _requests, "http.client": _standard,
    "urllib": _urllib,
}  # fmt: skip
each_client = pytest.mark.parametrize("get", CLIENTS.values(), ids=list(CLIENTS))
each_httpx = pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])


async def traced(receiver: Receiver, get: Callable[[str], None], *urls: str, **settings: Any) -> None:
    """A traced request whose route asks for these addresses."""
    app = FastAPI()
    with observed(receiver, **settings) as observability:
        observability.install(app)

        @app.get("/ask")
        def ask() -> None:
            for url in urls:
                get(url)

        assert (await call(app, "/ask", headers=SAMPLED)).status == 200


@each_client
async def test_nobody_gets_trace_headers_by_default(
    receiver: Receiver, service: Service, get: Callable[[str], None]
) -> None:
    """The SDK's own default is every host, and a provider of language models is one."""
    await traced(receiver, get, service.url, service.other)
    assert len(service.seen) == 2
    assert all(HEADERS.isdisjoint(headers) for headers in service.seen)


@each_client
async def test_the_named_host_gets_them_and_no_other(
    receiver: Receiver, service: Service, get: Callable[[str], None]
) -> None:
    """Two names of one server: one is named."""
    await traced(receiver, get, service.url, service.other, trace_hosts="127.0.0.1,*.example.com")
    assert ["sentry-trace" in headers for headers in service.seen] == [True, False]
    assert service.seen[0]["sentry-trace"].startswith("a" * 32)
    assert HEADERS.isdisjoint(service.seen[1])


@each_httpx
async def test_async_clients_keep_to_it(receiver: Receiver, service: Service, module: ModuleType) -> None:
    """As the providers' SDKs use them."""
    app = FastAPI()
    with observed(receiver, trace_hosts=f"127.0.0.1:{service.port}") as observability:
        observability.install(app)

        @app.get("/ask")
        async def ask() -> None:
            async with module.AsyncClient(trust_env=False) as client:
                await client.get(service.url)
                await client.get(service.other)

        assert (await call(app, "/ask", headers=SAMPLED)).status == 200
    assert ["sentry-trace" in headers for headers in service.seen] == [True, False]


@each_httpx
async def test_a_redirect_takes_none_of_them_along(receiver: Receiver, service: Service, module: ModuleType) -> None:
    """These clients copy all headers to where a redirect leads; the application's own baggage stays."""

    def get(url: str) -> None:
        with module.Client(trust_env=False, follow_redirects=True) as client:
            client.get(url)
            client.get(url, headers={"baggage": "shop=1"})

    await traced(receiver, get, f"{service.url}/?to={service.other}", trace_hosts="127.0.0.1")
    assert ["sentry-trace" in headers for headers in service.seen] == [True, False, True, False]
    assert "baggage" not in service.seen[1]
    assert service.seen[3]["baggage"] == "shop=1"
    assert service.seen[2]["baggage"].startswith("shop=1,sentry-")


@pytest.mark.parametrize(
    ("named", "url", "given"),
    [
        ("api.mine.com", "https://api.mine.com", True),
        ("api.mine.com", "http://API.mine.com:8080/x?y#z", True),
        ("api.mine.com", "https://user:pw@api.mine.com/", True),
        ("api.mine.com", "https://evil.com/?x=https://api.mine.com/", False),
        ("api.mine.com", "https://evil.com/#@api.mine.com/", False),
        ("api.mine.com", "https://evil.com\\@api.mine.com/", False),
        ("api.mine.com", "https://api.mine.com.evil.com/", False),
        ("api.mine.com", "https://api.mine.com@evil.com/", False),
        ("api.mine.com", "https://api.mine.com:443@evil.com/", False),
        ("api.mine.com", "https://api-mine.com/", False),
        ("api.mine.com", "https://xapi.mine.com/", False),
        ("api.mine.com", "https://evil.com/\nhttps://api.mine.com/", False),
        ("api.mine.com:443", "https://api.mine.com/", True),
        ("api.mine.com:443", "http://api.mine.com/", False),
        ("api.mine.com:80", "http://api.mine.com:80/", True),
        ("api.mine.com:80", "http://api.mine.com:8080/", False),
        ("*.mine.com", "https://a.b.mine.com/", True),
        ("*.mine.com", "https://mine.com/", False),
        ("*.mine.com", "https://evilmine.com/", False),
        ("*.mine.com", "https://evil.com/.mine.com/", False),
        ("[::1]:8000", "http://[::1]:8000/", True),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("bücher.example", "https://bücher.example/", True),
    ],
)
def test_only_a_whole_host_is_meant(receiver: Receiver, named: str, url: str, given: bool) -> None:
    """The SDK looks for a target anywhere in a URL, so ours begin where it begins and end where the host does."""
    with observed(receiver, trace_hosts=named) as observability:
        observability.start()
        assert should_propagate_trace(sentry_sdk.get_client(), url) is given


def test_a_wrong_entry_is_one_warning_without_a_host(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The others hold, and the warning does not repeat what was typed, which may hold a password."""
    wrong = ["https://user:hunter2@api.mine.com", "a b", "*", "api.mine.com/x"]
    with caplog.at_level(logging.WARNING), observed(receiver, trace_hosts=[*wrong, "ok.mine.com"]) as observability:
        observability.start()
        assert should_propagate_trace(sentry_sdk.get_client(), "https://ok.mine.com/")
        assert not should_propagate_trace(sentry_sdk.get_client(), "https://api.mine.com/")
    (warning,) = (record.getMessage() for record in caplog.records if "METRICX_TRACE_HOSTS" in record.getMessage())
    assert "4 of its entries" in warning
    assert not any(word in warning for word in ("hunter2", "mine.com", "a b"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_holds_after_an_earlier_init_and_yields_to_the_option(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The earlier client's integrations ask ours; what the application gives by `sentry_options` wins."""
    before = sentry_sdk.get_client()
    sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", trace_propagation_targets=["first.example"])
    try:
        with caplog.at_level(logging.WARNING), observed(receiver) as observability:
            observability.start()
            assert not should_propagate_trace(sentry_sdk.get_client(), "https://first.example/")
        assert "trace_propagation_targets" in caplog.text
        options = {"trace_propagation_targets": ["given.example"]}
        with observed(receiver, trace_hosts="other.example", sentry_options=options) as observability:
            observability.start()
            assert should_propagate_trace(sentry_sdk.get_client(), "https://given.example/")
            assert not should_propagate_trace(sentry_sdk.get_client(), "https://other.example/")
    finally:
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(before)
