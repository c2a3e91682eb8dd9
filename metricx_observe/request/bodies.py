"""What is shown of a request's body (METRICX_SEND_BODIES): what has names, which say what in it is secret.

JSON, forms and XML. Of an uploaded file, which may hold anything, its field, name, type and size; of a body without any
structure its type and size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import CloseBoundaryNotFoundDefect, MessageError
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

import orjson

from .inbound import MAX_BODY

_MOST_PARTS, _MOST_NESTED = 200, 3
_NAME = 200
"""Characters of a field's or a file's name."""
_FIELD_NAME = re.compile(r"[^\s\x00-\x1f]{1,100}")
_FIELD_TYPES = frozenset({"", "text/plain", "application/json"})
"""Types of a part that may be a field; any other is a file, also where nothing names it as one."""
_BROKEN_HEADER = (MessageError, ValueError, LookupError, TypeError)
"""What the email package raises for a parameter in a broken encoding."""
_OTHERS_PART = re.compile(rb"content-disposition\s*:", re.I)


def shown_body(body: bytes, content_type: str) -> Any:
    """A body as it may be sent to the scrubber.

    Args:
        body: As much as was kept: at most one byte more than `MAX_BODY`, which says that there was more.
        content_type: The header, as the client wrote it.
    """
    kind = _kind(content_type)
    if kind.startswith("multipart/"):
        return _parts(body, content_type) or _size(body, kind)
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


def _kind(content_type: str) -> str:
    """The media type in lower case."""
    return content_type.partition(";")[0].strip().lower()[:_NAME]


def _size(body: bytes, kind: str) -> dict[str, Any]:
    size = f"more than {MAX_BODY}" if len(body) > MAX_BODY else len(body)
    return {"content_type": kind or None, "size": size}


def _json(body: bytes) -> Any:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict | list) else None  # a text alone has no name


def _form(body: bytes) -> list[dict[str, str]] | None:
    """The fields in their order; None if it is not a form, as with a file that `curl --data-binary` posts."""
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=_MOST_PARTS)
    except ValueError:
        return None
    named = all(_FIELD_NAME.fullmatch(name) for name, _ in fields)
    return [{"name": name, "value": value} for name, value in fields] if named else None


def _parts(body: bytes, content_type: str) -> list[dict[str, Any]]:
    """The parts of a multipart body; none where its boundary is not in it."""
    head = f"Content-Type: {_printable(content_type)}\r\n\r\n".encode("utf-8", "replace")
    if body.lower().count(b"multipart/") > _MOST_NESTED:  # the parser compares each line with every open boundary
        return []
    try:
        message = BytesParser(policy=compat32).parsebytes(head + body)
        return list(islice(_shown_parts(message, True), _MOST_PARTS)) if message.is_multipart() else []
    except _BROKEN_HEADER:
        return []


def _shown_parts(message: Message, complete: bool) -> Iterator[dict[str, Any]]:
    """The parts of a multipart message, and of a multipart part in it. The last one may be cut off."""
    delimiter = str(message.get_boundary())
    parts: Any = message.get_payload()
    cut = any(isinstance(defect, CloseBoundaryNotFoundDefect) for defect in message.defects)
    for at, part in enumerate(parts, 1):
        is_whole = complete and not (cut and at == len(parts))
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            yield from _shown_parts(part, is_whole)
        else:
            yield _part(part, delimiter, is_whole)


def _part(part: Message, delimiter: str, complete: bool) -> dict[str, Any]:
    kind = _kind(str(part.get("content-type", "")))
    # an attached message has a list of parts as its payload, and is not a field
    content: Any = bytes(part) if part.is_multipart() else part.get_payload(decode=True)
    name, filename, is_file = _names(part)
    # a delimiter that was not read as one, or a second header: what follows may be a file's
    mixed = f"--{delimiter}".encode("utf-8", "surrogateescape") in content or _OTHERS_PART.search(content) is not None
    if is_file or kind not in _FIELD_TYPES or mixed or not name or part.defects or part.is_multipart():
        size: int | str = len(content) if complete else f"more than {len(content)}"
        return {"name": name, "filename": filename, "content_type": kind or None, "size": size}
    return {"name": name, "value": _field(content, kind) if complete else "[cut]"}


def _names(headers: Message) -> tuple[str, str | None, bool]:
    """A part's field, its file's name, and whether it is a file at all: any kind of a file name says so."""
    disposition = str(headers.get("content-disposition", ""))
    try:
        name, filename = headers.get_param("name", "", "content-disposition"), headers.get_filename()
        name = name[2] if isinstance(name, tuple) else str(name)
    except _BROKEN_HEADER:
        name, filename = "", None
    shown = _printable(re.split(r"[\\/]", str(filename))[-1][:_NAME]) if filename else None
    return _printable(name)[:_NAME], shown, "filename" in disposition.lower() or shown is not None


def _printable(value: str) -> str:
    return "".join(each if each.isprintable() else " " for each in value.encode("utf-8", "replace").decode())


def _field(content: bytes, kind: str) -> Any:
    found = _json(content) if kind == "application/json" else None
    return content.decode("utf-8", "replace") if found is None else found
