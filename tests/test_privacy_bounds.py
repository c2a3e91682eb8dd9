"""What the scrubber costs at worst: no text, however it is made, takes much longer than a harmless one of its size."""

from __future__ import annotations

import random
import statistics
import string
import sys
from time import thread_time
from typing import Any

import pytest

from metricx_observe.scrubber import Scrubber
from metricx_observe.scrubber.budget import CONTAINER, MAX_CHARACTERS
from metricx_observe.scrubber.names import Names
from metricx_observe.scrubber.read import Reader
from metricx_observe.scrubber.walk import MAX_DEPTH, MAX_TEXT

SIZE = 1_000_000
MOST = 500
"""Prose costs 3 ns a character, so this is 1.5 us: what one secret in every seven characters takes to replace."""
ADVERSARIES = (
    "a=", "a:", "token=", "password: ", "pin=1 ", "key=[", "key=(", "key='", 'key="', 'key=\\"', "key=\\\\'",
    "'token', ", "code=&", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=", "eyJ", "-eyJ",
    "-eyJhbGciOi.", "sk-", "-sk-aaaaaaaaaaaaaaaa", "_shpat_", "AKIA", "AAAA", "EAA", "ya29.", "SG.",
    "-SG.aaaaaaaaaaaaaaaaaaaa.", "1//0", "-----BEGIN A-----", "-----BEGIN ", "-", "_", "\\", "\\\\'", "'", '"', "://",
    "://a:b", "://a:", "%3A%2F%2Fa%3A", "%3A%2F%2F%3A%41", "Bearer ", "Bearer a", "basic  ", "4111", "4111 ", "4-",
    "1", "<password>", "<a>", "<", "(", "{", "[", "((a=", "cookie: a=b; ", "Authorization: ", 'name="token"\n\n',
    "form-data ", 'form-data; name="token"\r\n\r\n--', 'form-data; name="token"\n', "form-data; name=a\\n\\n", "<pin ",
    "<pin>", "<pin></p", "<pin a>b</pin>", 'form-data; name=a\na: b\n', "a@", "a.a@a.a", "@", "1.1.1.",
    "token%3Dab1;", "a%3Db", 'name="pin" value="a" ', "[SQL: pin", "[SQL: pin [parameters: ", "eyJhIjoi",
    "1:1:", "::", "+1 ", "(123) ",
    "input='loc'", "\x00", " ", "é=", "[scrubbed name str len=3 #abcd]", "[scrubbed ", "None", "%s", "token=%s ",
    "api key: ", "\npassword", "\n\n", "password=\n ", "日本語", "日本語=", "passwört ", "½=", "\u2028=",
)  # fmt: skip


def cost(text: str, **options: Any) -> float:
    """Seconds of CPU of scrubbing a text."""
    scrubber = Scrubber()
    start = thread_time()
    scrubber.text(text, "error", "message", **options)
    return thread_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("personal", ["keep", "hash"])
def test_no_text_takes_much_longer_than_a_harmless_one(personal: Any) -> None:
    """A megabyte made of findings, or to make a pattern backtrack, costs a fixed multiple of a megabyte of prose."""
    prose = "The campaign spent more on clicks than last week, and its return fell (see section 4). "
    harmless = min(cost((prose * SIZE)[:SIZE], personal=personal) for _ in range(3))
    slow = {
        part: round(ratio)
        for part in ADVERSARIES
        if (ratio := cost((part * (SIZE // len(part))), personal=personal) / harmless) > MOST
    }
    assert slow == {}


@pytest.mark.slow
def test_doubling_a_text_does_not_quadruple_its_cost() -> None:
    """The time is linear in the size, also for source lines and for texts that end in the middle of a pattern."""
    grown = {}
    for part in ADVERSARIES:
        small, large = (part * (size // len(part)) + "password='" for size in (10_000, 80_000))
        ratio = min(cost(large), cost(large)) / max(cost(small), 0.0005)
        if ratio > 24:  # 8 when linear; machines shake
            grown[part] = round(ratio)
    assert grown == {}


def test_depth_is_cut_with_a_marker() -> None:
    """What lies too deep is replaced, and what is above it stays."""
    value: Any = "bottom"
    for _ in range(MAX_DEPTH * 3):
        value = {"next": value, "n": 1}
    scrubbed = Scrubber().scrub(value, "error", "extra")
    assert scrubbed["n"] == 1
    assert "[cut]" in str(scrubbed)
    assert "bottom" not in str(scrubbed)


def test_depth_below_a_secret_name_is_cut_too() -> None:
    """A secret's own tree has the same bound."""
    value: Any = "bottom"
    for _ in range(MAX_DEPTH * 3):
        value = [value]
    assert "[cut]" in str(Scrubber().scrub({"password": value}, "error", "extra"))


def test_a_value_deeper_than_the_interpreters_stack_is_cut() -> None:
    """No recursion error, whatever the depth."""
    value: Any = []
    for _ in range(sys.getrecursionlimit() * 2):
        value = [value]
    assert "[cut]" in str(Scrubber().scrub(value, "error", "extra"))


def test_containers_are_cut_after_so_many() -> None:
    """The number of containers of one signal has a bound."""
    scrubber = Scrubber()
    scrubbed = scrubber.scrub([[] for _ in range(MAX_CHARACTERS // CONTAINER + 10)], "error", "extra")
    assert scrubbed[0] == []
    assert scrubbed[-1] == "[cut]"
    assert len(scrubbed) < MAX_CHARACTERS // CONTAINER
    assert scrubber.report.as_dict()["error"]["extra"]["cut"] <= 2


def test_text_is_cut_after_a_million_characters() -> None:
    """A longer text keeps its beginning and says that it was cut; so does the rest of a signal after four of them."""
    scrubber = Scrubber()
    scrubbed = scrubber.scrub([f"{at} " + "x" * (MAX_TEXT + 5) for at in range(6)], "generation", "input")
    assert [len(text) for text in scrubbed] == [MAX_TEXT + 5] * 4 + [5] * 2 or scrubbed[-1] == "[cut]"
    assert all(text.endswith("[cut]") for text in scrubbed)


def test_memory_of_names_and_texts_is_bounded() -> None:
    """Names and texts that come from outside do not pile up."""
    scrubber = Scrubber()
    for at in range(60):
        scrubber.scrub({f"name_{at}_{n}": f"text {at} {n}: {n}" for n in range(1000)}, "track", "properties")
    scrubber.text(" ".join(f"n{n}=1" for n in range(25_000)), "log", "message")
    scrubber.text("new=1", "log", "message")
    assert scrubber._names.is_telling_end.cache_info().currsize <= 21_000
    assert scrubber._names._known.cache_info().currsize <= 21_000
    assert max(map(len, scrubber._reader.clean.values())) <= 21_000


def test_the_report_is_bounded() -> None:
    """Places beyond the first 256 are counted together."""
    scrubber = Scrubber()
    for at in range(400):
        scrubber.scrub({"password": "x1"}, "error", f"place {at}")
    report = scrubber.report.as_dict()
    assert len(report["error"]) == 256
    assert report["other"]["other"]["name"] == 144


RANDOM_TEXTS = {
    "base64": string.ascii_letters + string.digits + "+/",
    "a URL's base64": string.ascii_letters + string.digits + "-_",
    "base32": string.ascii_uppercase + "234567",
    "words": string.ascii_lowercase + " " * 6,
    "words of no English": "äöüñéè日本" + string.ascii_lowercase + " " * 6,
}


@pytest.mark.parametrize("kind", RANDOM_TEXTS)
def test_random_texts_are_looked_at_as_fast_as_prose(kind: str) -> None:
    """Rust's engine keeps its states; what makes it throw them away costs a thousand times as long, and stays so."""
    reader, source = Reader(Names()), random.Random(12)
    prose = "The campaign spent more on clicks than last week, and its return fell (see section 4). " * 46

    def look(text: str) -> float:
        start = thread_time()
        assert isinstance([*reader.read(text, personal=True, source=False)], list)
        return thread_time() - start

    texts = ["".join(source.choices(RANDOM_TEXTS[kind], k=4_000)) for _ in range(60)]
    first = [look(text) for text in texts]
    assert statistics.median(first) < 40 * statistics.median(look(prose) for _ in texts)
