"""Which names say that their value is secret, and which only look so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum


class Verdict(IntEnum):
    """What a name alone says of its value."""

    HARMLESS = 0
    PERSONAL = 1
    """An e-mail address, a phone number or an IP address: left to the destination's policy."""
    IF_RANDOM = 2
    """Secret in an OAuth callback or a signed URL, ordinary elsewhere: `code`, `state`, `session_id`."""
    SECRET = 3
    COOKIE = 4
    """Secret, and a list of pairs whose names are worth keeping."""


# `APIKey` is api + key, `accessToken2` is access + token + 2.
_WORD = re.compile(r"[A-Z]++(?![a-z])|[A-Z]?[a-z]++|[A-Z]|\d++")

_SECRET_WORDS = frozenset(
    "pass passwd pwd passphrase passcode passkey secret secrets token jwt bearer auth authorization authentication "
    "credential credentials creds csrf xsrf otp totp pin cvv cvc cvv2 cvc2 csc ssn iban mnemonic dsn sessid "
    "phpsessid jsessionid sessionid apikey apikeys accesskey secretkey privatekey authkey signingkey encryptionkey "
    "masterkey sharedkey writekey accountkey sshkey apitoken servicekey".split()
)
# Words written together: csrfmiddlewaretoken, dbpassword, clientsecret.
_SECRET_ENDS = ("password", "passwords", "passwd", "passphrase", "secret", "token", "apikey", "credentials", "authorization")
_SECRET_PAIRS = frozenset(
    f"{first} {second}"
    for group in (
        "card:number num no pan|cc:number num|credit:card|security:code|auth:code|authorization:code|verification:code"
        "|recovery:code codes|backup:code codes|reset:code|login:code|otp:code|mfa:code|sms:code|code:verifier"
        "|social:security|session:key token cookie|seed:phrase|private:pem|secret:id|input:value|amz:credential"
        "|amz:signature|goog:signature|goog:credential|hub:signature|slack:signature|stripe:signature|hmac:sha256"
        "|access:tokens|refresh:tokens|auth:tokens|bearer:tokens|id:tokens|api:tokens keys|access:keys|secret:keys"
        "|private:keys|encryption:keys|signing:keys"
    ).split("|")
    for first, seconds in [group.split(":")]
    for second in seconds.split()
)
_COOKIES = frozenset({"cookie", "cookies", "setcookie"})
# After one of these words the name describes a secret and is not one: password_reset_sent, token_count, csrf_enabled.
_DESCRIPTIONS = frozenset(
    "count counts type types limit limits length len size usage budget id ids expires expiry expired expiration at in "
    "on by url uri endpoint path enabled disabled required optional valid invalid verified name names status reset "
    "sent changed updated created revoked rotated present set exists missing policy strength version algorithm alg "
    "method methods ttl age max min total detail details used rate price cost costs format provider source sources "
    "attempts error errors index strategy mode flow consent banner scope scopes lifetime timeout level failed success "
    "failures user username host port region issuer audience arn domain samesite secure httponly accepted per "
    "duration model prices rank position logprob logprobs page forgot ratio prompt bias".split()
)
# `<word>_key` is a secret unless it is the key of a mapping, a table, a cache or a lock.
_PLAIN_KEYS = frozenset(
    "primary foreign public publishable sort cache partition dict json object routing idempotency lookup event property "
    "translation item group unique index column storage file row map data composite parent child dedup dedupe "
    "deduplication ordering message query field meta metric dimension hash range natural surrogate tag label label "
    "string key sub state option config feature experiment flag form component react list block action resource "
    "criterion criteria conversion entity attribute param parameter header metadata setting site job task lock "
    "bucket min max bad missing any each any last first next previous prev current home end page arrow enter escape "
    "record context measurement utm custom locale i18n message error input output external business campaign".split()
)
_PLAIN_TOKENS = frozenset("page pad eos bos unk cls sep mask stop special per continuation next design end first last".split())
_IF_RANDOM = frozenset("code state sid session nonce signature sig hmac key".split())
_PERSONAL = frozenset("email emails mail phone mobile msisdn telephone ip ipaddress remoteaddr".split())
_PERSONAL_PAIRS = frozenset({"ip address", "remote addr", "forwarded for", "real ip", "client ip", "e mail"})


def words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name in any spelling, numbers at its end left out."""
    found = [word.lower() for word in _WORD.findall(name.replace("%5B", " ").replace("%5D", " "))]
    while len(found) > 1 and found[-1].isdigit():
        found.pop()
    return tuple(found)


class Names:
    """The rules for names: the built-in ones and the user's."""

    def __init__(self, names: Iterable[str] = (), safe_names: Iterable[str] = ()) -> None:
        self._secret = tuple(f" {' '.join(parts)} " for parts in map(words, names) if parts)
        self._safe = frozenset("".join(words(name)) for name in safe_names)

    def verdict(self, name: str) -> Verdict:
        """What the name says of its value. Case, `-`, `_`, camelCase and prefixes do not matter."""
        parts = words(name[-256:])
        joined = "".join(parts)
        if not parts or joined in self._safe:
            return Verdict.HARMLESS
        spaced = f" {' '.join(parts)} "
        if any(own in spaced for own in self._secret):
            return Verdict.SECRET
        pairs = {f"{first} {second}" for first, second in zip(parts, parts[1:], strict=False)}
        if parts[-1] in _COOKIES or joined in _COOKIES:
            return Verdict.COOKIE
        if _is_secret(parts, pairs):
            return Verdict.SECRET
        if parts[-1] in _PERSONAL or pairs & _PERSONAL_PAIRS:
            return Verdict.PERSONAL
        return Verdict.IF_RANDOM if joined in _IF_RANDOM or spaced.endswith(" session id ") else Verdict.HARMLESS


def _is_secret(parts: tuple[str, ...], pairs: set[str]) -> bool:
    last = parts[-1]
    if pairs & _SECRET_PAIRS:
        return last not in _DESCRIPTIONS or bool({"secret id", "input value"} & pairs)
    if last == "key" and len(parts) > 1:
        return parts[-2] not in _PLAIN_KEYS
    if last == "token" and len(parts) > 1 and parts[-2] in _PLAIN_TOKENS:
        return False
    if last in _DESCRIPTIONS and len(parts) > 1:
        return False
    return any(part in _SECRET_WORDS or part.endswith(_SECRET_ENDS) or part.startswith("password") for part in parts)
