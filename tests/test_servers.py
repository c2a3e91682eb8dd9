"""SIGTERM under real servers: nothing is lost after the next start, and nothing arrives twice."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from .served import served

pytestmark = pytest.mark.slow

UVICORN = ("uvicorn", "served:app", "--port", "{port}", "--log-level", "critical")
GUNICORN = ("gunicorn", "served:app", "-b", "127.0.0.1:{port}", "--log-level", "critical", "-k")
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn --workers 2": (*UVICORN, "--workers", "2"),
    "gunicorn -k uvicorn_worker": (*GUNICORN, "uvicorn_worker.UvicornWorker"),
    "gunicorn -k asgi": (*GUNICORN, "asgi"),
    "gunicorn --preload -w 2": (*GUNICORN, "uvicorn_worker.UvicornWorker", "--preload", "-w", "2"),
}


CASES = [
    ("uvicorn", "ok"),
    ("uvicorn", "refused"),
    ("uvicorn --workers 2", "ok"),
    ("gunicorn -k uvicorn_worker", "ok"),
    ("gunicorn -k asgi", "refused"),
    ("gunicorn --preload -w 2", "ok"),
    ("gunicorn --preload -w 2", "refused"),
]


@pytest.mark.parametrize(("server", "mode"), CASES)
def test_sigterm_loses_and_doubles_nothing(tmp_path: Path, server: str, mode: str) -> None:
    """The vendors healthy or dead, one process or two, loaded before the fork or after it."""
    with served(tmp_path, *SERVERS[server], mode=mode) as running:
        answered = running.get_all(range(100))
        running.end(signal.SIGTERM)
        events, errors = running.collect()
    assert answered == list(range(100))
    assert events == Counter(range(100))
    assert errors == Counter(range(0, 100, 10))


def test_sigterm_with_vendors_that_hang(tmp_path: Path) -> None:
    """Vendors that take the connection and never answer hold the end up for no longer than the deadline, and cost
    nothing."""
    with served(tmp_path, *UVICORN, mode="hang") as running:
        answered = running.get_all(range(50))
        running.end(signal.SIGTERM)
        events, errors = running.collect()
    assert events == Counter(answered) == Counter(range(50))
    assert errors == Counter(range(0, 50, 10))
