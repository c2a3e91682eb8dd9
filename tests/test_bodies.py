"""METRICX_SEND_BODIES on the wire: names and sizes of uploaded files, fields by their names, and nothing unread."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from fastapi import FastAPI, Request

from .receiver_server import Receiver
from .support import call, observed

SECRET = "the-contents-of-the-file"
CRLF, LF = "\r\n", "\n"
DISPOSITION = "Content-Disposition: form-data; "


async def sent(receiver: Receiver, body: str | bytes, content_type: str | None) -> Any:
    """What arrives of the body of a request that fails."""
    request_id, app = uuid4().hex, FastAPI()
    headers = {"x-request-id": request_id, **({"content-type": content_type} if content_type else {})}
    with observed(receiver, send_bodies=True, send_locals=False) as observability:
        observability.install(app)

        @app.post("/")
        async def fails(request: Request) -> None:
            await request.body()
            raise ValueError("seen")

        data = body.encode() if isinstance(body, str) else body
        await call(app, "/", method="POST", headers=headers, body=data)
        assert observability.flush(10)
        (error,) = receiver.signals(request_id=request_id, kind="error")
    return error["payload"]["request"].get("data")


def form(*parts: tuple[str, str], boundary: str = "b", end: str = CRLF, close: bool = True) -> str:
    """A multipart body of parts, each with its headers and its content."""
    text = "".join(f"--{boundary}{end}{headers}{end}{end}{content}{end}" for headers, content in parts)
    return text + (f"--{boundary}--{end}" if close else "")


def file(name: str = "doc", filename: str = "a.txt", content_type: str = "text/plain") -> tuple[str, str]:
    """A part that is an uploaded file."""
    headers = f'{DISPOSITION}name="{name}"; filename="{filename}"'
    return headers + (f"\r\nContent-Type: {content_type}" if content_type else ""), SECRET


async def test_a_file_is_its_field_name_type_and_size(receiver: Receiver) -> None:
    """Fields stand beside it with their values, secret ones by their names without."""
    fields = ((f'{DISPOSITION}name="title"', "Report"), (f'{DISPOSITION}name="password"', "hunter2"))
    body = form(*fields, file(), file("x", "b"))
    title, password, first, second = await sent(receiver, body, "multipart/form-data; boundary=b")
    assert title == {"name": "title", "value": "Report"}
    assert password["name"] == "password"
    assert password["value"].startswith("[scrubbed name")
    assert first == {"name": "doc", "filename": "a.txt", "content_type": "text/plain", "size": len(SECRET)}
    assert (second["name"], second["filename"]) == ("x", "b")


MULTIPART = "multipart/form-data; boundary=b"
BODIES: dict[str, tuple[str | bytes, str | None]] = {
    "no terminator": (form(file(), close=False), MULTIPART),
    "cut": (form(file())[: -len(SECRET) // 2], MULTIPART),
    "large": (form((file()[0], SECRET * 2000), close=False), MULTIPART),
    "line feeds": (form(file(), end=LF), MULTIPART),
    "mixed line ends": (form(file()).replace(CRLF, LF, 1), MULTIPART),
    "carriage returns": (form(file(), end="\r"), MULTIPART),
    "a quoted boundary": (form(file(), boundary="a b'()+_,-./:=?"), "multipart/x; boundary=\"a b'()+_,-./:=?\""),
    "a regular expression as boundary": (form(file(), boundary=".*("), 'multipart/form-data; boundary=".*("'),
    "another boundary": (form(file(), boundary="other"), MULTIPART),
    "no boundary": (form(file()), "multipart/form-data"),
    "a boundary that cannot be read": (form(file()), "multipart/form-data; boundary*0*; boundary*=x=0*0*"),
    "capitals": (form(file()), "MULTIPART/Form-Data; BOUNDARY=b"),
    "an unknown multipart": (form(file()), "multipart/x-unknown; boundary=b"),
    "space after a delimiter": (
        form((f'{DISPOSITION}name="t"', "v"), file()).replace("--b\r\n", "--b \t\r\n"), MULTIPART,
    ),
    "a broken delimiter": (
        form((f'{DISPOSITION}name="t"', f"v\r\n--b x\r\n{file()[0]}\r\n\r\n{SECRET}")), MULTIPART,
    ),
    "a lost delimiter": (form((f'{DISPOSITION}name="t"', f"v\r\n{file()[0]}\r\n\r\n{SECRET}")), MULTIPART),
    "filename*": ((form((f"{DISPOSITION}name=doc; filename*=UTF-8''a%20b.txt", SECRET))), MULTIPART),
    "a continued filename": (form((f'{DISPOSITION}name=doc; filename*0="a"; filename*1="b.txt"', SECRET)), MULTIPART),
    "an encoded filename": (form((f'{DISPOSITION}name=doc; filename="=?utf-8?b?YS50eHQ=?="', SECRET)), MULTIPART),
    "an empty filename": (form((f'{DISPOSITION}name="doc"; filename=""', SECRET)), MULTIPART),
    "a bare filename": (form((f"{DISPOSITION}name=doc; filename=a b.txt", SECRET)), MULTIPART),
    "spaces around": (form((f'{DISPOSITION}name = "doc" ; FileName = "a.txt"', SECRET)), MULTIPART),
    "a folded header": (form((DISPOSITION + '\r\n name="doc";\r\n filename="a.txt"', SECRET)), MULTIPART),
    "a broken charset": (form((f"{DISPOSITION}name=doc; filename*=nope''%ff", SECRET)), MULTIPART),
    "no filename but a type": (form((f'{DISPOSITION}name="doc"\r\nContent-Type: text/csv', SECRET)), MULTIPART),
    "no disposition": (form(("Content-Type: text/plain", SECRET)), MULTIPART),
    "no headers": (f"--b\r\n\r\n{SECRET}\r\n--b--\r\n", MULTIPART),
    "no empty line": (f'--b\r\n{DISPOSITION}name="doc"\r\n{SECRET}\r\n--b--\r\n', MULTIPART),
    "nested": (
        form((f'{DISPOSITION}name="docs"\r\nContent-Type: multipart/mixed; boundary=c',
              form(("Content-Disposition: file; filename=a.txt", SECRET), boundary="c"))), MULTIPART,
    ),
    "nested too deep": ("--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 200 + SECRET, MULTIPART),
    "a message in it": (
        form((f'{DISPOSITION}name="doc"\r\nContent-Type: message/rfc822',
              f"{DISPOSITION}name=a\r\n\r\n{SECRET}")), MULTIPART,
    ),
    "a digest": (
        form((f'{DISPOSITION}name="doc"', f"{DISPOSITION}name=a\r\n\r\n{SECRET}")), "multipart/digest; boundary=b",
    ),
    "said to be a form": (form(file()), "application/x-www-form-urlencoded"),
    "a file said to be a form": (f"a=1&{SECRET}\nmore of it", "application/x-www-form-urlencoded"),
    "said to be JSON": (form(file()), "application/json"),
    "said to be XML": (form(file()), "application/xml"),
    "text": (SECRET, "text/plain"),
    "text in UTF-16": (SECRET.encode("utf-16"), "text/plain; charset=utf-16"),
    "a table": (f"name,value\n{SECRET},1", "text/csv"),
    "bytes": (SECRET, "application/octet-stream"),
    "an image": (SECRET, "image/svg+xml2"),
    "a type of its own": (SECRET, "x/y"),
    "no type": (SECRET, None),
    "a broken type": (SECRET, ";;;"),
    "a JSON text alone": (json.dumps(SECRET), "application/json"),
    "lines of JSON": (f'{{"a": "{SECRET}"}}\n{{"b": 1}}', "application/x-ndjson"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "content_type"), BODIES.values(), ids=list(BODIES))
async def test_no_contents_of_a_file_arrive(receiver: Receiver, body: str | bytes, content_type: str | None) -> None:
    """However a client writes it, and whatever it says of it."""
    shown = await sent(receiver, body, content_type)
    text = json.dumps(shown)
    assert shown
    assert SECRET[:12] not in text
    assert "size" in text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('filename="C:\\\\Users\\\\ann\\\\cv.pdf"', "cv.pdf"),
        ('filename="../../etc/cv.pdf"', "cv.pdf"),
        (f"filename*=UTF-8''{quote('résumé.pdf')}", "résumé.pdf"),
        ('filename="token=hunter2hunter2.txt"', "token=[scrubbed"),
        ('filename="' + "x" * 1000 + '"', "x" * 200),
    ],
)
async def test_names_of_files_are_names_and_scrubbed(receiver: Receiver, written: str, shown: str) -> None:
    """No folders of the user's, no secret, and of a long one its beginning."""
    (part,) = await sent(receiver, form((f'{DISPOSITION}name="doc"; {written}', SECRET)), MULTIPART)
    assert part["filename"].startswith(shown)
    assert len(part["filename"]) <= 200


async def test_an_address_in_the_name_of_a_file_is_hashed(receiver: Receiver) -> None:
    """As everywhere in an error."""
    (part,) = await sent(receiver, form(file(filename="cv of ann@example.com (1).pdf")), MULTIPART)
    assert "ann@" not in json.dumps(part)


async def test_fields_before_a_cut_stay(receiver: Receiver) -> None:
    """Of a body over 16 KiB: complete fields, the files so far, and of what is cut only that it was there."""
    long = (f'{DISPOSITION}name="note"', "x" * (20 << 10))
    title, first, note = await sent(receiver, form((f'{DISPOSITION}name="title"', "Report"), file(), long), MULTIPART)
    assert title == {"name": "title", "value": "Report"}
    assert first["size"] == len(SECRET)
    assert note == {"name": "note", "value": "[cut]"}


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        ('{"a": [1]}', "application/json; charset=utf-8", {"a": [1]}),
        ('{"a": 1}', "application/problem+json", {"a": 1}),
        ("a=1&a=2&b=", "application/x-www-form-urlencoded", [("a", "1"), ("a", "2"), ("b", "")]),
        ("a=%C3%A9+x", "application/x-www-form-urlencoded", [("a", "é x")]),
        ("<a><b>1</b></a>", "text/xml", "<a><b>1</b></a>"),
        (form((f'{DISPOSITION}name="a"', "1"), end=LF), MULTIPART, [("a", "1")]),
        (form((f'{DISPOSITION}name="a"\r\nContent-Type: application/json', '{"b": 1}')), MULTIPART, [("a", {"b": 1})]),
        (form((f'{DISPOSITION}name="a"', "two\r\nlines")), MULTIPART, [("a", "two\r\nlines")]),
        (form((f'{DISPOSITION}name="a"', "né\x85\u2028e")), MULTIPART, [("a", "né\x85\u2028e")]),
    ],
)
async def test_what_has_names_is_sent(receiver: Receiver, body: str, content_type: str, shown: Any) -> None:
    """JSON, forms, fields of multipart forms and XML arrive as they were."""
    if isinstance(shown, list):
        shown = [{"name": name, "value": value} for name, value in shown]
    assert await sent(receiver, body, content_type) == shown
