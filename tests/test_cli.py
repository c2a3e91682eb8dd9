"""The command `metricx-observe`, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from metricx_observe import cli
from metricx_observe.receiver import DEFAULT_HOST, DEFAULT_PORT
from metricx_observe.settings import RECEIVER_URL

from .processes import Python, run_python
from .receiver_server import running_receiver

COMMAND = [sys.executable, "-c", "from metricx_observe.cli import main; main()"]


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command with its standard output to read from; killed if the test leaves it running."""
    process = Python(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """The address that the command prints once it accepts connections."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("metricx_observe receiver: http://"), line or process.communicate()
    return line.split()[2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_dev_serves_and_stops_cleanly(tmp_path: Path, how: signal.Signals) -> None:
    """It prints where it listens, keeps what it got in the user's state directory, and Ctrl-C leaves no traceback."""
    with command("dev", "--port", "0", XDG_STATE_HOME=str(tmp_path)) as process:
        url = address(process)
        message = {"type": "track", "event": "kept", "messageId": "1"}
        httpx.post(url + "/v1/batch", json={"batch": [message]}).raise_for_status()
        process.send_signal(how)
        _, errors = process.communicate(timeout=20)
        assert errors == ""
        assert process.returncode in (0, -how)
    store = tmp_path / "metricx-observe" / "receiver.db"
    with command("dev", "--port", "0", "--store", str(store)) as process:
        assert httpx.get(address(process) + "/api/signals").json()["signals"][0]["name"] == "kept"


def test_dev_listens_on_ipv6() -> None:
    """An IPv6 address is printed so that a browser takes it."""
    with command("dev", "--host", "::1", "--port", "0", "--store", ":memory:") as process:
        assert httpx.get(address(process) + "/api/health").status_code == 200


def test_dev_takes_its_token_from_the_environment() -> None:
    """A token in the environment stands in no process list; with one it may listen for other machines."""
    arguments = ("dev", "--host", "0.0.0.0", "--port", "0", "--store", ":memory:")
    with command(*arguments, METRICX_RECEIVER_TOKEN="s3cret") as process:
        url = address(process).replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(url + "/api/health").status_code == 401
        assert httpx.get(url + "/api/health", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_our_own_errors_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """A taken port, and an open address without a token: exit status 1, no traceback."""
    with running_receiver() as receiver:
        port = receiver.url.rpartition(":")[2]
        for arguments, reason in ((("--port", port), "--port"), (("--host", "0.0.0.0"), "token")):
            done = run_python(*COMMAND[1:], "dev", *arguments, folder=tmp_path)
            assert done.returncode == 1
            assert done.stderr.startswith("metricx-observe: ")
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1


def test_help_names_the_command_and_its_defaults() -> None:
    """`--help` is the reference: the command, the documented port and address."""
    runner = CliRunner()
    assert "dev" in runner.invoke(cli.app, []).output
    text = runner.invoke(cli.app, ["dev", "--help"]).output
    for word in ("--host", "--port", "--store", "--token", "--allowed-host", DEFAULT_HOST, str(DEFAULT_PORT)):
        assert word in text


def test_an_impossible_port_is_refused_by_the_command() -> None:
    """A port over 65535 is a usage error."""
    assert CliRunner().invoke(cli.app, ["dev", "--port", "99999"]).exit_code == 2


@pytest.mark.parametrize(
    ("missing", "extra", "command"),
    [
        ("typer", "receiver", ["dev"]),  # which needs the other extra as well
        ("typer", "cli", ["outbox", "status"]),
        ("uvicorn", "receiver", ["dev"]),
        ("jinja2", "receiver", ["dev"]),
    ],
)
def test_a_missing_extra_says_what_to_install(missing: str, extra: str, command: list[str]) -> None:
    """Without the extra's packages the command names the pip command."""
    script = f"import sys; sys.modules[{missing!r}] = None; {COMMAND[2]}"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.search(rf"pip install .*\[{extra}\]'$", done.stderr, re.M)
    assert "Traceback" not in done.stderr


def test_the_settings_default_leads_to_the_receiver() -> None:
    """Without any setting an application in development posts to where `dev` listens by default."""
    assert f"http://{DEFAULT_HOST}:{DEFAULT_PORT}" == RECEIVER_URL
