"""One connection to a vendor that answers byte for byte what a test says."""

from __future__ import annotations

import gzip
import os
import re
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from http.client import BadStatusLine, HTTPException, RemoteDisconnected
from ipaddress import ip_address
from itertools import takewhile
from pathlib import Path
from typing import IO

import pytest

from metricx_observe.delivery import Post, connection
from metricx_observe.delivery.answer import Verdict
from metricx_observe.delivery.connection import Connection
from tests.faults import until

Parts = Sequence[bytes | threading.Event | None]
"""What is sent one by one; an event is waited for, None hangs up."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEADERS = {"X-Key": "s3cret"}


class Vendor:
    """Answers each request with the next parts, and from then on with the last ones."""

    def __init__(self, *answers: Parts, tls: ssl.SSLContext | None = None) -> None:
        self._answers, self._tls = list(answers), tls
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.hung_up = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/in?a=1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in [self._listener, *self.connections]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            stream = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with stream, stream.makefile("rb") as said:
                while self._one(stream, said):
                    pass
        connection.close()
        self.hung_up.set()

    def _one(self, stream: socket.socket, said: IO[bytes]) -> bool:
        head = b"".join(takewhile(lambda each: each != b"\r\n", said))
        length = re.search(rb"Content-Length: (\d+)", head)
        if length is None:
            return False
        self.requests.append(head + b"\r\n" + said.read(int(length[1])))
        for part in self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]:
            if part is None:
                return False
            if isinstance(part, bytes):
                stream.sendall(part)
            else:
                part.wait(10)
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A connection of a process whose environment names no proxy."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with closing(Connection()) as client:
        yield client


def to(vendor: Vendor, body: bytes = b"body") -> Post:
    return Post(vendor.url, HEADERS, body)


WHOLE: dict[str, Parts] = {
    "with a length": [OK],
    "byte by byte": [OK[at : at + 1] for at in range(len(OK))],
    "chunked": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
        b"1;a=b\r\nk\r\n0\r\nX-T: 1\r\n\r\n",
    ],
    "chunked, and a length": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ],
    "after 100": [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
    "after 103": [b"HTTP/1.1 103 Early Hints\r\nX-T: 1\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK],
    "without a reason": [b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"],
    "with bare line feeds": [b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"],
    "of HTTP/1.0 that keeps": [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"],
}
LAST: dict[str, Parts] = {
    "that closes": [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"],
    "that closes, without a length": [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", None],
    "without a length": [b"HTTP/1.1 200 OK\r\n\r\no", b"k", None],
    "of HTTP/1.0": [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"],
    "cut in its body": [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None],
    "with a bad chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nno number\r\n"],
}


@pytest.mark.parametrize("kind", [*WHOLE, *LAST])
def test_answers_are_read_in_every_form(client: Connection, kind: str) -> None:
    """Status, headers and body are the final answer's, and the connection serves again where it can."""
    with closing(Vendor(WHOLE.get(kind) or LAST[kind])) as vendor:
        for _ in range(2):
            answer = client.post(to(vendor), 15.0)
            assert (answer.verdict, "x-t" in answer.headers, client.finish()) == (Verdict.DELIVERED, False, b"ok")
        assert len(vendor.requests) == 2
        assert len(vendor.connections) == (1 if kind in WHOLE else 2)


def test_an_answer_without_a_body_is_whole(client: Connection) -> None:
    """204 and 304 have none, whatever their headers say; nothing waits for it."""
    no_content, not_modified = b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n"
    with closing(Vendor([no_content], [not_modified], [OK])) as vendor:
        said = [(client.post(to(vendor), 15.0).status, client.finish()) for _ in range(3)]
        assert said == [(204, b""), (304, b""), (200, b"ok")]
        assert len(vendor.connections) == 1


@pytest.mark.parametrize(
    "rest",
    [b"X-B", b"X-B : 1\r\n\r\n", b"nonsense\r\n\r\n", b"Content-Length: x\r\n\r\n", b"Content-Length: 2\r\n" * 2],
)
def test_a_status_counts_although_its_headers_are_wrong(client: Connection, rest: bytes) -> None:
    """What was accepted is not sent again for a blemish; the headers that came well before it are known."""
    with closing(Vendor([b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nX-A: 1\r\n" + rest, None])) as vendor:
        answer = client.post(to(vendor), 15.0)
        assert (answer.status, answer.retry_after_s, client.finish()) == (429, 7.0, b"")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([None], RemoteDisconnected),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", None], RemoteDisconnected),
        ([b"HTTP/1.1 2", None], BadStatusLine),
        ([b"SSH-2.0-OpenSSH\r\n"], BadStatusLine),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000], HTTPException),
    ],
)
def test_what_is_no_answer_fails_the_post_and_not_the_next(
    client: Connection, parts: Parts, error: type[Exception]
) -> None:
    """A connection that ends early, speaks another protocol or never ends its headers is made anew."""
    with closing(Vendor([OK], parts, [OK])) as vendor:
        assert client.post(to(vendor), 15.0).status == 200
        assert client.finish() == b"ok"
        with pytest.raises(error):
            client.post(to(vendor), 15.0)
        assert client.finish() == b""
        assert client.post(to(vendor), 15.0).status == 200
        assert len(vendor.requests) == 3


def test_the_status_is_known_before_the_body(client: Connection) -> None:
    """`post` does not wait for the body; `finish` does."""
    asked = threading.Event()
    with closing(Vendor([OK[:-2], asked, b"ok"])) as vendor:
        assert client.post(to(vendor), 15.0).status == 200
        asked.set()
        assert client.finish() == b"ok"


def test_a_post_that_was_not_finished_leaves_nothing_to_the_next(client: Connection) -> None:
    """What an answer still has to say would be read as the next one's."""
    with closing(Vendor([OK[:-2]], [OK])) as vendor:
        assert client.post(to(vendor), 15.0).status == 200
        assert client.post(to(vendor), 15.0).status == 200
        assert client.finish() == b"ok"
        assert len(vendor.connections) == 2


@pytest.mark.parametrize("unasked", [[], [b"HTTP/1.1 408 Timeout\r\n"]])
def test_a_connection_that_was_given_up_while_idle_is_made_anew(client: Connection, unasked: list[bytes]) -> None:
    """Hung up in silence or with words: no post is lost, none is sent twice, and the words are no answer to it."""
    idle = threading.Event()
    with closing(Vendor([OK, idle, *unasked, None], [OK])) as vendor:
        assert client.post(to(vendor), 15.0).status == 200
        assert client.finish() == b"ok"
        idle.set()
        assert vendor.hung_up.wait(10)
        assert client.post(to(vendor, b"next"), 15.0).status == 200
        assert [each[-4:] for each in vendor.requests] == [b"body", b"next"]


def test_words_that_were_not_asked_for_are_no_answer(client: Connection) -> None:
    """A vendor that says something on an open connection is not believed to answer the next post."""
    idle, said = threading.Event(), threading.Event()
    with closing(Vendor([OK, idle, b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", said], [OK])) as vendor:
        assert client.post(to(vendor), 15.0).status == 200
        assert client.finish() == b"ok"
        idle.set()
        assert client._socket is not None
        assert client._socket.recv(1, socket.MSG_PEEK)  # it is there
        assert client.post(to(vendor), 15.0).status == 200
        said.set()


def test_a_stale_connection_is_not_tried(client: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that servers keep one, a post might meet its end."""
    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0.0)
    with closing(Vendor([OK])) as vendor:
        for _ in range(2):
            client.post(to(vendor), 15.0)
            client.finish()
        assert len(vendor.connections) == 2


def test_another_address_or_other_headers_get_a_connection_of_their_own(client: Connection) -> None:
    """What a connection sends is made with it, and never another post's."""
    with closing(Vendor([OK])) as vendor:
        for each in (to(vendor), Post(vendor.url, {"X-Key": "new"}, b""), Post(vendor.url + "b", HEADERS, b"")):
            client.post(each, 15.0)
            client.finish()
        assert [re.findall(rb"a=\w+|X-Key: \w+", each) for each in vendor.requests] == [
            [b"a=1", b"X-Key: s3cret"], [b"a=1", b"X-Key: new"], [b"a=1b", b"X-Key: s3cret"],
        ]  # fmt: skip


def test_a_post_on_the_wire(client: Connection) -> None:
    """Byte for byte, the same on a connection that is used again."""
    with closing(Vendor([OK])) as vendor:
        for body in (b"", b"body"):
            client.post(to(vendor, body), 15.0)
            client.finish()
        head = (
            f"POST /in?a=1 HTTP/1.1\r\nHost: 127.0.0.1:{vendor.port}\r\nAccept-Encoding: identity\r\n"
            "Content-Length: %d\r\nUser-Agent: metricx-observe\r\nX-Key: s3cret\r\n\r\n%s"
        )
        assert vendor.requests == [(head % (0, "")).encode(), (head % (4, "body")).encode()]


def test_a_header_that_would_end_early_is_not_sent(client: Connection) -> None:
    """A line feed in a key would let it write headers of its own."""
    with closing(Vendor([OK])) as vendor:
        with pytest.raises(ValueError, match="Invalid header value"):
            client.post(Post(vendor.url, {"X-Key": "a\r\nX-B: 1"}, b""), 15.0)
        assert vendor.connections == []


def failing(client: Connection, each: Post) -> tuple[threading.Thread, list[Exception]]:
    """A post on a thread, and the error that it ends with."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            client.post(each, 60.0)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


@pytest.mark.parametrize("parts", [[], [b"HTTP/1.1 100 Continue\r\n\r\n"], [b"HTTP/1.1 2"]])
def test_a_post_ends_at_its_deadline(client: Connection, parts: list[bytes]) -> None:
    """`check` from another thread cuts it whatever came before, and the next goes on a new connection."""
    hangs = threading.Event()
    with closing(Vendor([*parts, hangs], [OK])) as vendor:
        thread, errors = failing(client, to(vendor))
        until(lambda: vendor.requests)
        client.check()
        assert thread.is_alive()
        client.deadline -= 61.0
        client.check()
        thread.join(10)
        assert len(errors) == 1
        assert client.finish() == b""
        assert client.post(to(vendor), 15.0).status == 200
        hangs.set()


def test_a_post_that_nobody_reads_ends_at_its_deadline(client: Connection) -> None:
    """What does not fit into the buffers of a vendor that reads nothing waits no longer than an answer would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread, errors = failing(client, Post(f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, b"x" * (64 << 20)))
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1)
            client.deadline -= 61.0
            client.check()
            thread.join(10)
    assert len(errors) == 1


def test_a_handshake_ends_at_its_deadline(client: Connection) -> None:
    """A vendor that accepts and never speaks TLS holds up a post no longer than one that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError, match="timed out"):
        client.post(Post(f"https://127.0.0.1:{listener.getsockname()[1]}/", {}, b""), 0.2)


def test_a_body_that_trickles_is_read_within_its_time(client: Connection) -> None:
    """The answer is known: what never ends is cut soon, not at the deadline of the post."""
    hangs = threading.Event()
    with closing(Vendor([b"HTTP/1.1 400 No\r\nContent-Length: 100\r\n\r\nbe", b"cause", hangs])) as vendor:
        assert client.post(to(vendor), 60.0).status == 400
        said: list[bytes] = []
        thread = threading.Thread(target=lambda: said.append(client.finish()))
        thread.start()

        def cut() -> bool:
            client.check()
            return bool(said)

        until(cut)
        hangs.set()
        assert said[0] in (b"be", b"because")


def test_a_body_is_read_within_its_bound(client: Connection) -> None:
    """64 KiB, whatever the last read brought; a connection with more to come is given up."""
    text = b"HTTP/1.1 400 No\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
    with closing(Vendor([text])) as vendor:
        for _ in range(2):
            assert client.post(to(vendor), 15.0).status == 400
            assert client.finish() == b"x" * (64 << 10)
        assert len(vendor.connections) == 2


def test_all_proxy_serves_what_has_no_proxy_of_its_own(client: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the whole address, its own credentials, and what is worth it compressed; on one connection."""
    with closing(Vendor([OK])) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://ada:a%40b@127.0.0.1:{proxy.port}")
        for body in (b"x" * 10_000, b"small"):
            assert client.post(Post("http://vendor.example/in", HEADERS, body), 15.0).status == 200
            client.finish()
        (first, packed), (second, plain) = (each.split(b"\r\n\r\n", 1) for each in proxy.requests)
        assert first.split(b"\r\n") == [
            b"POST http://vendor.example/in HTTP/1.1", b"Host: vendor.example", b"Accept-Encoding: identity",
            b"Content-Length: %d" % len(packed), b"User-Agent: metricx-observe",
            b"Proxy-Authorization: Basic " + b64encode(b"ada:a@b"), b"X-Key: s3cret", b"Content-Encoding: gzip",
        ]  # fmt: skip
        assert (gzip.decompress(packed), plain, b"gzip" in second) == (b"x" * 10_000, b"small", False)
        assert len(proxy.connections) == 1


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"])
def test_a_proxy_of_another_kind_is_refused(client: Connection, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Going around a proxy that cannot be used would be worse; the error says why, and not the credentials."""
    with closing(Vendor([OK])) as proxy:
        monkeypatch.setenv(variable, f"socks5://ada:s3cret@127.0.0.1:{proxy.port}")
        scheme = "https" if variable == "HTTPS_PROXY" else "http"
        with pytest.raises(OSError, match=r"must be http://, and the environment's is socks5://$"):
            client.post(Post(f"{scheme}://vendor.example/in", HEADERS, b"body"), 15.0)
        assert client.finish() == b""
        assert proxy.connections == []


def test_posts_over_tls_share_a_connection(client: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tickets that the server sends on the way are no words unasked; one that closed the idle connection is noticed."""
    server, trusting = certified(tmp_path)
    monkeypatch.setattr(connection, "_tls", lambda: trusting)
    idle = threading.Event()
    with closing(Vendor([OK], [OK[:9], OK[9:], idle, None], [OK], tls=server)) as vendor:
        for _ in range(2):
            assert client.post(to(vendor, b"x" * 100_000), 15.0).status == 200
            assert client.finish() == b"ok"
        assert len(vendor.connections) == 1
        idle.set()
        assert vendor.hung_up.wait(10)
        assert client.post(to(vendor), 15.0).status == 200
        assert [len(each.split(b"\r\n\r\n", 1)[1]) for each in vendor.requests] == [100_000, 100_000, 4]


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own for 127.0.0.1, and a client's that trusts it alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vendor")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, file = serialization.Encoding.PEM, folder / "vendor.pem"
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(secret + certificate.public_bytes(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(pem).decode())


def test_half_an_answer_that_we_cut_is_none(client: Connection) -> None:
    """A vendor that trickles its answer has not accepted: when its time is over the post has failed."""
    sent = threading.Event()

    class Hangs(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            sent.set()
            return super().wait(timeout)

    with closing(Vendor([b"HTTP/1.1 200 OK", hangs := Hangs()])) as vendor:
        thread, errors = failing(client, to(vendor))
        assert sent.wait(10)
        client.abort()
        thread.join(10)
        hangs.set()
    assert [type(error) for error in errors] == [ConnectionAbortedError]


@pytest.mark.parametrize("cut", range(1, len(b"HTTP/1.1 200 OK\r")))
def test_half_a_status_line_is_no_answer(client: Connection, cut: int) -> None:
    """A vendor that hangs up within it has not said that it accepted: the messages would be lost."""
    with closing(Vendor([b"HTTP/1.1 200 OK\r"[:cut], None])) as vendor, pytest.raises((HTTPException, OSError)):
        client.post(to(vendor), 5)


def test_a_whole_status_line_is_an_answer(client: Connection) -> None:
    """Whatever does not follow it: the vendor has accepted, and another post would double the messages."""
    with closing(Vendor([b"HTTP/1.1 200 OK\r\n", None])) as vendor:
        assert client.post(to(vendor), 5).status == 200


def test_a_silent_vendor_is_left_though_nobody_checks(client: Connection) -> None:
    """While the outbox is busy nobody looks at deadlines: a read times out."""
    with closing(Vendor([threading.Event()])) as vendor, pytest.raises(TimeoutError):
        client.post(to(vendor), 0.2)
