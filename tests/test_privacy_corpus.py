"""The scrubber against two corpora: harmless names and values of published schemas, and secrets made from seeds."""

from __future__ import annotations

import json
import re
import secrets as system
from pathlib import Path
from typing import Any

import pytest

from metricx_observe.scrubber import MARKER, Scrubber

from .privacy_secrets import Secret, positions, secrets

HARMLESS = [
    (name, json.loads(value))
    for line in (Path(__file__).parent / "corpora" / "harmless.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for name, _, value in [line.partition(" ")]
]
RUN_SEED = system.randbelow(10**9)
"""A third of the secrets is new in each run; a failure names the seed."""


def test_the_harmless_corpus_has_five_hundred_names() -> None:
    """The figure that the corpus is measured by holds for distinct names and values."""
    assert len({(name, str(value)) for name, value in HARMLESS}) >= 500


@pytest.mark.parametrize("form", ["member", "repr", "json", "keyword"])
def test_no_harmless_value_is_taken_for_a_secret(form: str) -> None:
    """Published names and values pass unchanged, as members, in reprs, in JSON strings and as keyword arguments."""
    scrubber = Scrubber()
    alarms = []
    for name, value in HARMLESS:
        given: Any = {name: value}
        if form == "repr":
            given = {"local": repr(given)}
        elif form == "json":
            given = {"local": json.dumps(given)}
        elif form == "keyword":
            given = {"local": f"Report({name.replace('-', '_')}={value!r})"}
        if scrubber.scrub(given, "track", "properties") != given:
            alarms.append(scrubber.scrub(given, "track", "properties"))
    assert alarms == []


@pytest.mark.parametrize(("seed", "count"), [(20260124, 334), (RUN_SEED, 166)], ids=["known", "new"])
def test_no_secret_gets_through(seed: int, count: int) -> None:
    """Five hundred secrets in every place where one turns up: none is to be seen afterwards, nor a part of it."""
    scrubber = Scrubber()
    misses = [
        f"{secret.issuer} in {position}: {given!r} -> {scrubber.scrub(given, 'error', 'extra')!r}"
        for secret in secrets(seed, count)
        for position, given in positions(secret)
        if seen(secret, scrubber.scrub(given, "error", "extra"))
    ]
    assert misses == [], f"seed {seed}: {len(misses)} of {count}\n" + "\n".join(misses[:40])


def seen(secret: Secret, scrubbed: object) -> bool:
    """Whether eight characters in a row of the secret, or all of a shorter one, are left beside the markers."""
    left = re.sub(MARKER.pattern, "[]", str(scrubbed).replace("\\", ""))
    hidden = secret.hidden.replace("\n", "n").replace("\\", "")
    width = min(8, len(hidden))
    return any(hidden[at : at + width] in left for at in range(len(hidden) - width + 1))
