"""The benchmark's arithmetic, and that each of its applications answers. No timings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest

from bench.figures import Figure, Middle, added, markdown, ratios
from bench.guard import dearer
from bench.payloads import PROPERTIES, text
from bench.sink import Sink, signals
from bench.variants import BUILD
from bench.worker import MissingPackageError, Worker

from .processes import Python


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    """One for all variants."""
    with Sink() as running:
        yield running


def test_the_middle_half_lies_between_the_quartiles() -> None:
    """One wild round moves neither the median nor the middle half."""
    assert Middle.of([5, 1, 3, 2, 4]) == Middle(3, 2, 4)
    assert Middle.of([1, 2, 3, 4, 1000]) == Middle(3, 2, 4)
    assert Middle.of([7]) == Middle(7, 7, 7)
    with pytest.raises(ValueError, match="not enough values"):
        Middle.of([])


def test_ratios_are_made_within_a_round() -> None:
    """A round that was slow for both counts like any other; one whose divisor says nothing is left out."""
    bare = [10.0, 100.0, 10.0, 10.0]
    mine, theirs = added([11.0, 110.0, 12.0, 20.0], bare), added([20.0, 200.0, 20.0, 10.0], bare)
    assert mine == [1.0, 10.0, 2.0, 10.0]
    assert ratios(mine, theirs) == Middle.of([0.1, 0.1, 0.2])


@pytest.mark.parametrize(
    ("median", "at_least", "reached"), [(0.1, False, True), (0.3, False, False), (0.3, True, True)]
)
def test_a_figure_is_reached_by_its_median(median: float, at_least: bool, reached: bool) -> None:
    """Whether the limit is the most or the least."""
    figure = Figure("cost", "0.2 x", 0.2, Middle(median, 0.0, 9.0), at_least=at_least)
    assert figure.reached is reached
    assert figure.row()[4] == ("yes" if reached else "**no**")


def test_a_table_is_markdown() -> None:
    """Heads, a rule, rows."""
    assert markdown((("a", "b"), [["1", "2"]])) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_guard_fails_beyond_its_own_noise() -> None:
    """Overlapping repetitions say nothing, and neither does a step smaller than the repetitions lie apart."""
    assert not dearer([1.0, 1.2, 1.1], [1.0, 1.1, 1.2])
    assert not dearer([1.25, 1.5], [1.0, 1.2])
    assert dearer([1.5, 1.6], [1.0, 1.1])


def test_payloads_have_the_sizes_that_the_tables_name() -> None:
    """200 bytes an event, texts of exactly their size, and no two alike."""
    assert 180 < len(json.dumps(PROPERTIES[0])) < 260
    assert len(text(2_000, 1)) == 2_000
    assert text(2_000, 1) != text(2_000, 2)


def test_the_sink_reads_each_wire_format() -> None:
    """Signals are counted by what is in the bodies, so that a lost one cannot hide."""
    frames = [{"vars": {"a": "1"}, "context_line": "a = 1"}, {"context_line": "b = 2"}]
    event = json.dumps({"exception": {"values": [{"stacktrace": {"frames": frames}}]}}).encode()
    envelope = b'{"event_id":"e1"}\n{"type":"transaction","length":2}\n{}\n{"type":"event"}\n' + event + b"\n"
    found = [("sentry transaction", "e1"), ("sentry event", "e1"), ("sentry frame", "e1 0")]
    assert signals("/api/1/envelope/", "", envelope) == found
    batch = gzip.compress(json.dumps({"batch": [{"type": "track", "messageId": "m1"}]}).encode())
    assert signals("/v1/batch", "content-encoding: gzip", batch) == [("rudderstack track", "m1")]
    spans = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "s1"}]}]}]}).encode()
    path, head = "/api/public/otel/v1/traces", "content-type: application/json"
    assert signals(path, head, spans) == [("langfuse span", "s1")]


@pytest.mark.parametrize("name", BUILD)
def test_each_variant_answers_and_its_signals_arrive(name: str, sink: Sink) -> None:
    """An application answers on both routes, and what it sends for a request is in the sink."""
    sink.take()
    try:
        worker = Worker("bench.in_process:open_variant", name, sink.url, start=Python)
    except MissingPackageError as error:
        pytest.skip(str(error))
    with worker:
        expected = [worker.ask(n=2, path=path)["expected"] for path in ("/async", "/sync")]
    arrived = sink.take()
    assert {kind: arrived.get(kind) for kind in expected[0]} == {kind: 2 * count for kind, count in expected[0].items()}
    assert not arrived["doubled"]
