"""The rules of `rules.tsv`: each by its own two examples."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import pytest

from metricx_observe.scrubber import Personal, Scrubber


class Line(NamedTuple):
    """A line of the file."""

    kind: str
    rule: str
    pattern: str
    hint: str
    positive: str
    negative: str


TEXT = files("metricx_observe.scrubber").joinpath("rules.tsv").read_text("utf-8")
LINES = [Line(*line.split("\t")) for line in TEXT.splitlines() if not line.startswith(("#", "part\t"))]
each_rule = pytest.mark.parametrize("line", LINES, ids=[line.positive for line in LINES])


@each_rule
def test_the_positive_example_loses_what_is_secret_in_it(line: Line) -> None:
    """By the line's own rule, and nothing of a secret stays."""
    scrubbed = Scrubber().scrub(line.positive, "log", "message", personal="drop")
    marked = {"personal": f"[dropped {line.rule}]"}.get(line.kind, f"[scrubbed {line.rule} str len=")
    assert marked in scrubbed
    assert "s3cr3t" not in scrubbed


@each_rule
def test_the_negative_example_stays(line: Line) -> None:
    """It looks like the positive one and holds no secret."""
    personal: Personal = "drop" if line.kind == "personal" else "keep"
    assert Scrubber().scrub(line.negative, "log", "message", personal=personal) == line.negative
