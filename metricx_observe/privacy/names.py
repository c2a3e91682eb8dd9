"""Which names say that their value is secret, and which only look so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise

from .looks import MARKER


class Verdict(IntEnum):
    """What a name alone says of its value."""

    HARMLESS = 0
    PERSONAL = 1
    """An e-mail address, a phone number or an IP address: left to the destination's policy."""
    IN_QUERY = 2
    """A secret when it is a random value in an address or a form: `?key=`, `?sig=`."""
    IF_RANDOM = 3
    """A secret when the value is random, or in an OAuth callback: `code`, `state`, `session_id` (GA4's has digits)."""
    SECRET = 4
    COOKIE = 5
    """Secret, and a list of pairs whose names are worth keeping."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# `APIKey` is api + key, `accessToken2` is access + token + 2.
_WORD = re.compile(r"[A-Z]++(?![a-z])|[A-Z]?[a-z]++|[A-Z]|\d++")
_SECRET = _set(
    """pw pwd secrets jwt bearer auth authorization authentication credential credentials creds csrf xsrf otp totp pin
    cvv cvc csc pan ssn iban mnemonic dsn sessid phpsessid jsessionid sessionid apikeys"""
)
# Also at the end of words written together: csrfmiddlewaretoken, dbpass, clientsecret.
_SECRET_ENDS = (
    *("pass", "passwd", "password", "passwords", "passphrase", "passcode", "passkey", "secret", "token", "credentials"),
    *("apikey", "accesskey", "secretkey", "privatekey", "authkey", "signingkey", "encryptionkey", "masterkey"),
    *("sharedkey", "writekey", "accountkey", "sshkey"),
)
_NO_PASS = _set("bypass compass encompass overpass surpass trespass underpass")
_PAIRS = frozenset(
    f"{first} {second}"
    for group in _set(
        """card:number,num,no cc:number,num security:code auth:code,state authorization:code verification:code
        recovery:code,codes backup:code,codes reset:code login:code otp:code mfa:code sms:code code:verifier
        oauth:verifier,state,code social:security session:key,token,cookie seed:phrase amz:credential,signature
        goog:credential,signature hub:signature slack:signature stripe:signature hmac:sha access:tokens,keys
        refresh:tokens auth:tokens bearer:tokens id:tokens api:tokens,keys secret:keys private:keys,pem
        encryption:keys signing:keys"""
    )
    for first, seconds in [group.split(":")]
    for second in seconds.split(",")
)
# These two end in a word that describes, and are secrets all the same: Vault's, and what pydantic's errors repeat.
_ALWAYS = frozenset({"secret id", "input value"})
# After one of these words the name describes a secret and is not one: password_reset_sent, token_count, csrf_enabled.
_DESCRIPTIONS = _set(
    """count counts type types limit limits length len size usage budget id ids expires expiry expired expiration at in
    on by url uri endpoint path enabled disabled required optional valid invalid verified name names status reset sent
    changed updated created revoked rotated present set exists missing policy strength version algorithm alg method
    methods supported ttl age max min total detail details used rate price cost costs format provider source sources
    attempts error errors index strategy mode flow consent banner scope scopes lifetime timeout time level failed
    success failures user username host port region issuer audience arn domain samesite secure httponly accepted model
    prices rank position logprob logprobs page forgot ratio bias bin company brand month year last network wallet"""
)
# `<word>_key` is a secret unless it is the key of a mapping, a table, a cache or a lock.
_PLAIN_KEYS = _set(
    """primary foreign public publishable sort cache partition dict json object routing idempotency lookup event
    property translation item group unique index column storage file row map data composite parent child dedup dedupe
    deduplication ordering message query field meta metric dimension hash range natural surrogate tag label string sub
    state option config feature experiment flag form component react list block action resource criterion criteria
    conversion entity attribute param parameter header metadata setting site job task lock bucket min max bad missing
    any each last first next previous prev current home end page arrow enter escape record context measurement utm
    custom locale error input output external business campaign socket the a this that by is key"""
)
_PLAIN_TOKENS = _set("page pad eos bos unk cls sep mask stop special per continuation next design end first last")
_IN_QUERY = _set("key sig signature hmac")
_IF_RANDOM = _set("code state sid session")
_PERSONAL = _set("email emails mail phone mobile msisdn telephone ip")
_PERSONAL_PAIRS = frozenset({"ip address", "remote addr", "forwarded for", "real ip", "e mail", "phone number"})
_STEMS = {"cookie", "input", *_SECRET, *_SECRET_ENDS, *_IN_QUERY, *_IF_RANDOM}
_STEMS |= {max(pair.split(), key=len) for pair in _PAIRS}


def words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name in any spelling, numbers at its end left out."""
    found = [word.lower() for word in _WORD.findall(name)]
    while len(found) > 1 and found[-1].isdigit():
        found.pop()
    return tuple(found)


class Names:
    """The rules for names: the built-in ones and the user's."""

    def __init__(self, names: Iterable[str] = (), safe_names: Iterable[str] = ()) -> None:
        own = [parts for parts in map(words, names) if parts]
        self._own = tuple(f" {' '.join(parts)} " for parts in own)
        self._safe = frozenset("".join(words(name)) for name in safe_names)
        stems = _STEMS | {parts[-1] for parts in own}
        self.stem = re.compile("|".join(re.escape(stem) for stem in sorted(stems) if not _contains(stem, stems))).search
        """Finds a stem in a lower-case text; where it finds none, no name there can be secret."""

    def verdict(self, name: str) -> Verdict:
        """What the name says of its value. Case, `-`, `_`, camelCase and prefixes do not matter."""
        parts = words(MARKER.sub("", name[-256:]).replace("%5B", " ").replace("%5D", " "))
        joined, spaced = "".join(parts), f" {' '.join(parts)} "
        if not parts or joined in self._safe:
            return Verdict.HARMLESS
        if any(own in spaced for own in self._own):
            return Verdict.SECRET
        if parts[-1] in ("cookie", "cookies"):
            return Verdict.COOKIE
        pairs = {f"{first} {second}" for first, second in pairwise(parts)}
        if _is_secret(parts, pairs):
            return Verdict.SECRET
        if parts[-1] in _PERSONAL or pairs & _PERSONAL_PAIRS:
            return Verdict.PERSONAL
        if joined in _IF_RANDOM or parts[-1] in ("sid", "session") or spaced.endswith(" session id "):
            return Verdict.IF_RANDOM
        return Verdict.IN_QUERY if joined in _IN_QUERY else Verdict.HARMLESS


def _contains(stem: str, stems: set[str]) -> bool:
    return any(other in stem for other in stems if other != stem)


def _is_secret(parts: tuple[str, ...], pairs: set[str]) -> bool:
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if pairs & _ALWAYS:
        return True
    if last == "key" and before:
        return before not in _PLAIN_KEYS
    if (last == "token" and before in _PLAIN_TOKENS) or (last in _DESCRIPTIONS and before):
        return False
    return bool(pairs & _PAIRS) or any(
        part in _SECRET or (part.endswith(_SECRET_ENDS) and part not in _NO_PASS) for part in parts
    )
