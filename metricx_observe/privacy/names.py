"""Which names say that their value is secret, and which only look so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from urllib.parse import unquote

from .cards import numbers_something_else
from .looks import MARKER, occurs

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


class Remembered(dict[str, Verdict]):
    """Answers about names, which come again and again. Bounded, since names can come from outside."""

    def __init__(self, answer: Callable[[str], Verdict]) -> None:
        self._answer = answer

    def __missing__(self, name: str) -> Verdict:
        answer = self._answer(name)
        if len(self) >= 20_000:
            self.clear()
        if len(name) <= 100:
            self[name] = answer
        return answer


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# `APIKey` is api + key, `accessToken2` is access + token + 2.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]++|[A-Z]|\d++")
_SECRET = _set(
    """pw pwd pswd passwrd pword passwort kennwort secrets jwt bearer auth authorization authentication credential
    credentials creds csrf xsrf otp totp pin cvv cvc csc pan ssn iban mnemonic dsn sessid phpsessid jsessionid
    sessionid apikeys"""
)
# Of several words, however they are written.
_TOGETHER = _set(
    """oobcode samlresponse samlrequest samlart wresult pgtiou vcode logincode authcode smscode otpcode mfacode
    verificationcode resetcode securitycode activationcode confirmationcode accesscode devicecode magiccode"""
)
# Also at the end of words written together: csrfmiddlewaretoken, dbpass, clientsecret.
_SECRET_ENDS = (
    *("pass", "passwd", "password", "passwords", "passphrase", "passcode", "passkey", "secret", "token", "credentials"),
    *("apikey", "accesskey", "secretkey", "privatekey", "authkey", "signingkey", "encryptionkey", "masterkey"),
    *("sharedkey", "writekey", "accountkey", "sshkey"),
)
_NO_PASS = _set("bypass compass encompass overpass surpass trespass underpass")
_PAIRS = _set(
    """card_number card_num card_no cc_number cc_num security_code auth_code auth_state authorization_code otp_code
    verification_code recovery_code recovery_codes backup_code backup_codes reset_code login_code mfa_code
    sms_code code_verifier oauth_verifier oauth_state oauth_code social_security session_key session_cookie
    seed_phrase amz_signature goog_signature hub_signature slack_signature stripe_signature hmac_sha
    access_tokens access_keys refresh_tokens auth_tokens bearer_tokens id_tokens api_tokens api_keys secret_keys
    private_keys signing_keys input_value oob_code saml_response saml_request saml_art device_code
    confirmation_code confirm_code activation_code verify_code email_code factor_code magic_code magic_link
    time_code access_code client_assertion pgt_id pgt_iou"""
)
# With one of these words at its end the name describes a secret and is not one: password_reset_sent, token_count.
_DESCRIPTIONS = _set(
    """count counts type types limit limits length len size usage budget id ids expires expiry expired expiration
    at in on by url uri endpoint path enabled disabled required optional valid invalid verified name names
    status reset sent changed updated created revoked rotated present set exists missing policy strength version
    algorithm alg method methods supported ttl age max min total detail details used rate price cost provider
    source attempts error errors index strategy mode flow consent banner scope scopes lifetime timeout time
    level failed success failures user username host port region issuer audience arn domain accepted model rank
    position logprob logprobs page ratio p ms us ns sec secs seconds minutes hours usd eur gbp cents percent
    percentage pct avg average mean median sum latency duration speed throughput remaining consumed saved spent
    billed charged quota window overlap estimate estimated delta bucket distribution"""
)
# What a count of a language model's tokens is broken down by: `llm.token_count.prompt_details.cache_read`.
_BREAKDOWN = _set(
    """prompt completion input output cached cache uncached reasoning thinking thoughts audio text image video read
    write creation tool candidates prediction rejected"""
)
# `<word>_key` is a secret unless it is the key of a mapping, a table, a cache or a lock.
_PLAIN_KEYS = _set(
    """primary foreign public publishable sort cache partition dict json object routing idempotency lookup event
    property translation item group unique index column file row map data composite parent child dedup dedupe
    query ordering message field meta metric dimension hash range natural surrogate tag label string sub state
    option config feature flag form component react list action resource criterion entity attribute param
    parameter header metadata setting job task lock bucket min max bad missing any each last first next previous
    prev current home end page arrow enter escape record context custom locale error input output external
    campaign socket the a this that by is key segment audience cohort funnel experiment variant variation goal
    conversion report dashboard chart widget filter period date day week month year region country city language
    currency product sku category brand store channel placement ad adset creative keyword device platform screen
    view template block section layout theme topic queue stream shard join business candidate measure fact price
    issue epic plan"""
)
_PLAIN_TOKENS = _set(
    """page pad eos bos unk cls sep mask stop special per continuation next design end first last max min num avg
    eot sot"""
)
_PERSONAL = _set("email emails mail phone mobile msisdn telephone ip")
_PERSONAL_PAIRS = _set("ip_address remote_addr forwarded_for real_ip e_mail phone_number")
_SOURCE = _set("context_line pre_context post_context")
_QUERY = _set("query_string querystring raw_query query search fragment")
_SIBLINGS = _set("value val v input params parameter_value netloc")
_IF_RANDOM = _set(
    "code state sid session sig signature hmac ticket nonce assertion relaystate relay_state sessionstate session_state"
)
_IN_QUERY = _set(
    """key magic sso invite invitation confirmation confirm verification verify activation activate mfa handshake
    clerk_handshake user_code"""
)
_IF_RANDOM_ENDS = _set("sid session sig ticket")
_STEMS = {"cookie", "input", "key", *_SECRET, *_SECRET_ENDS, *_TOGETHER, *_IF_RANDOM, "saml", "pgt"}
_STEMS |= {word for word in _IN_QUERY if "_" not in word}
# of a pair the longest word, where neither is a stem by itself
_STEMS |= {max(pair.split("_"), key=len) for pair in _PAIRS if _STEMS.isdisjoint(pair.split("_"))}
SIBLINGS_OF = "name|key|field|k|variable|parameter_?key|header"
"""The names of what holds the name of a value beside it, in any case."""
BESIDE = rf"(?:^|[^\w.\-]|\\\\n)(?i:{SIBLINGS_OF})(?:[\\\"']*\s*[=:]>?|>)\s*[\\\"']*[\w.:\-\[\]]*(?i:{{stems}})"
"""How a text gives such a name, in Rust's syntax."""

# A stem at the end of a word, the rest of the name, and what follows a name in text and in JSON, where it can be a
# value as in `{"name": "password"}`, and where escapes of letters would hide it.
_HINTS = (
    r"(?i:{stems})s?(?:[^a-z\s=:,;&<>(){{}}][^\s=:,;&<>(){{}}]*)?(?:(?:[\s\x1c-\x1f]|\\[a-z])*!?[=:]|%(?:25)?3[AaDd]"
    r"|[\"']\s*(?:[,}}\]]|value=))",
    r"\\[u/]|%(?:25)?3[Aa](?:/|%(?:25)?2[Ff])|\[parameters: ",
    BESIDE,
    r"<[\w.:\-]*(?i:{stems})s?(?:[^a-z<>][^<>]*)?>",
    "form-data",
)

# In JSON a name is a whole string, with spaces and punctuation, or the value beside another:
# `{"Password (new)": …}`, `{"name": "Password (new)", "value": …}`.
_IN_JSON = r'(?i:{stems}|%[0-9a-f][0-9a-f])(?:[^"\\]|\\.)*"\s*:|"[^"a-zA-Z]*(?i:{siblings})[^"a-zA-Z]*"\s*:'

# The name before a separator, read backwards from it: what closes it, then the name. `API key:` has a space.
name_before = re.compile(
    r"""!?\s{0,9}+\]?+(?:["'`*]{1,3}+\\{0,8}+)?+([\w.\-\[\]%$]{1,64}+"""
    r"(?:[ ](?:ipa|ssecca|terces|etavirp|drac|ytiruces)\b)?+)",
    re.I,
).match


def _apart(hints: Sequence[str]) -> tuple[str, str]:
    """Those with names, and the others: together they have too many states, see `looks`."""
    named, others = ([each for each in hints if ("{stems}" in each) is has] for has in (True, False))
    return "|".join(named), "|".join(others)


def _words(name: str) -> list[str]:
    """The lower-case words of a name in any spelling, numbers at its end left out."""
    found = [word.lower() for word in _WORD.findall(unquote(MARKER.sub("", name[-256:])))]
    while len(found) > 1 and found[-1].isdigit():
        found.pop()
    return found


class Names:
    """The rules for names: the built-in ones and the user's."""

    def __init__(self, names: Iterable[str] = (), safe_names: Iterable[str] = (), hints: Iterable[str] = ()) -> None:
        own = [words for words in map(_words, names) if words]
        self._own = [f"_{'_'.join(words)}_" for words in own]
        self._safe = {"".join(_words(name)) for name in safe_names}
        stems = "|".join(sorted(_STEMS | {words[-1] for words in own}))
        self.stems = stems
        known = {*_PERSONAL, *(each.split("_")[-1] for each in (*_PERSONAL_PAIRS, *_SOURCE, *_QUERY, *_SIBLINGS)), "id"}
        self._might = occurs(f"(?i:{stems}|{'|'.join(sorted(known))})")
        self._stem = re.compile(stems).search
        separated, *others = _HINTS
        self.hints = [each.format(stems=stems) for each in (separated, *_apart((*others, *hints)))]
        """One of these occurs in every text in which a name gives a secret away, in Rust's syntax."""
        self.in_json = _IN_JSON.format(stems=stems, siblings="|".join(_SIBLINGS))
        """What occurs in JSON besides."""
        self._beside = [each.format(stems=stems) for each in _apart((BESIDE, *hints))]
        self.verdicts = Remembered(self._verdict)
        self.suspicious = Remembered(self._suspicious)

    def might_be_beside(self, text: str) -> bool:
        """Whether a text could hold a secret that its name gives away with none of the usual separators."""
        return any(occurs(each)(text) for each in self._beside)

    def _suspicious(self, end: str) -> bool:
        """Whether a text that ends so could end with a secret name. Nothing at all: a space stands after the name."""
        if not end or self._stem(end[-64:].lower()) is None:
            return not end
        before = name_before(end[-80:][::-1])
        name = before[1][::-1] if before else ""
        # `\npassword=` in a repr, `\u0026code=` in JSON, `card number:`
        return any(self.verdicts[each] > ID for each in (name, name[1:], name[5:], f"card_{name}"))

    def _verdict(self, name: str) -> Verdict:
        """What a name says of its value. Case, `-`, `_`, camelCase and prefixes do not matter."""
        words = _words(name)
        if name.isascii() and "%" not in name and not self._might(name):
            return ID if numbers_something_else(words) else HARMLESS
        whole, joined, last = "_".join(words), "".join(words), words[-1] if words else ""
        pairs = {f"{first}_{second}" for first, second in pairwise(words)}
        if not words or joined in self._safe:
            return HARMLESS
        for verdict, applies in (
            (SECRET, any(own in f"_{whole}_" for own in self._own)),
            (COOKIE, last in ("cookie", "cookies")),
            (SECRET, whole in _PAIRS or joined in _TOGETHER or _is_secret(words, pairs)),
            (SOURCE, whole in _SOURCE),
            (QUERY, whole in _QUERY),
            (SIBLINGS, whole in _SIBLINGS),
            # a browser's `Sec-CH-UA-Mobile: ?0` is no phone number
            (PERSONAL, (last in _PERSONAL or pairs & _PERSONAL_PAIRS) and "ch_ua" not in pairs),
            (IF_RANDOM, joined in _IF_RANDOM or last in _IF_RANDOM_ENDS or whole.endswith("session_id")),
            (IN_QUERY, whole in _IN_QUERY),
            (ID, last == "id" or numbers_something_else(words)),
        ):
            if applies:
                return verdict
        return HARMLESS


def _is_secret(words: list[str], pairs: set[str]) -> bool:
    if words[-1] in _BREAKDOWN:
        short = [*words]
        while len(short) > 1 and short[-1] in _BREAKDOWN:
            short.pop()
        words = short if short[-1] in _DESCRIPTIONS else words
    before, last = ["", *words][-2:]
    if last == "token" and "per" in words and before in (_BREAKDOWN | {"k", "m", "million"}):
        return False  # cost_per_output_token
    if before and last == "key":
        return before not in _PLAIN_KEYS
    if before and (last in _DESCRIPTIONS or (last == "token" and before in _PLAIN_TOKENS)):
        return before == "secret" and last == "id"  # Vault's
    ends = any(word.endswith(_SECRET_ENDS) and word not in _NO_PASS for word in words)
    return ends or bool(pairs & _PAIRS) or not _SECRET.isdisjoint(words)
