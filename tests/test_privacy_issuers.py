"""Keys by their look: each line of `issuers.tsv` by its own two examples, and what only looks like one."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import time
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from metricx_observe.scrubber import Scrubber

MARK = r"\[scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}\]"


class Line(NamedTuple):
    """A line of the file."""

    rule: str
    name: str
    pattern: str
    source: str
    positive: str
    negative: str

    @property
    def hidden(self) -> str:
        """What of the positive example must not leave."""
        found = re.fullmatch(self.pattern, self.positive)
        assert found is not None
        return found[found.lastindex or 0]


TEXT = files("metricx_observe.scrubber").joinpath("issuers.tsv").read_text("utf-8")
LINES = [Line(*line.split("\t")) for line in TEXT.splitlines() if not line.startswith("#")]
each_issuer = pytest.mark.parametrize("line", LINES, ids=[line.name for line in LINES])


def scrub(value: object) -> Any:
    return Scrubber().scrub(value, "error", "extra")


def left(line: Line, scrubbed: object) -> list[str]:
    """Eight characters in a row of the key that are still there, also when it was percent-encoded."""
    text = re.sub(MARK, "[]", str(scrubbed))
    forms = {line.hidden, quote(line.hidden, safe="")}
    return [form[at : at + 8] for form in forms for at in range(len(form) - 7) if form[at : at + 8] in text]


def positions(key: str) -> dict[str, object]:
    """The key where nothing but its look gives it away."""
    return {
        "prose": f"upstream does not know {key}. Try again",
        "dict": {"note": key, "n": 1},
        "list": ["a", key, "b"],
        "bytes": {"note": key.encode()},
        "name of a member": {key: 1},
        "JSON": json.dumps({"n": 1, "note": key}),
        "JSON in JSON": json.dumps({"body": json.dumps({"note": key})}),
        "repr": repr({"user": "bob", "note": [key]}),
        "after a line break in a repr": repr(f"cannot use\n{key}\nhere"),
        "query": f"https://x.io/callback?page=2&note={quote(key, safe='')}&sort=asc",
        "query as it is": f"/callback?page=2&note={key}&sort=asc",
        "path": f"/webhooks/{key}/test",
        "percent-encoded JSON": quote(json.dumps(["a", key, "b"])),
        "escaped JSON": f"\\u0022{key}\\u0022 and \\x22{key}\\x22",
        "after Bearer": f"sent Bearer {key} to x.io",
        "colours of a terminal": f"\x1b[31m{key}\x1b[0m and \\x1b[1m{key}",
        "assignment": f"note={key}; other='{key}', third:{key}",
    }


def test_the_file_has_a_hundred_issuers_with_sources() -> None:
    """Each line is whole, its name is there once, and its source is a document and not a scanner's rules."""
    assert len({line.name for line in LINES}) == len(LINES) >= 100
    assert [line.name for line in LINES if not all(field.strip() for field in line)] == []
    assert {line.rule for line in LINES} == {"vendor_key", "password_hash"}


@each_issuer
def test_a_documented_key_goes_from_wherever_it_stands(line: Line) -> None:
    """The positive example is replaced in prose, JSON, reprs, addresses and after `Bearer `; no piece of it stays."""
    misses = {where: scrub(given) for where, given in positions(line.positive).items() if left(line, scrub(given))}
    assert misses == {}
    assert scrub(f"upstream does not know {line.positive}. Try again").endswith(" Try again")


@each_issuer
def test_what_is_not_quite_a_key_stays(line: Line) -> None:
    """The negative example stands unchanged in the same places, those apart where a name stands before."""
    given = positions(line.negative)
    plain = [given[where] for where in ("prose", "dict", "list", "JSON", "JSON in JSON", "repr", "path")]
    assert [scrubbed for text in plain if (scrubbed := scrub(text)) != text] == []


@pytest.mark.slow
def test_time_is_linear_in_the_length_for_every_issuer() -> None:
    """Four times as much of a key's beginning, or of nearly a key, costs at most eight times the CPU.

    Both texts are longer than a piece that is read at once: where pieces overlap a character is read again.
    """

    def cost(text: str) -> float:
        scrubber, times = Scrubber(), []
        for at in range(5):
            start = time.thread_time()
            scrubber.text(f"{text}{at}", "error", "message")
            times.append(time.thread_time() - start)
        return min(times)

    grown = {}
    for line in LINES:
        for piece in (line.positive[:7], f"x{line.positive[:-1]}/"):
            few, many = (cost(piece * (size // len(piece))) for size in (16_000, 64_000))
            if many > 8 * max(few, 0.001):
                grown[line.name] = (piece, round(many / few))
    assert grown == {}


@each_issuer
def test_a_pattern_cannot_backtrack_without_bound(line: Line) -> None:
    """Each repetition is possessive or has an upper bound of characters, and one group at the most says what goes."""
    bare = re.sub(r"\\.|\[(?:[^\]\\]|\\.)*\]", "C", line.pattern)
    assert re.findall(r"(?:[*+]|,\})(?!\+)", re.sub(r"(?:\*|\+|\?|\{\d*,?\d*\})\+", "", bare)) == []
    assert re.compile(line.pattern).groups <= 1


NAMES = (
    "hf_model_weights_v2_final_checkpoint", "npm_config_registry_timeout_value", "task-9f8a7b6c-worker-pool-2",
    "risk-assessment-2024-q3-final", "disk-usage-monitor-20240101", "sk-container-id-12345", "sk-estimator-doc-link-2",
    "re_match_object_with_groups", "re_compile_pattern_20240101", "pul-monitor-east-1", "key-value-store-of-the-app",
    "live_session_of_customer_2", "test_should_return_404_when_user2_is_missing", "api-gateway-7d4b9c6f5-x2k9p",
    "ghp_is_a_prefix_of_tokens", "secret-santa-2024-list-of-names", "xai-explainability-toolkit-v2",
    "hvs.cluster.local", "t1.micro.instance", "ASIA_PACIFIC_NORTHEAST_1", "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "css-1dbjc4n r-13awgt0",
    "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "MuiButton-root jss123",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "refs/heads/feature-sk-refactor-scanner-2",
    "arn:aws:iam::123456789012:role/AdminRole", "gid://shopify/Product/632910392", "cus_NffrFeUfNV2Hib",
    "pi_3MtwBwLkdIwHu7ix28a3tqPa", "price_1MoBy5LkdIwHu7ixZhnattbh", "msg_01XFDUDYJgAACzvnptvVoYEL",
    "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "toolu_01A09q90qw90lq917835lq9", "claude-sonnet-4-20250514",
    "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b", "sha256:e3b0c44298fc1c149afbf4c8996fb924",
    "the cost is $5 and $6 or $7$8", "v0.0.0-20240101120000-abcdef123456", "ip-10-0-1-23.ec2.internal",
    "pk_index_of_the_table", "as-of-2024-01-01-report", "{SHA} of a tag", "sl.setAttribute", "whsec_from_dashboard",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_identifiers_are_not_keys(name: str) -> None:
    """Names made of words, ids of other sorts, hashes of commits and files, and classes of CSS stay."""
    for given in (name, {"note": name}, f"see '{name}', or {name}.", f"/a/{name}?x={name}", json.dumps([name])):
        assert scrub(given) == given


PIECES = (
    "AKIAIOSFODNN7EXAMPLE", "EAA" + "Ab1" * 20, "AIza" + "Ab1" * 12, "4111111111111111", "eyJ" + "Ab1" * 10,
    "SK" + "0123456789abcdef" * 2, "dapi" + "0123456789abcdef" * 2, "1//0" + "aB3" * 10, "IQoJb3JpZ2lu" + "Ab1" * 9,
)  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_the_inside_of_a_file_in_base64_is_not_a_key(piece: str) -> None:
    """What comes up by chance in an image, from its first character on, is a part of the image."""
    blob = base64.b64encode(random.Random(12).randbytes(900)).decode()
    for sign in "/+":
        inside = f"{sign}{piece}{sign}"
        for given in (
            f"data:image/png;base64,iVBOR{inside}{blob}", f"data:image/jpeg;base64,{blob[:70]}{inside}",
            f"{blob}{inside}", quote(f"data:image/png;base64,iVBOR{inside}"),
            json.dumps({"data": f"{blob}{inside}{blob}"}),
        ):  # fmt: skip
            assert scrub({"image": given}) == {"image": given}
            assert scrub(f"![]({given})") == f"![]({given})"


def test_an_image_of_random_bytes_stays() -> None:
    """Megabytes in base64, with or without a policy for personal data, have no false alarm."""
    scrubber, source = Scrubber(), random.Random(2026)
    for at in range(12):
        encode = (base64.b64encode, base64.urlsafe_b64encode)[at % 2]
        given = {"image": encode(source.randbytes(30_000)).decode()}
        assert scrubber.scrub(given, "generation", "input", personal=("keep", "hash")[at // 2 % 2]) == given
    by_chance = base64.b64encode(source.randbytes(90) + b'{"a\xff bob@example.com \xfe').decode()  # `eyJh`
    assert scrubber.scrub(by_chance, "generation", "input", personal="hash") == by_chance


def test_a_key_beside_a_file_in_base64_goes() -> None:
    """After it, before it, in JSON in base64, as a token of three parts, and as a PEM block."""
    blob = base64.b64encode(random.Random(5).randbytes(300)).decode().rstrip("=")
    key = "AKIAIOSFODNN7EXAMPLE"
    inside = base64.b64encode(json.dumps({"note": f"a {key}"}).encode()).decode()
    for given in (
        f"data:image/png;base64,{blob}== {key}", f"data:image/png;base64,{blob}&x={key}", f"{blob},{key}",
        f"{blob}\n{key}", f"{key} {blob}", f"sha512-{blob} {key}", f"{'0123456789abcdef' * 4}/{key}",
        f"/orgs/acme/projects/backend/{'a' * 50}/{key}",
    ):  # fmt: skip
        assert key not in scrub(given), given
    assert inside[20:40] not in scrub(f"cursor={inside}")
    assert "c2ln" not in scrub(f"{blob} eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl")
    assert blob[:40] not in scrub(f"-----BEGIN PRIVATE KEY-----\n{blob}\n-----END PRIVATE KEY-----")


def test_the_file_is_read_at_the_first_use() -> None:
    """An import of the package neither reads the formats nor compiles them."""
    code = (
        "import io, os, sys; opened = []; sys.addaudithook(lambda event, args: opened.append(str(args[0])) "
        "if event == 'open' else None); import metricx_observe.scrubber as p; early = str(opened); "
        "p.Scrubber().scrub('sk_live_x', 'error', 'extra'); print('issuers.tsv' in early, 'issuers.tsv' in str(opened))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
