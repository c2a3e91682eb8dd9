"""Starting up, in processes of their own: the line, each LOG_LEVEL's output, and what is told of something wrong."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .processes import CHECKOUT, Python, environment, run_fresh_python, run_python
from .receiver_server import Receiver

PRODUCTION = {
    "SENTRY_DSN": "https://d5f1c2aa@127.0.0.1:9/42",
    "RUDDERSTACK_WRITE_KEY": "2aBcDeFgHiJk",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1234",
    "LANGFUSE_SECRET_KEY": "sk-lf-5678",
    "LANGFUSE_HOST": "http://127.0.0.1:9",
    "ENVIRONMENT": "production",
    "LOG_LEVEL": "WARNING",
    "METRICX_PERSONAL_DATA": "keep",
}
"""As in the document. The vendors' addresses are of this machine, where nobody answers."""
LINE = "WARNING:app.main:[STARTUP] Observability: sentry, analytics, langfuse\n"
DOCUMENT = (CHECKOUT / "docs" / "observability-stack.md").read_text()
COMMAND = shlex.split(re.findall(r"`(python -c .*)`", DOCUMENT)[0])[1:]

INSTALL = "from metricx_observe import Observability\nObservability.from_env().install(app)\n"
INIT = "from metricx_observe import init_observability\ninit_observability()\n"
APP = """
from fastapi import FastAPI, Request
from metricx_observe import *
app = FastAPI()
{wiring}
@app.post("/login")
async def login(request: Request):
    password = (await request.json())["password"]
    set_user_context("u1", email="ada@example.com", workspace_id="w1")
    identify("u1", "ada@example.com")
    track("u1", "user_logged_in", {{"email": "ada@example.com", "workspace_id": "w1"}})
    trace = create_copilot_trace("u1", "w1", "is " + password + " a good password?")
    log_generation(trace, "understand", "m", [{{"role": "user", "content": password}}], "no", {{"input": 1}})
    complete_copilot_trace(trace, True, "no")
    raise ValueError("wrong password: " + password)
"""


def application(folder: Path, wiring: str) -> None:
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "__init__.py").touch()
    (folder / "app" / "main.py").write_text(APP.format(wiring=wiring))


@pytest.mark.parametrize("wiring", [INSTALL, INIT])
def test_the_start_up_line_byte_for_byte(tmp_path: Path, wiring: str) -> None:
    """In production, configured as in the document, the process prints exactly the document's line."""
    application(tmp_path, wiring)
    assert LINE in DOCUMENT
    ended = run_python("-c", "import app.main", folder=tmp_path, **PRODUCTION)
    assert (ended.stderr, ended.stdout, ended.returncode) == (LINE, "", 0)


def test_what_is_missing_has_a_line_of_its_own(tmp_path: Path) -> None:
    """A service that is off has its reason behind the line; an unset ENVIRONMENT and open addresses are told too."""
    application(tmp_path, INSTALL)
    given = {name: value for name, value in PRODUCTION.items() if name.startswith(("RUDDER", "LOG"))}
    ended = run_python("-c", "import app.main", folder=tmp_path, **given)
    assert ended.stderr.splitlines() == [
        "WARNING:app.main:[STARTUP] ENVIRONMENT is not set but a vendor's key is: taken as production. Set it.",
        "WARNING:app.main:[STARTUP] Observability: analytics",
        "WARNING:app.main:[STARTUP] sentry is off: not set: SENTRY_DSN",
        "WARNING:app.main:[STARTUP] langfuse is off: not set: LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY",
        "WARNING:app.main:[STARTUP] analytics get e-mail addresses, which GA4's terms forbid: "
        "set METRICX_PERSONAL_DATA to hash or drop, or to keep",
    ]


@contextlib.contextmanager
def served(folder: Path, output: Path, **variables: str) -> Iterator[str]:
    """`uvicorn app.main:app` in `folder`; gives its address, and leaves its whole output in a file."""
    with socket.create_server(("127.0.0.1", 0)) as listener, output.open("wb") as file:
        arguments = ["-m", "uvicorn", "app.main:app", "--fd", str(listener.fileno())]
        process = Python(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment(folder, **variables),
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(30)


def output_of_a_request(folder: Path, **variables: str) -> str:
    """What uvicorn with the application printed from its start to its end, with one request that fails."""
    application(folder, INSTALL)
    output = folder / "output.txt"
    headers = {"authorization": "Bearer eyJhbGciOi", "cookie": "session=c00k1e"}
    with served(folder, output, **variables) as url:
        response = httpx.post(f"{url}/login", json={"password": "hunter2"}, headers=headers, timeout=60)
        assert response.status_code == 500
    return output.read_text()


KEYS = ("d5f1c2aa", "2aBcDeFgHiJk", "sk-lf-5678", "sk-lf-local")
SECRETS = ("hunter2", "eyJhbGciOi", "c00k1e", "ada@example.com", *KEYS)


def test_each_level_under_uvicorn(tmp_path: Path, receiver: Receiver) -> None:
    """WARNING is quiet, INFO has the key events, DEBUG the details; none of them a secret or a post of our own.

    uvicorn prints the traceback of an unhandled error itself, with its message: that is left out here.
    """
    local = {"METRICX_RECEIVER_URL": receiver.url, "ENVIRONMENT": "development"}
    cases = {
        "production": PRODUCTION,
        "INFO": {**local, "LOG_LEVEL": "INFO"},
        "DEBUG": {**local, "LOG_LEVEL": "DEBUG"},
    }
    with ThreadPoolExecutor() as pool:
        whole = dict(zip(cases, pool.map(lambda c: output_of_a_request(tmp_path / c, **cases[c]), cases), strict=True))
    lines = {
        case: [line for line in text.splitlines() if re.match(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:", line)]
        for case, text in whole.items()
    }
    assert whole["production"].count(LINE) == 1
    expected = re.compile(rf"{re.escape(LINE.strip())}|WARNING:metricx_observe\.delivery:\w+ cannot be reached .*")
    assert [line for line in lines["production"] if not expected.fullmatch(line)] == []
    for case in ("INFO", "DEBUG"):
        events = [line for line in lines[case] if line.startswith("INFO:metricx_observe.")]
        for event in (
            "tracker:identify",
            "tracker:track user_logged_in",
            "observation:generation understand",
            "observation:span copilot",
            "reporter:error ValueError",
        ):
            assert sum(line.startswith(f"INFO:metricx_observe.{event} ") for line in events) == 1, lines[case]
    assert not [line for line in lines["INFO"] if line.startswith("DEBUG")]
    assert [line for line in lines["DEBUG"] if line.startswith("DEBUG:metricx_observe.")]
    for case in cases:
        assert not [line for line in lines[case] if re.match(r"\w+:(httpx|httpcore)", line)]
        own = "\n".join(lines[case])
        assert [secret for secret in SECRETS if secret in own] == []


def test_the_documents_command(tmp_path: Path) -> None:
    """The command of the document's troubleshooting prints the dictionary, whatever is set."""
    placeholders = re.findall(r"^(\w+)=(.*xxx.*)$", DOCUMENT, re.M)
    cases: dict[str, dict[str, str]] = {
        "nothing": {},
        "production": PRODUCTION,
        "placeholders": {**PRODUCTION, **dict(placeholders)},
        "half a pair": {**PRODUCTION, "LANGFUSE_SECRET_KEY": ""},
        "bad host": {**PRODUCTION, "LANGFUSE_HOST": "cloud.langfuse.com"},
        "bad level": {**PRODUCTION, "LOG_LEVEL": "LOUD"},
        "bad setting": {**PRODUCTION, "METRICX_PERSONAL_DATA": "hush"},
    }
    assert len(placeholders) == 5

    def states(case: str) -> tuple[dict[str, str], list[str]]:
        folder = tmp_path / case.replace(" ", "-")
        folder.mkdir()
        ended = run_python(*COMMAND, folder=folder, **cases[case])
        assert ended.returncode == 0, ended.stderr
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR:") or "is no level" in line]
        for secret in ("d5f1c2aa", "2aBcDeFgHiJk", "sk-lf-5678", "hush", "LOUD"):
            assert secret not in ended.stderr + ended.stdout
        return ast.literal_eval(ended.stdout), errors

    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(cases, pool.map(states, cases), strict=True))
    local = "local: http://127.0.0.1:4390"
    on = {"sentry": "on", "analytics": "on", "langfuse": "on"}
    assert found["nothing"][0] == {"sentry": local, "analytics": local, "langfuse": local}
    assert found["production"] == (on, [])
    for name, state in found["placeholders"][0].items():
        assert re.match(r"off: \w+ is still the document's placeholder: type the value", state), (name, state)
    assert len(found["placeholders"][1]) == 3
    half = "LANGFUSE_SECRET_KEY is not set but LANGFUSE_PUBLIC_KEY is: set both or none"
    assert found["half a pair"] == (
        {**on, "langfuse": f"off: {half}"}, [f"ERROR:__main__:[STARTUP] langfuse is off: {half}"]
    )  # fmt: skip
    assert {**found["bad host"][0], "langfuse": "on"} == on
    assert found["bad host"][0]["langfuse"].startswith("off: LANGFUSE_BASE_URL (or LANGFUSE_HOST) is no URL")
    assert found["bad level"][0] == on
    (told,) = found["bad level"][1]
    assert told.startswith("WARNING:__main__:[STARTUP] LOG_LEVEL is no level: type one of DEBUG, INFO")
    reason = "off: METRICX_PERSONAL_DATA: Input should be 'keep', 'hash' or 'drop'"
    assert found["bad setting"][0] == dict.fromkeys(on, reason)
    assert len(found["bad setting"][1]) == 1


WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if (name + ".").startswith({package!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from metricx_observe import ConfigurationError, Observability, init_observability
try:
    Observability.from_env().start()
except ConfigurationError as error:
    print(repr(str(error)))
print(init_observability())
"""


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("sentry_sdk", "sentry", "sentry"),
        ("rudderstack", "analytics", "rudderstack"),
        ("langfuse", "langfuse", "langfuse"),
    ],
)
def test_a_vendors_package_is_missing(tmp_path: Path, package: str, name: str, extra: str) -> None:
    """Without a vendor's SDK that service is off and the pip command is told."""
    ended = run_fresh_python("-c", WITHOUT.format(package=package), folder=tmp_path, **PRODUCTION)
    assert ended.returncode == 0, ended.stderr
    raised, states = map(ast.literal_eval, ended.stdout.splitlines())
    assert re.search(rf"pip install .*\[{extra}\]'$", raised)
    assert states == {"sentry": "on", "analytics": "on", "langfuse": "on", name: f"off: {raised}"}
    assert ended.stderr.splitlines().count(f"ERROR:__main__:[STARTUP] {name} is off: {raised}") == 1


def test_what_a_vendors_package_needs_is_missing(tmp_path: Path) -> None:
    """It costs that vendor alone, and no start; the missing module is named with what to type."""
    ended = run_fresh_python("-c", WITHOUT.format(package="opentelemetry.sdk"), folder=tmp_path, **PRODUCTION)
    assert ended.returncode == 0, ended.stderr
    (states,) = map(ast.literal_eval, ended.stdout.splitlines())
    assert (states["sentry"], states["analytics"]) == ("on", "on")
    told = r"off: langfuse \S+ does not fit \(ModuleNotFoundError: opentelemetry\.sdk.*\); type: pip install 'langfuse<"
    assert re.match(told, states["langfuse"])


def test_in_test_mode_nothing_leaves_and_no_file_is_written(tmp_path: Path, receiver: Receiver) -> None:
    """ENVIRONMENT=test keeps everything in memory: no post, and no file in the home or the working directory."""
    user_id = f"user-{time.monotonic_ns()}"
    code = f"""
from metricx_observe import *
print(init_observability())
track("{user_id}", "feature_used")
set_user_context("{user_id}")
capture_exception(ValueError("x"))
complete_copilot_trace(create_copilot_trace("{user_id}"))
running = Observability.default
running.flush(1)
print(running.status()["rudderstack"]["committed"])
running.close()
"""
    keys = {
        "SENTRY_DSN": receiver.url.replace("://", "://key@") + "/1",
        "RUDDERSTACK_WRITE_KEY": "key",
        "RUDDERSTACK_DATA_PLANE_URL": receiver.url,
    }
    settings = {"ENVIRONMENT": "test", "METRICX_RECEIVER_URL": receiver.url, **keys}
    ended = run_fresh_python("-B", "-c", code, folder=tmp_path, **settings)
    assert ended.returncode == 0, ended.stderr
    states, committed = map(ast.literal_eval, ended.stdout.splitlines())
    assert (states, committed) == (dict.fromkeys(("sentry", "analytics", "langfuse"), "on"), 1)
    assert list(tmp_path.iterdir()) == []
    assert receiver.signals(user=user_id) == []
