"""`python -m demo_app` and `python -m demo_app.traffic` as a user types them."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from .processes import Python, run_python

ROOT = Path(__file__).parent.parent


class Command:
    """A running `python -m demo_app`, and the lines that it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, pattern: str) -> str:
        """The first group of the first line that fits; fails when it ends or half a minute passes without one."""
        while True:
            line = self._queue.get(timeout=30)
            assert line is not None, f"it ended without {pattern!r}: {self.lines}"
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found[1]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send the signal; the exit code and everything that was printed."""
        self.process.send_signal(number)
        return self.process.wait(30), self.rest()

    def rest(self) -> str:
        """Everything that was printed, after it has ended."""
        self._reader.join(10)
        while (line := self._queue.get(timeout=1)) is not None:
            self.lines.append(line)
        return "".join(self.lines)


@contextmanager
def command(folder: Path, *options: str) -> Iterator[Command]:
    """The command in a folder of its own, with none of this machine's keys."""
    environment = {key: os.environ[key] for key in ("PATH", "LANG", "COVERAGE_PROCESS_START") if key in os.environ}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder), "HOME": str(folder)}
    process = Python(
        [sys.executable, "-m", "demo_app", *options],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    running = Command(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()  # not killed: its receiver would live on, and with it the pipe that is read here
            process.wait(30)
        running._reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_command_shows_what_users_do_and_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """It prints both addresses; traffic fills the receiver; a signal ends both with exit code 0 and no traceback."""
    with command(tmp_path, "--port", "0", "--receiver-port", "0") as demo:
        url, receiver_url = demo.wait_for(r"Demo: +(http://127\.0\.0\.1:\d+)"), demo.wait_for(r"Receiver: +(http\S+)")
        demo.wait_for("(Ctrl-C)")
        played = run_python("-m", "demo_app.traffic", "--base-url", url, "--users", "1", folder=tmp_path)
        assert "1 users played" in played.stdout
        code, printed = demo.end(number)
    assert code == 0, printed
    assert "KeyboardInterrupt" not in printed
    assert "code=" not in printed
    with pytest.raises(httpx.ConnectError):
        httpx.get(receiver_url, trust_env=False)


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["development", "production"])
def test_an_error_prints_two_lines_where_it_is_reported(tmp_path: Path, environment: str) -> None:
    """Type, text and place, and where the rest is; where errors go nowhere, the whole traceback."""
    (tmp_path / ".env").write_text(f"ENVIRONMENT={environment}\n")
    with command(tmp_path, "--port", "0", "--receiver-port", "0") as demo:
        url, receiver_url = demo.wait_for(r"Demo: +(http\S+)"), demo.wait_for(r"Receiver: +(http\S+)")
        demo.wait_for("(Ctrl-C)")
        before = len(demo.lines)
        with httpx.Client(base_url=url, trust_env=False, follow_redirects=True, timeout=30) as browser:
            account = {"workspace": "N", "email": "ada@example.com", "password": "correct horse battery"}
            browser.post("/signup", data=account).raise_for_status()
            for _ in range(2):
                # uvicorn closes a connection on which an error was raised
                assert browser.post("/debug/error", headers={"Connection": "close"}).status_code == 500
        demo.wait_for("(This is a test error)")
        demo.wait_for("(This is a test error)")
        code, _ = demo.end(signal.SIGTERM)
    printed = [line for line in demo.lines[before:] if not line.startswith("WARNING:")]
    assert code == 0
    if environment == "production":
        assert "".join(printed).count("Traceback") >= 2
    else:
        assert [line.strip() for line in printed] == 2 * [
            "ERROR:    DemoError: This is a test error: you pressed the button.",
            f"raised at demo_app/routers/debug.py:28 in raise_error, reported to {receiver_url}",
        ]


@pytest.mark.slow
def test_taken_ports_are_replaced_and_said(tmp_path: Path) -> None:
    """Where another program has the port, a free one is used and said. A closed terminal ends both as well."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        taken, receiver_taken = first.getsockname()[1], second.getsockname()[1]
        with command(tmp_path, "--port", str(taken), "--receiver-port", str(receiver_taken)) as demo:
            assert demo.wait_for(rf"Port {taken} is taken, so the demo uses (\d+)") != str(taken)
            other = demo.wait_for(rf"Port {receiver_taken} is taken, so the receiver uses (\d+)")
            assert demo.wait_for(r"Receiver: +\S+:(\d+)") == other
            health = httpx.get(f"http://127.0.0.1:{other}/api/health", trust_env=False)
            assert health.json()["status"] == "ok"
            assert demo.end(signal.SIGHUP)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["SENTRY_DSN", "DEMO_SECURE_COOKIES"])
def test_a_wrong_setting_is_named(tmp_path: Path, variable: str) -> None:
    """The demo does not start, and says which setting is at fault instead of where in the code."""
    (tmp_path / ".env").write_text(f"{variable}=nonsense\n")
    with command(tmp_path, "--port", "0", "--receiver-port", "0") as demo:
        assert demo.process.wait(30) == 1
        printed = demo.rest()
    assert variable.removeprefix("DEMO_").lower() in printed.lower()
    assert "Traceback" not in printed


def test_traffic_without_a_demo_says_what_to_start(tmp_path: Path) -> None:
    """One line, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    ended = run_python("-m", "demo_app.traffic", "--base-url", url, folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == f"Nothing answers on {url}: start the demo with `python -m demo_app` first.\n"
