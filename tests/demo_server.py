"""The demo for tests: its application under a real uvicorn in a thread, on a free port of 127.0.0.1.

with running_demo(tmp_path) as demo, demo.browser() as browser:
    demo.sign_up(browser)
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import uvicorn
from fastapi import FastAPI
from pwdlib.hashers.argon2 import Argon2Hasher

from demo_app.application import create_app
from demo_app.security import passwords
from demo_app.settings import Settings
from metricx_observe.observability import Observability

PASSWORD = "correct horse battery"


class Demo:
    """A running demo: its address and application, and what a user does there."""

    def __init__(self, url: str, app: FastAPI) -> None:
        self.url = url
        self.app = app

    @property
    def observability(self) -> Observability:
        """The one that the demo has installed."""
        inner = next(each for each in self.app.user_middleware if "observability" in each.kwargs)
        found = inner.kwargs["observability"]
        assert isinstance(found, Observability)
        return found

    def browser(self, **more: Any) -> httpx.Client:
        """A client with a cookie jar that follows redirects, like a person's browser."""
        headers = {"Accept": "text/html"}
        return httpx.Client(
            base_url=self.url, follow_redirects=True, headers=headers, trust_env=False, timeout=30, **more
        )

    def sign_up(self, browser: httpx.Client, email: str = "ada@example.com") -> httpx.Response:
        """Sign up, which also logs in."""
        return browser.post("/signup", data={"workspace": "Northwind", "email": email, "password": PASSWORD})

    def connect(self, browser: httpx.Client, name: str, decision: str = "allow") -> httpx.Response:
        """Go through the provider's consent page. The response's `history` holds the callback."""
        consent = browser.post(f"/connections/{name}").raise_for_status()
        return browser.post(consent.url, data={"decision": decision})

    def ask(self, browser: httpx.Client, question: str) -> tuple[httpx.Response, list[tuple[str, Any]]]:
        """The response and its server-sent events."""
        response = browser.post("/qa", json={"question": question}).raise_for_status()
        events = re.findall(r"^event: (.*)\ndata: (.*)$", response.text, re.M)
        return response, [(name, json.loads(data)) for name, data in events]


def callback(response: httpx.Response) -> httpx.Response:
    """The answer to the provider's redirect back to the demo, among the redirects that led to `response`."""
    (found,) = (step for step in (*response.history, response) if step.url.path.endswith("/callback"))
    return found


@contextmanager
def running_demo(folder: Path, **settings: Any) -> Iterator[Demo]:
    """The demo with its database in `folder`, until the block ends; `settings` as of `demo_app.settings.Settings`."""
    # the real parameters cost as much as the rest of a test; a hash says itself with which ones it was made
    cheap = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)
    given = {"database_url": f"sqlite:///{folder}/demo.db", "ANTHROPIC_API_KEY": None} | settings
    app = create_app(Settings.model_validate(given))  # validated: the environment and `.env` are left out
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None, lifespan="on"))
    weakened = patch.multiple(passwords, hashers=(cheap,), current_hasher=cheap)
    with weakened, socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            demo = Demo(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
            with demo.browser() as browser:
                browser.get("/login").raise_for_status()  # waits in the socket's backlog until the lifespan has begun
            yield demo
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the demo did not stop"
