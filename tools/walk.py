"""How far one `track()` walks: functions, calls and files of the package, from the call until its event is posted.

    python tools/walk.py [--all]

A FastAPI application with RudderStack alone, whose gateway is a server on loopback. One event is tracked in a request
when everything is warm. Counted are the calls on the thread of the request, then on the writer's until the outbox has
the message, then on the courier's until the gateway has it. Threads tick now and then, so the shortest of several walks
counts. `--all` lists every function.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI

import metricx_observe
from metricx_observe import Observability, TrackerDep
from metricx_observe.settings import load_settings

PACKAGE = str(Path(metricx_observe.__file__).parent)
STAGES = ("the call", "to the outbox", "to the post")
WARM, WALKS = 20, 5
PROPERTIES = {"plan": "pro", "seats": 3, "source": "mail"}
DEADLINE_S = 20.0
HEADERS = [(b"host", b"shop.example"), (b"user-agent", b"Firefox"), (b"cookie", b"rl_anonymous_id=visitor")]

Function = tuple[str, str]
"""File within the package, and name."""


class Walk:
    """Counts calls by stage; `profile` is the profiler of all threads."""

    def __init__(self) -> None:
        self.calls: list[Counter[Function]] = []
        self.stage: int | None = None
        self.thread = 0
        self.posted = threading.Event()

    def begin(self) -> None:
        """Count from now on, on the thread that calls."""
        self.calls, self.thread, self.stage = [Counter() for _ in STAGES], threading.get_ident(), 0
        self.posted.clear()

    def profile(self, frame: FrameType, event: str, argument: object) -> None:  # noqa: ARG002
        """See `sys.setprofile`."""
        if self.stage is None or event not in ("call", "return") or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        here = threading.get_ident() == self.thread
        if here != (self.stage == 0):
            return
        function = frame.f_code.co_filename.removeprefix(PACKAGE + "/"), frame.f_code.co_qualname
        if event == "call":
            self.calls[self.stage][function] += 1
        elif self.stage == 1 and function[0].startswith("delivery/") and frame.f_code.co_name == "add":
            self.stage = 2

    def arrived(self) -> None:
        """The gateway has a message."""
        self.stage = None
        self.posted.set()


class Gateway(BaseHTTPRequestHandler):
    """Takes every post."""

    protocol_version = "HTTP/1.1"
    walk: Walk

    def do_POST(self) -> None:
        """Read it and say yes."""
        self.rfile.read(int(self.headers["content-length"]))
        self.walk.arrived()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


async def request(app: FastAPI) -> None:
    """One POST, as a server makes it."""
    scope = {
        "type": "http", "method": "POST", "path": "/act/7", "raw_path": b"/act/7", "query_string": b"", "root_path": "",
        "scheme": "http", "headers": HEADERS, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {},
        "asgi": {"version": "3.0"}, "http_version": "1.1", "extensions": {},
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    await app(scope, receive, send)


def walks(url: str, walk: Walk) -> list[list[Counter[Function]]]:
    """The calls of several warm events, by stage."""
    app, found = FastAPI(), list[list[Counter[Function]]]()
    observability = Observability(load_settings({
        "environment": "production", "outbox_url": "memory://", "rudderstack_write_key": "key",
        "rudderstack_data_plane_url": url,
    }))  # fmt: skip
    observability.install(app)

    @app.post("/act/{item}")
    async def act(item: int, tracker: TrackerDep) -> int:
        walk.begin()
        sys.setprofile(walk.profile)
        tracker.track("feature_used", PROPERTIES)
        sys.setprofile(None)
        walk.stage = 1
        return item

    for _ in range(WARM + WALKS):
        asyncio.run(request(app))
        if not walk.posted.wait(DEADLINE_S):
            raise SystemExit("the event was not posted")
        found.append(walk.calls)
        time.sleep(0.1)  # the threads come to rest
    observability.close(1.0)
    return found[WARM:]


def table(calls: list[Counter[Function]], *, every: bool) -> str:
    """What was counted, as text; with `every` each function."""
    lines, so_far = [f"{'':14} {'functions':>9} {'calls':>6} {'files':>6}   and so far"], Counter[Function]()
    for stage, found in zip(STAGES, calls, strict=True):
        so_far += found
        files, all_files = ({file for file, _ in each} for each in (found, so_far))
        lines.append(
            f"{stage:14} {len(found):9} {found.total():6} {len(files):6}   {len(so_far)} functions, "
            f"{so_far.total()} calls, {len(all_files)} files"
        )
    for stage, found in zip(STAGES, calls, strict=True) if every else ():
        lines += ["", stage, *(f"{n:4}  {file:32} {name}" for (file, name), n in sorted(found.items()))]
    return "\n".join(lines)


def main() -> None:
    """Print the table of the shortest walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="list every function")
    options = parser.parse_args()
    walk = Walk()
    handler = type("Handler", (Gateway,), {"walk": walk})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.setprofile(walk.profile)
    try:
        found = walks(f"http://127.0.0.1:{server.server_address[1]}", walk)
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
        server.shutdown()
    shortest = min(found, key=lambda calls: sum(each.total() for each in calls))
    print(table(shortest, every=options.all))


if __name__ == "__main__":
    main()
