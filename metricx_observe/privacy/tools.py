"""Secrets in command lines and in what databases answer: beside a name, with none of the separators that `text` reads.

Each pattern begins with a word of its own and is bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from .looks import Finding, occurs
from .names import SECRET, Names
from .text import says_nothing

_QUOTED = r"""\\{0,8}+"([^"\\\n]{1,400}+)|\\{0,8}+'([^'\\\n]{1,400}+)"""
_VALUE = rf"""(?:{_QUOTED}|([^\s"'\\|;&<>`(){{}}\[\],]{{1,400}}+))"""
_SLASHES = r":\\{0,2}/\\{0,2}/"
_GAP = r"(?:[ \t]|\\?\n|\\n){1,9}+"
# Which option of one letter takes a password: to others `-p` is a port or a path.
_OPTIONS = (
    (r"sshpass|(?:docker|podman|nerdctl|buildah|skopeo|oras|crane|az|registry) login", f"-p{_GAP}"),
    (r"mongo(?:sh|dump|restore|export|import|stat|top)?|cqlsh|nodetool", f"-pw?{_GAP}"),
    (r"(?:mysql|mariadb)(?:dump|admin|import|show|slap)?|mariadb-\w{1,20}|sshpass|7z[ar]?", "-p"),
    (r"redis-cli|valkey-cli", f"-a{_GAP}"),
    (r"ldap(?:search|modify|add|delete|whoami|passwd|compare)", f"-w{_GAP}"),
    (r"sqlcmd|bcp|osql|zip|unzip", f"-P{_GAP}"),
    (r"ssh-keygen", f"-[NP]{_GAP}"),
    (r"plink|pscp|psftp|putty", f"-pw{_GAP}"),
    (r"htpasswd", rf"-\w{{0,5}}b\w{{0,5}}(?:{_GAP}\S{{1,100}}+){{1,2}}{_GAP}"),
    # user:password in one
    (r"curl",
     rf"(?:-\w{{0,9}}?[uU](?:{_GAP})?+|--(?:proxy-)?+user(?:=|{_GAP}))\\{{0,8}}[\"']?[^\s:\"']{{0,100}}:(?!//)"),
    (r"https?|xh|ab", rf"-[aAP]{_GAP}\\{{0,8}}[\"']?[^\s:\"']{{0,100}}:(?!//)"),
    (r"smbclient|rpcclient|smbget|smbmap", rf"(?:-U|--user)(?:=|{_GAP})?\\{{0,8}}[\"']?[^\s%\"']{{0,100}}%"),
)  # fmt: skip
_ARGUMENTS = r"(?:[^\n|;&]|\\\n){0,300}?(?<=[\s\"'])"
# In Rust's syntax what occurs where the pattern does, and the pattern. A group `name` must be a secret's.
_NAMED = (
    (r"--?[\w\-]*(?i:{stems})[\w\-]*(?:\s|\\n)",
     rf"-(?<![\w\-]-)-?+(?P<name>[A-Za-z][\w\-]{{2,63}}+){_GAP}(?!-){_VALUE}"),
    (r"(?:config(?:ure)? set|config:set|setenv|setx|ENV)\s+[\w.\-:/@]*(?i:{stems})",
     rf"\b(?:config(?:ure)? set|config:set|setenv|setx|ENV){_GAP}(?P<name>[\w.\-:/@]{{1,100}}+){_GAP}{_VALUE}"),
    ("The duplicate key value is ",
     r"(?:index|constraint) \\*'(?P<name>[\w.\-]{1,100}+)\\*'\.[^\n]{0,300}?"
     r"The duplicate key value is \(([^\n)]{1,400}+)"),
    ("Duplicate entry ", r"Duplicate entry \\*'([^\n]{1,400}?)\\*' for key \\*'(?P<name>[\w.\-]{1,100}+)"),
)  # fmt: skip
_RULES = (
    (r"(?i:password|identified[ \w]+by)\s+\\*[\"']",
     rf"(?i:\bpassword|\bidentified (?:with \w{{1,40}}+ )?+by(?: password)?+)\s{{1,9}}+(?:{_QUOTED})"),
    (r"(?i:\slogin\s+\S+\s+password\s)",
     rf"(?i:\slogin\s{{1,9}}+\S{{1,100}}+\s{{1,9}}+password)\s{{1,9}}+{_VALUE}"),
    (r"(?i:set\s+password\s+for\s)",
     rf"(?i:\bset password for )[^=\n]{{1,200}}+=\s{{0,9}}+(?:\w{{1,20}}+\()?+(?:{_QUOTED})"),
    (r"vault login\s", rf"\bvault login{_GAP}(?!-){_VALUE}"),
    ("requirepass|masterauth|add_user |change_password ",
     rf"\b(?:requirepass|masterauth|add_user \S{{1,64}}+|change_password \S{{1,64}}+){_GAP}{_VALUE}"),
    ("Failing row contains ",
     r"Failing row contains \(((?:[^\n\\\"']|\\(?!n)|[\"'](?![,}\])]|\Z)){1,9000}+)"),
    # A password with `/`, `#` or `?` in it. In `http://x.io:8080/` a port stands there.
    (rf"{_SLASHES}[^\s:/?#@'\"\[]*:[^\s'\"<>]*@",
     rf"(?:(?<!https)(?<!http)(?<!wss)(?<!ws){_SLASHES}|{_SLASHES}(?=[^\s:/?#@'\"\[]{{1,100}}+:(?!\d{{1,5}}+[/?#\\])))"
     rf"[^\s:/?#@'\"\[]{{0,100}}+:((?:(?!{_SLASHES})[^\s'\"<>]){{1,256}})@"),
    (r"jdbc:oracle:\w+:\w", r"jdbc:oracle:\w{1,9}+:[\w$#]{1,64}+/([^\s@'\"]{1,256})@"),
    *((rf"(?:{tool})\s(?:[^\n]*[\s\"'])?-", rf"(?<![\w.\-])(?:{tool})(?=\s){_ARGUMENTS}{option}{_VALUE}")
      for tool, option in _OPTIONS),
)  # fmt: skip
_KEY = re.compile(
    r"\bKey \(([^\n=]{1,200}?)\)=\("
    r"((?:(?!\)(?: already exists| is | conflicts |\.|\\n|\n|[\"']|\Z))[^\n]){0,4000}+)"
)
# In a sentence about an option no value follows it, nor where it is described: `--password PASSWORD`.
_NO_VALUE = re.compile(
    r"(?:a|an|and|are|argument|as|at|be|but|by|can|cannot|did|do|does|file|flag|for|from|given|has|if|in|instead|is|isn|it"
    r"|like|may|must|needs?|not|of|on|only|option|or|parameter|requires?|set|should|so|takes?|than|that|the|then|to|was"
    r"|were|when|which|will|with|without|yes|no|true|false|[A-Z][A-Z_\-]*|[.,:;!?=$%/.\-]*|\$.*|%.*|\.\.\.)[.,:;!?]*",
    re.S,
)

HINTS = (
    *(hint for hint, _ in _NAMED), r"Key \(",
    *(hint.replace("{", "{{").replace("}", "}}") for hint, _ in _RULES),
)  # fmt: skip
"""What occurs in every text that `by_tool` finds something in, in Rust's syntax, with a place for the names' stems."""


@cache  # at its first use: nobody pays for it by an import
def _rules(stems: str) -> list[tuple[Callable[[str], bool], re.Pattern[str]]]:
    named = [(occurs(hint.format(stems=stems)), re.compile(pattern)) for hint, pattern in _NAMED]
    return named + [(occurs(hint), re.compile(pattern)) for hint, pattern in _RULES]


def by_tool(text: str, names: Names) -> Iterator[Finding]:
    """The values of options that take a secret, of columns that hold one, and of statements that set one."""
    for might, pattern in _rules(names.stems):
        for found in pattern.finditer(text) if might(text) else ():
            name = pattern.groupindex.get("name")
            group = next(at for at in range(pattern.groups, 0, -1) if found[at] is not None and at != name)
            secret = name is None or names.verdicts[found[name]] >= SECRET
            if secret and not _NO_VALUE.fullmatch(found[group]) and not says_nothing(found[group]):
                yield *found.span(group), "name"
    for found in _KEY.finditer(text) if "Key (" in text else ():
        yield from _columns(found, names)


def _columns(found: re.Match[str], names: Names) -> Iterator[Finding]:
    """Of PostgreSQL's `Key (email, token)=(a, b)` the values of the columns that hold a secret."""
    columns, values = found[1].split(", "), found[2].split(", ")
    secret = [any(names.verdicts[word] >= SECRET for word in re.findall(r"\w+", column)) for column in columns]
    if any(secret) and len(columns) != len(values):  # a value has a comma
        yield *found.span(2), "name"
        return
    at = found.start(2)
    for hidden, value in zip(secret, values, strict=False):
        if hidden and value:
            yield at, at + len(value), "name"
        at += len(value) + 2


def takes_secret(words: Sequence[object], names: Names) -> bool:
    """Whether what follows such words of a command is a secret: `["docker", "login", "-p"]`."""
    command = " ".join(word[:100] for word in words if type(word) is str)
    whole = f"{command} x:x%x"
    return names.might_be_beside(whole) and any(end > len(command) for _, end, _ in by_tool(whole, names))
