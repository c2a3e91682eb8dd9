"""Each part that an issue, the README or the design names is there: `named_parts.txt` holds one on each line."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from metricx_observe import ConfigurationError, Observability, cli
from metricx_observe.settings import Settings, load_settings

from .processes import CHECKOUT
from .receiver_server import Receiver, running_receiver
from .support import call

LIST = Path(__file__).with_name("named_parts.txt")
TABLE = "\n".join(re.findall(r"^\| .*`.* \|$", (CHECKOUT / "README.md").read_text(), re.M))


def written(*kinds: str) -> list[Any]:
    """A parameter for each part of these kinds; one that is marked as missing must be missing."""
    found = []
    for text in LIST.read_text().splitlines():
        part, _, reason = (piece.strip() for piece in text.partition(" ! "))
        kind, _, rest = part.partition(" ")
        marks = pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError) if reason else ()
        if kind in kinds:
            found.append(pytest.param(kind, rest, id=part, marks=marks))
    return found


def command(part: str) -> None:
    """`--help` answers, and shows the options."""
    words = part.split()[1:]
    path = [word for word in words if not word.startswith("--")]
    shown = CliRunner().invoke(cli.app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.output)  # some CI servers make rich write colours
    assert set(words) - set(path) <= set(re.findall(r"--[a-z-]+", plain))


def setting(part: str) -> None:
    """The environment is read for it, and the README's table names it. A given value is taken."""
    variable, _, value = part.partition("=")
    names = {
        str(choice)
        for name, field in Settings.model_fields.items()
        for choice in getattr(field.validation_alias, "choices", [f"METRICX_{name.upper()}"])
    }
    assert variable in names
    assert f"`{variable}`" in TABLE
    if value:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, value)
            assert _fault() == ""


def _fault() -> str:
    """What the settings say against the environment."""
    try:
        load_settings({})
    except ConfigurationError as error:
        return str(error)
    return ""


def name(part: str) -> None:
    """It is imported, and a function has the parameters that stand behind it."""
    found = re.fullmatch(r"([\w.]+?)(?:\((.*)\))?", part)
    assert found is not None
    value = _resolved(found[1].split("."))
    wanted = {parameter.strip() for parameter in (found[2] or "").split(",")} - {""}
    assert wanted <= set(inspect.signature(value).parameters if wanted else ())


def _resolved(path: list[str]) -> Any:
    """What a dotted path means: the longest module, then attributes."""
    value: Any = importlib.import_module(path[0])
    for depth, step in enumerate(path[1:], 2):
        if not hasattr(value, step) and inspect.ismodule(value):
            assert importlib.util.find_spec(".".join(path[:depth])), f"no {step} in {path[depth - 2]}"
            importlib.import_module(".".join(path[:depth]))
        assert hasattr(value, step), f"no {step} in {path[depth - 2]}"
        value = getattr(value, step)
    return value


def make(part: str) -> None:
    """The Makefile has the target."""
    assert re.search(rf"^{re.escape(part)}:", (CHECKOUT / "Makefile").read_text(), re.M)


def script(part: str) -> None:
    """The file is there, and a shell reads it."""
    assert (CHECKOUT / part).is_file()
    assert (CHECKOUT / part).read_text().startswith("#!")


def file(part: str) -> None:
    """The file is there."""
    assert (CHECKOUT / part).is_file()


def table(part: str) -> None:
    """The page has a table in which all these words stand."""
    page, *words = part.split()
    tables = re.findall(r"(?:^\|.*\n)+", (CHECKOUT / page).read_text(), re.M)
    assert any(set(words) <= set(re.findall(r"\w+", each)) for each in tables)


KINDS: dict[str, Callable[[str], None]] = {
    each.__name__: each for each in (command, setting, name, make, script, file, table)
}


@pytest.mark.parametrize(("kind", "part"), written(*KINDS))
def test_a_named_part_is_there(kind: str, part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands answer to `--help`, settings are read, names are imported, targets and files exist."""
    monkeypatch.chdir(tmp_path)
    KINDS[kind](part)


@pytest.fixture(scope="module")
def own_receiver() -> Iterator[Receiver]:
    """One of this module's own: its signals are deleted."""
    with running_receiver() as running:
        yield running


def _asked_of_receiver(receiver: Receiver, method: str, path: str) -> object:
    """Its status, with the text of a 404: a route may have one of its own, for an id that it does not know."""
    answer = httpx.request(method, receiver.url + path, trust_env=False)
    return (404, answer.text) if answer.status_code == 404 else answer.status_code


def _asked_of_application(method: str, path: str) -> int:
    app = FastAPI()
    observability = Observability(load_settings({"environment": "test"}))
    observability.install(app, health_path="/health_path")
    try:
        return asyncio.run(call(app, path, method=method)).status
    finally:
        observability.close()


@pytest.mark.parametrize(("kind", "part"), written("route"))
def test_a_named_route_answers(kind: str, part: str, own_receiver: Receiver) -> None:
    """It answers something else than a path that nobody serves does."""
    server, method, path = part.split()
    ask = partial(_asked_of_receiver, own_receiver) if server == "receiver" else _asked_of_application
    assert ask(method, path) not in (ask(method, "/nobody-serves-this"), 405)


def test_each_part_is_of_a_known_kind() -> None:
    """No part is left out because its kind is written wrongly."""
    kinds = {text.split()[0] for text in LIST.read_text().splitlines() if text}
    assert kinds == {"#", "route", *KINDS}
