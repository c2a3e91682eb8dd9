"""What is shown of a request's body (METRICX_SEND_BODIES): what has names, which say what in it is secret.

JSON, forms and XML. Of an uploaded file, which may hold anything, its field, name, type and size; of a body without any
structure its type and size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

import orjson

from .inbound import MAX_BODY

_MOST_PARTS, _DEEPEST = 200, 3
_NAME = 200
"""Characters of a field's or a file's name."""
_FIELD_NAME = re.compile(r"[^\s\x00-\x1f]{1,100}")
_FIELD_TYPES = frozenset({"", "text/plain", "application/json"})
"""Types of a part that may be a field; any other is a file, also where nothing names it as one."""
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n|\A\r?\n")
_OTHERS_PART = re.compile(rb"content-disposition\s*:", re.I)


def shown_body(body: bytes, content_type: str) -> Any:
    """A body as it may be sent to the scrubber.

    Args:
        body: As much as was kept: at most one byte more than `MAX_BODY`, which says that there was more.
        content_type: The header, as the client wrote it.
    """
    kind, boundary = _type_of(content_type)
    if kind.startswith("multipart/"):
        parts = _parts(body, boundary, 0)
        return parts or _size(body, kind)
    if len(body) > MAX_BODY:
        return f"[body of more than {MAX_BODY} bytes]"
    shown: Any = None
    if kind == "application/x-www-form-urlencoded":
        shown = _form(body)
    elif kind.endswith(("/xml", "+xml")):
        shown = body.decode("utf-8", "replace") if body.lstrip()[:1] == b"<" else None
    elif kind.endswith(("/json", "+json")):
        shown = _json(body)
    elif not kind:
        shown = _json(body) or _form(body)
    return _size(body, kind) if shown is None else shown


def _type_of(content_type: str) -> tuple[str, str]:
    """The media type in lower case, and the boundary where there is one."""
    message = Message()
    message["content-type"] = re.sub(r"[\r\n]", " ", content_type)
    try:
        boundary = message.get_boundary() or ""
    except (MessageError, ValueError, LookupError, TypeError):  # a parameter in a broken encoding
        boundary = ""
    return content_type.partition(";")[0].strip().lower()[:_NAME], boundary


def _size(body: bytes, kind: str, **more: Any) -> dict[str, Any]:
    size = f"more than {MAX_BODY}" if len(body) > MAX_BODY else len(body)
    return {**more, "content_type": kind or None, "size": size}


def _json(body: bytes) -> Any:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict | list) else None  # a text alone has no name


def _form(body: bytes) -> list[dict[str, str]] | None:
    """The fields in their order; None where this is no form, as with a file that `curl --data-binary` posts."""
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=_MOST_PARTS)
    except ValueError:
        return None
    named = all(_FIELD_NAME.fullmatch(name) for name, _ in fields)
    return [{"name": name, "value": value} for name, value in fields] if named else None


def _parts(body: bytes, boundary: str, depth: int) -> list[dict[str, Any]]:
    """The parts of a multipart body that have a name; none where the boundary is not in it."""
    if not boundary or depth > _DEEPEST:
        return []
    try:
        delimiter = boundary.encode("latin-1")
    except UnicodeEncodeError:
        return []
    between = re.compile(rb"(?:\A|\r?\n|\r)--" + re.escape(delimiter) + rb"(--)?[ \t]*(?=\r|\n|\Z)")
    found: list[dict[str, Any]] = []
    for part, complete in islice(_between(body, between), _MOST_PARTS):
        found += _part(part, complete, delimiter, depth)
    return found


def _between(body: bytes, delimiters: re.Pattern[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each part, and whether its end was seen: it is not where the body is cut."""
    begin: int | None = None
    for delimiter in delimiters.finditer(body):
        if begin is not None:
            yield body[begin : delimiter.start()], True
        begin = delimiter.end()
        if delimiter[1]:
            return
    if begin is not None and body[begin:].strip():
        yield body[begin:], False


def _part(part: bytes, complete: bool, delimiter: bytes, depth: int) -> list[dict[str, Any]]:
    part = re.sub(rb"\A\r?\n|\A\r", b"", part, count=1)
    end = _END_OF_HEADERS.search(part)
    headers = BytesHeaderParser(policy=compat32).parsebytes(part[: end.start()] + b"\r\n\r\n" if end else part)
    content = part[end.end() :] if end else part
    name, filename, is_file = _names(headers)
    kind, boundary = _type_of(str(headers.get("content-type", "")))
    if kind.startswith("multipart/"):
        return _parts(content, boundary, depth + 1) or [_file(name, filename, kind, content, complete)]
    # a delimiter that was not read as one, or a second header: what follows may be a file's
    mixed = b"--" + delimiter in content or _OTHERS_PART.search(content) is not None
    if is_file or kind not in _FIELD_TYPES or mixed or not name or end is None:
        return [_file(name, filename, kind, content, complete)]
    return [{"name": name, "value": _field(content, kind) if complete else "[cut]"}]


def _names(headers: Message) -> tuple[str, str | None, bool]:
    """A part's field, its file's name, and whether it is a file at all: any kind of a file name says so."""
    disposition = str(headers.get("content-disposition", ""))
    try:
        name, filename = headers.get_param("name", "", "content-disposition"), headers.get_filename()
        name = name[2] if isinstance(name, tuple) else str(name)
    except (MessageError, ValueError, LookupError, TypeError):  # in a broken encoding
        name, filename = "", None
    shown = _text(re.split(r"[\\/]", str(filename))[-1][:_NAME]) if filename else None
    return _text(name)[:_NAME], shown, "filename" in disposition.lower() or shown is not None


def _text(value: str) -> str:
    return "".join(each if each.isprintable() else " " for each in value.encode("utf-8", "replace").decode())


def _field(content: bytes, kind: str) -> Any:
    found = _json(content) if kind == "application/json" else None
    return content.decode("utf-8", "replace") if found is None else found


def _file(name: str, filename: str | None, kind: str, content: bytes, complete: bool) -> dict[str, Any]:
    size: int | str = len(content) if complete else f"more than {len(content)}"
    return {"name": name, "filename": filename, "content_type": kind or None, "size": size}
