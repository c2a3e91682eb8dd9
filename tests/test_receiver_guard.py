"""Who may talk to the receiver: Host, Origin, token, and the headers of every answer."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator

import httpx
import pytest

from metricx_observe.exceptions import ConfigurationError
from metricx_observe.receiver import run
from metricx_observe.receiver.server import listen
from tests.receiver_server import Receiver, running_receiver

TOKEN = "a-token"


@pytest.fixture(scope="module")
def plain() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def guarded() -> Iterator[Receiver]:
    with running_receiver(token=TOKEN) as receiver:
        yield receiver


def ask(receiver: Receiver, method: str = "GET", path: str = "/api/health", **headers: str) -> httpx.Response:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return httpx.request(method, receiver.url + path, headers=encoded, trust_env=False)


@pytest.mark.parametrize("host", ["127.0.0.1:4390", "localhost", "LOCALHOST:80", "[::1]:4390"])
def test_loopback_names_are_served(plain: Receiver, host: str) -> None:
    """The receiver is reached under each name of this machine, with any port."""
    assert ask(plain, Host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:4390", "localhost@evil.example", "[::1", ""])
def test_other_hosts_are_refused(plain: Receiver, host: str) -> None:
    """A page whose name was rebound to 127.0.0.1 still carries its own name in Host."""
    for path in ("/", "/api/signals", "/static/receiver.css"):
        assert ask(plain, path=path, Host=host).status_code == 421


def test_hosts_can_be_allowed() -> None:
    """By name, or all of them."""
    with running_receiver(allowed_hosts=("127.0.0.1", "Dev.internal")) as receiver:
        assert ask(receiver, Host="dev.internal:4390").status_code == 200
        assert ask(receiver, Host="other.internal").status_code == 421
    with running_receiver(allowed_hosts=("*",)) as receiver:
        assert ask(receiver, Host="any.example").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://[bad"])
def test_pages_of_other_sites_can_not_post_or_delete(plain: Receiver, origin: str) -> None:
    """A browser names the page's origin on each post; without CORS headers no such page reads anything either."""
    for method, path in (("POST", "/v1/batch"), ("DELETE", "/api/signals")):
        assert ask(plain, method, path, Origin=origin).status_code == 403
    answer = ask(plain, Origin=origin)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert ask(plain, "OPTIONS", "/v1/batch", Origin=origin).status_code == 403


def test_the_own_page_may_delete(plain: Receiver) -> None:
    """The page's own origin is the host that it was loaded from."""
    assert ask(plain, "DELETE", "/api/signals", Origin=plain.url).status_code == 204


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        basic("anybody", TOKEN),
        basic(TOKEN, ""),
        {"X-Sentry-Auth": f"Sentry sentry_key={TOKEN}, sentry_version=7"},
    ],
)
def test_the_token_is_taken_where_each_client_has_a_key(guarded: Receiver, headers: dict[str, str]) -> None:
    """Bearer for scripts, Basic for browsers, RudderStack and Langfuse, Sentry's own header for Sentry."""
    assert ask(guarded, **headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        basic("anybody", "wrong"),
        {"X-Sentry-Auth": "Sentry sentry_key=ä, other=a-token"},
    ],
)
def test_without_the_token_nothing_is_served(guarded: Receiver, headers: dict[str, str]) -> None:
    """401 with a challenge, so that a browser asks; pages and static files included."""
    for path in ("/", "/api/signals", "/static/receiver.css", "/v1/batch"):
        answer = ask(guarded, path=path, **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert TOKEN not in answer.text


def test_every_answer_carries_the_security_headers(plain: Receiver) -> None:
    """Pages, static files, API and refusals: no inline script or style, no framing, no sniffing, no cache."""
    for path in ("/", "/static/receiver.css", "/api/signals", "/nothing", "/api/signals?kind=x"):
        headers = ask(plain, path=path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "dev.internal"])
def test_other_addresses_need_a_token(host: str) -> None:
    """Who listens for other machines must demand a token: refused before anything is opened."""
    with pytest.raises(ConfigurationError, match="token"):
        run(host, 0)


def test_a_taken_port_is_named() -> None:
    """The second receiver on a port says which one, and what to do."""
    with running_receiver() as receiver:
        port = int(receiver.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"port {port}.*--port"):
            run("127.0.0.1", port)


def test_answers_on_a_kept_connection_do_not_wait() -> None:
    """asyncio switches Nagle's algorithm off only for sockets that name TCP: otherwise an answer takes 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
