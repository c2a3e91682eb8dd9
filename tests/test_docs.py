"""The documentation's Python runs, its links lead somewhere, and what it names exists."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metricx_observe import Observability, cli
from metricx_observe import context as contexts
from metricx_observe.context import detached
from metricx_observe.settings import Settings

from .doc_blocks import CHECKOUT, Block, blocks

PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
BLOCKS = blocks(*PAGES)
TEXTS = {path: path.read_text() for pattern in PAGES for path in CHECKOUT.glob(pattern)}


@pytest.fixture
def _nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.setattr(contexts.hooks, "carry_secret", None)
    monkeypatch.setattr(Observability, "default", None)
    monkeypatch.setattr(logging.getLogger("app"), "handlers", [])
    before = signal.getsignal(signal.SIGTERM)
    with detached():
        yield
    signal.signal(signal.SIGTERM, before)
    if Observability.default is not None:
        Observability.default.close()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_python_compiles(block: Block) -> None:
    """Each block is Python, also those that are pieces of the reader's own program."""
    compile(block.code, str(block), "exec", dont_inherit=True)


@pytest.mark.usefixtures("_nothing_is_sent")
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_complete], ids=str)
def test_complete_python_runs(block: Block) -> None:
    """A block that binds all that it uses runs as it stands, with the environment of a test."""
    made = vars(block.run())
    if "def handler(" in block.code:
        made["handler"]({}, None)
    if "observability" in made:
        made["observability"].close()
    if "client" in made:
        asyncio.run(made["client"].aclose())


def test_links_lead_to_files() -> None:
    """No relative link and no image is dead."""
    dead = [
        f"{path.name}: {target}"
        for path, text in TEXTS.items()
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text)
        if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists()
    ]
    assert dead == []


def test_variables_exist() -> None:
    """Each METRICX_ variable that a page names is a setting."""
    known = {f"METRICX_{name.upper()}" for name in Settings.model_fields} | {"METRICX_RECEIVER_TOKEN"}
    named = {word for text in TEXTS.values() for word in re.findall(r"METRICX_[A-Z_]+[A-Z]", text)}
    assert named <= known, named - known


@pytest.mark.parametrize("group", [(), ("outbox",)])
def test_commands_exist(group: tuple[str, ...]) -> None:
    """Each `metricx-observe` command that a page names is one."""
    words = r"\s+".join(["metricx-observe", *group, r"([a-z][a-z-]*)"])
    named = {word for text in TEXTS.values() for word in re.findall(rf"`{words}[^`]*`", text)}
    help_text = CliRunner().invoke(cli.app, [*group, "--help"]).output
    assert named
    assert named <= set(re.findall(r"[a-z-]+", help_text))


def test_which_blocks_are_complete(tmp_path: Path) -> None:
    """A block is run when it binds every name it uses, however it binds it."""
    complete = (
        "import a.b as c\nfrom d import e\n"
        "@e\nclass F(c.G):\n    def f(self, x, *y, **z):\n        return [w for w in x]\n"
        "try:\n    pass\nexcept F as error:\n    print(error, y := 1)\n"
    )
    assert Block(tmp_path, 1, "", complete).is_complete
    assert not Block(tmp_path, 1, "", "with observability.context():\n    pass\n").is_complete
