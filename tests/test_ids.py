"""Ids: their form, and that no two processes make the same."""

from __future__ import annotations

import os
import re

import pytest

from metricx_observe.ids import chance, new_id, new_span_id


def test_ids_have_their_form() -> None:
    """32 and 16 lower-case hex digits, never zero, and never twice."""
    ids, span_ids = {new_id() for _ in range(10_000)}, {new_span_id() for _ in range(10_000)}
    assert len(ids) == len(span_ids) == 10_000
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) and int(each, 16) for each in ids)
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) and int(each, 16) for each in span_ids)
    assert 0 <= chance() < 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_makes_other_ids() -> None:
    """The generator is seeded anew in a child: both would go on with the same numbers."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_id().encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    assert len(theirs) == 32
    assert theirs != new_id()
