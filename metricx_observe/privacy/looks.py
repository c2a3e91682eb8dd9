"""Secrets and personal data that are known by what they look like, wherever they stand.

Every pattern is possessive or bounded, so that the time is linear in the length of the text. Where it can, it begins
with one literal character: a search for that runs at the speed of memchr, any other at a hundredth of it.
"""

from __future__ import annotations

import re

Finding = tuple[int, int, str]
"""From where to where in a text something must not leave, and the rule that found it."""

MARK = r"\[(?:scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
MARKER = re.compile(f"({MARK})")

# In a repr a line break before a word is `\n`, whose n is no part of the word. `_1`: after the first character of it.
_ALONE, _ALONE_1 = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))", r"(?:(?<![A-Za-z0-9].)|(?<=\\[nrt].))"
_NO_WORD, _NO_WORD_1 = r"(?:(?<![\w.:])|(?<=\\[nrt]))", r"(?:(?<![\w.:].)|(?<=\\[nrt].))"
_T = r"[A-Za-z0-9_\-]"
# A group is what must not leave. A JWT without its dots is matched and let go: to demand them could backtrack.
_KEYS = re.compile(
    rf"{_ALONE}(?:(eyJ{_T}{{8,}}+(?:\.{_T}*+=*+){{1,4}}+)|eyJ{_T}++"
    rf"|((?:sk|pk-lf|glpat|xapp|GOCSPX|pypi|xox[a-z])-{_T}{{16,}}+|whsec_[\w+/=]{{16,}}+"
    r"|(?:[sprk]k_(?:live|test)|shp[a-z]{2,3})_\w{16,}+|(?:gh[pousr]|github_pat|hf|npm|gsk)_\w{20,}+"
    rf"|A[A-Z]{{2}}A[A-Z0-9]{{16}}(?![A-Za-z0-9])|AIza{_T}{{30,}}+|EAA[A-Za-z0-9]{{20,}}+|ya29\.{_T}{{18,}}+"
    rf"|SG\.{_T}{{18,}}+\.{_T}{{18,}}+|(?:1//0|4/0A){_T}{{20,}}+)|hooks\.slack\.com/services/([\w/]{{20,}}+))"
)
# All of them have so many characters of their alphabet in a row, which prose seldom has.
_LONG_RUN = b"x" * 18
_RUNS = bytes(b"x"[0] if re.match(r"[\w\-./+=]", chr(byte), re.A) else b" "[0] for byte in range(256))
# Prose has `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside, or is long.
_CREDENTIALS = (
    rf"(?=earer |asic |EARER |ASIC ){_ALONE_1}\w+[ ]{{1,3}}+"
    r"(?=[A-Za-z._~+/=\-]*+\d|[a-z]*+[A-Z]+[a-z]|[A-Za-z0-9._~+/]{20})([A-Za-z0-9._~+/\-]{6,}+=*+)"
)
_CARD = re.compile(rf"{_NO_WORD}[2-6]\d{{3}}(?:[ \-]?\d){{10,15}}+(?!\w)")
_DIGITS = bytes.maketrans(b"123456789-", b"000000000 ")


def _compiled(*kinds: tuple[str, str, str]) -> list[tuple[str, str, re.Pattern[str]]]:
    return [(rule, hint, re.compile(pattern)) for rule, hint, pattern in kinds]


# The rule, a character that every text has which the rule applies to, and the pattern.
_SECRETS = _compiled(
    ("pem", "-----BEGIN ", r"-----BEGIN [\w ]{1,40}-----(?s:.*?)(?:-----END [\w ]{1,40}-----|\Z)"),
    ("credentials", "b", "b" + _CREDENTIALS),
    ("credentials", "B", "B" + _CREDENTIALS),
    ("url_password", "@", r"://(?:[^\s:/?#@'\"]{0,256}+:([^\s/?#'\"]{1,256})|([\w\-.%]{16,256}+))@"),
    ("url_password", "%", r"%(?i:3A%2F%2F)[\w\-.~]{0,256}+%(?i:3A)"
     r"([^\s&%]{0,256}+(?:%(?!40)[^\s&%]{1,256}+){0,99}+)%40"),
)  # fmt: skip
_PERSONAL = _compiled(
    ("email", "@", r"(?<![\w.+\-])[\w.+\-]{1,64}+@[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
    ("email", "%40", r"(?<![\w.+\-])[\w.+\-]{1,64}+%40[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
    # nobody's address: this machine's, and a version as in Chrome/120.0.0.0
    ("ip", ".", rf"{_NO_WORD}(?<!\w/)(?!127\.|0\.0\.)(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])"),
    ("ip", ":", rf"{_NO_WORD}(?:(?:[0-9A-Fa-f]{{1,4}}:){{7}}+[0-9A-Fa-f]{{1,4}}+(?![\w:])"
     r"|(?:[0-9A-Fa-f]{1,4}:){1,7}+(?::[0-9A-Fa-f]{1,4}+){1,7}+(?![\w:]))"),
    ("phone", "+", rf"\+{_NO_WORD_1}\d[\d ()\-.]{{6,18}}\d(?!\w)"),
    ("phone", "(", rf"\({_NO_WORD_1}\d{{3}}\)[\d ()\-.]{{6,18}}\d(?!\w)"),
)  # fmt: skip
_ISSUED = re.compile(
    r"62\d{12,17}|3[47]\d{13}|3[068]\d{12}|4\d{18}"
    r"|(?=\d{16}\Z)(?:4|5[1-5]|65|6011|35(?:2[89]|[3-8])|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))\d+"
)


def by_look(text: str, personal: bool = False) -> list[Finding]:
    """Credentials, vendors' keys, JWTs, PEM blocks, passwords in URLs, card numbers.

    personal: E-mail addresses, IP addresses and phone numbers too, the last only in international or bracketed form.
    """
    found = [
        (*match.span(match.lastindex or 0), rule)
        for rule, hint, pattern in (_SECRETS + _PERSONAL if personal else _SECRETS)
        if hint in text
        for match in pattern.finditer(text)
    ]
    data = text.encode("ascii", "replace")
    digits = data.translate(_DIGITS)
    if b"0000 0000" in digits or b"0" * 14 in digits:
        found += [(*match.span(), "card") for match in _CARD.finditer(text) if _is_card(match[0])]
    runs = data.translate(_RUNS)
    end = 0
    while (start := runs.find(_LONG_RUN, end)) >= 0:
        end = runs.find(b" ", start) % (len(runs) + 1)
        keys = _KEYS.finditer(text, start, end)
        found += [(*match.span(match.lastindex), "vendor_key") for match in keys if match.lastindex]
    return found


def _is_card(text: str) -> bool:
    """Luhn's check and the issuers' prefixes and lengths: an id of 13 to 19 digits passes Luhn's alone once in ten."""
    number = re.sub(r"\D", "", text)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return _ISSUED.fullmatch(number) is not None and (doubled + sum(map(int, number[::-2]))) % 10 == 0
