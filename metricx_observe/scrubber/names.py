"""Which names say that their value is secret, and which only look so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from itertools import pairwise
from urllib.parse import unquote

from .cards import numbers_something_else
from .hints import occurs
from .tables import WORDS
from .values import MARKER

Verdict = int
"""What a name says of its value, the more the worse. Not an enum: to look up its members costs more than the walk."""
HARMLESS = 0
ID = 1  # a number of 16 digits is no card's
SOURCE = 2  # lines of Python, where only literals can be secrets
QUERY = 3  # of an address, without the `?` before it
SIBLINGS = 4  # it depends on what stands beside it or inside: `{"name": "password", "value": …}`, `netloc`
PERSONAL = 5  # an e-mail address, a phone number or an IP address: left to the destination's policy
IN_QUERY = 6  # a secret when it is random and in an address: `?key=`
IF_RANDOM = 7  # a secret when the value is random: `code`, `state`, `session_id` (GA4's has digits)
SECRET = 8
COOKIE = 9  # secret, and a list of pairs whose names are worth keeping

SIBLINGS_OF = "name|key|field|k|variable|parameter_?key|header"
"""The names of what holds the name of a value beside it, in any case."""
_REMEMBERED, _LONGEST = 20_000, 256
"""Names, which come again and again, and characters of one: they can come from outside."""

# `APIKey` is api + key, `accessToken2` is access + token + 2.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]++|[A-Z]|\d++")
_ENDS = tuple(WORDS["secret_ends"])
_IN_QUERY = {word for word in WORDS["in_query"] if "_" not in word}
_OTHER = ("personal", "personal_pairs", "source", "query", "siblings")
"""Lists of words that say something else of a value than that it is secret."""
_STEMS = {"cookie", "input", "key", "saml", "pgt", *WORDS["secret"], *_ENDS, *WORDS["together"], *WORDS["if_random"]}
_STEMS |= _IN_QUERY
# of a pair the longest word, where neither is a stem by itself
_STEMS |= {max(pair.split("_"), key=len) for pair in WORDS["pairs"] if _STEMS.isdisjoint(pair.split("_"))}

# The name before a separator, read backwards from it: what closes it, then the name. `API key:` has a space.
name_before = re.compile(
    r"""!?\s{0,9}+\]?+(?:["'`*]{1,3}+\\{0,8}+)?+([\w.\-\[\]%$]{1,64}+"""
    r"(?:[ ](?:ipa|ssecca|terces|etavirp|drac|ytiruces)\b)?+)",
    re.I,
).match


def _words(name: str) -> list[str]:
    """The lower-case words of a name in any spelling, numbers at its end left out."""
    found = [word.lower() for word in _WORD.findall(unquote(MARKER.sub("", name)))]
    while len(found) > 1 and found[-1].isdigit():
        found.pop()
    return found


class Names:
    """The rules for names: the built-in ones and the user's."""

    def __init__(self, names: Iterable[str] = (), safe_names: Iterable[str] = ()) -> None:
        own = [words for words in map(_words, names) if words]
        self._own = [f"_{'_'.join(words)}_" for words in own]
        self._safe = {"".join(_words(name)) for name in safe_names}
        self.stems = "|".join(sorted(_STEMS | {words[-1] for words in own}))
        """What every secret name has one of, as alternatives of a pattern."""
        self._stem = re.compile(self.stems).search
        self._known = lru_cache(_REMEMBERED)(self._judged)
        self.is_telling_end = lru_cache(_REMEMBERED)(self._could_be_name)

    @cached_property  # compiled when it is needed: that takes milliseconds
    def _has_hint(self) -> Callable[[str], bool]:
        known = {"id"} | {word.split("_")[-1] for kind in _OTHER for word in WORDS[kind]}
        return occurs(f"(?i:{self.stems}|{'|'.join(sorted(known))})")

    def verdict(self, name: str) -> Verdict:
        """What a name says of its value. Case, `-`, `_`, camelCase and prefixes do not matter."""
        return self._known(name[-_LONGEST:])

    def _could_be_name(self, end: str) -> bool:
        """Whether a text that ends so could end with a secret name. Nothing at all: a space stands after the name."""
        if not end or self._stem(end[-64:].lower()) is None:
            return not end
        before = name_before(end[::-1])
        name = before[1][::-1] if before else ""
        # `\npassword=` in a repr, `\u0026code=` in JSON, `card number:`
        return any(self.verdict(each) > ID for each in (name, name[1:], name[5:], f"card_{name}"))

    def _judged(self, name: str) -> Verdict:
        words = _words(name)
        if name.isascii() and "%" not in name and not self._has_hint(name):  # most, and quickly said
            return ID if numbers_something_else(words) else HARMLESS
        whole, joined, last = "_".join(words), "".join(words), words[-1] if words else ""
        pairs, ends = {f"{first}_{second}" for first, second in pairwise(words)}, WORDS["if_random_ends"]
        if not words or joined in self._safe:
            return HARMLESS
        for verdict, applies in (
            (SECRET, any(own in f"_{whole}_" for own in self._own)),
            (COOKIE, last in ("cookie", "cookies")),
            (SECRET, whole in WORDS["pairs"] or joined in WORDS["together"] or _is_secret(words, pairs)),
            (SOURCE, whole in WORDS["source"]),
            (QUERY, whole in WORDS["query"]),
            (SIBLINGS, whole in WORDS["siblings"]),
            # a browser's `Sec-CH-UA-Mobile: ?0` is no phone number
            (PERSONAL, (last in WORDS["personal"] or pairs & WORDS["personal_pairs"]) and "ch_ua" not in pairs),
            (IF_RANDOM, joined in WORDS["if_random"] or last in ends or whole.endswith("session_id")),
            (IN_QUERY, whole in WORDS["in_query"]),
            (ID, last == "id" or numbers_something_else(words)),
        ):
            if applies:
                return verdict
        return HARMLESS


def _is_secret(words: list[str], pairs: set[str]) -> bool:
    breakdown, descriptions = WORDS["breakdown"], WORDS["descriptions"]
    if words[-1] in breakdown:
        short = [*words]
        while len(short) > 1 and short[-1] in breakdown:
            short.pop()
        words = short if short[-1] in descriptions else words
    before, last = ["", *words][-2:]
    if last == "token" and "per" in words and before in (breakdown | {"k", "m", "million"}):
        return False  # cost_per_output_token
    if before and last == "key":
        return before not in WORDS["plain_keys"]
    if before and (last in descriptions or (last == "token" and before in WORDS["plain_tokens"])):
        return before == "secret" and last == "id"  # Vault's
    ends = any(word.endswith(_ENDS) and word not in WORDS["no_pass"] for word in words)
    return ends or bool(pairs & WORDS["pairs"]) or not WORDS["secret"].isdisjoint(words)
