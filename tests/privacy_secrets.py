"""Secrets made from a seed, in the formats that their issuers document, and the places they turn up in.

None of them is real. `kind` says whether the look alone gives it away, or only the name beside it.
"""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.sax.saxutils import escape

ALNUM = string.ascii_letters + string.digits
URLSAFE = ALNUM + "-_"
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits


@dataclass(frozen=True)
class Secret:
    """A value as it stands somewhere, the part of it that must not be seen, and a name it goes by."""

    issuer: str
    name: str
    value: str
    hidden: str
    by_look: bool = True


Maker = Callable[[random.Random], Secret]


def some(r: random.Random, alphabet: str, length: int) -> str:
    return "".join(r.choice(alphabet) for _ in range(length))


def _key(issuer: str, names: str, prefix: str, alphabet: str, length: int) -> Maker:
    def make(r: random.Random) -> Secret:
        value = prefix + some(r, alphabet, length)
        return Secret(issuer, r.choice(names.split()), value, value)

    return make


def _named(issuer: str, names: str, alphabet: str, length: int) -> Maker:
    """No look of its own: 32 hex digits are an id as well."""

    def make(r: random.Random) -> Secret:
        value = some(r, alphabet, length)
        return Secret(issuer, r.choice(names.split()), value, value, by_look=False)

    return make


def _jwt(r: random.Random) -> Secret:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"sub": some(r, string.digits, 6), "exp": r.randrange(10**9)}
    value = f"{part({'alg': r.choice(['HS256', 'RS256']), 'typ': 'JWT'})}.{part(claims)}.{some(r, URLSAFE, 43)}"
    return Secret("jwt", r.choice(["id_token", "jwt", "X-Auth-Token", "access_token"]), value, value)


def _pem(r: random.Random) -> Secret:
    kind = r.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    body = "\n".join(some(r, ALNUM + "+/", 64) for _ in range(4))
    return Secret("pem", "private_key", f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n", body)


def _card(r: random.Random) -> Secret:
    prefixes = {"4": 16, "51": 16, "55": 16, "2223": 16, "34": 15, "37": 15, "6011": 16, "36": 14}
    prefix, length = r.choice(list(prefixes.items()))
    digits = prefix + some(r, string.digits, length - len(prefix) - 1)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[::-2])
    digits += str(-(doubled + sum(map(int, digits[-2::-2]))) % 10)
    grouped = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    value = r.choice([digits, " ".join(grouped), "-".join(grouped)])
    return Secret("card", r.choice(["card_number", "cardNumber", "pan"]), value, value)


def _credentials(r: random.Random) -> Secret:
    if r.random() < 0.5:
        hidden = base64.b64encode(f"{some(r, string.ascii_lowercase, 6)}:{some(r, ALNUM, 12)}".encode()).decode()
        return Secret("basic", r.choice(["Authorization", "Proxy-Authorization"]), f"Basic {hidden}", hidden)
    hidden = some(r, URLSAFE + ".", 40)
    return Secret("bearer", r.choice(["Authorization", "authorization", "AUTHORIZATION"]), f"Bearer {hidden}", hidden)


def _url_password(r: random.Random) -> Secret:
    hidden = some(r, ALNUM + "!$%*_-.~", r.randint(8, 24))
    scheme = r.choice(["postgresql", "redis", "amqp", "mongodb+srv", "mysql+pymysql", "https"])
    url = f"{scheme}://{r.choice(['app', '', 'admin'])}:{hidden}@db.example.com:5432/app"
    return Secret("url", r.choice(["database_url", "dsn_url", "broker"]), url, hidden)


def _password(r: random.Random) -> Secret:
    hidden = some(r, ALNUM + "!#$%*+-.:=?@^_~", r.randint(8, 20))
    names = "password passwd PASSWORD userPassword new-password db_password smtpPass pwd client_secret x-webhook-secret"
    return Secret("password", r.choice(names.split()), hidden, hidden, by_look=False)


def _langfuse(r: random.Random) -> Secret:
    value = f"{r.choice(['sk', 'pk'])}-lf-{uuid.UUID(int=r.getrandbits(128))}"
    return Secret("langfuse", r.choice(["LANGFUSE_SECRET_KEY", "secretKey", "langfuse_key"]), value, value)


def _slack(r: random.Random) -> Secret:
    numbers = "-".join(some(r, string.digits, 12) for _ in range(r.choice([2, 3])))
    value = f"xox{r.choice('bpar')}-{numbers}-{some(r, ALNUM, 24)}"
    return Secret("slack", r.choice(["slack_token", "SLACK_BOT_TOKEN", "slackToken"]), value, value)


def _slack_hook(r: random.Random) -> Secret:
    hidden = f"T{some(r, UPPER, 8)}/B{some(r, UPPER, 8)}/{some(r, ALNUM, 24)}"
    return Secret("slack-hook", "webhook_secret", f"https://hooks.slack.com/services/{hidden}", hidden)


MAKERS: tuple[Maker, ...] = (
    _jwt, _pem, _card, _credentials, _url_password, _slack_hook, _password, _password,
    _key("anthropic", "api_key ANTHROPIC_API_KEY x-api-key", "sk-ant-api03-", URLSAFE, 95),
    _key("openai", "api_key openaiApiKey OPENAI_API_KEY", "sk-proj-", URLSAFE, 74),
    _key("openai-old", "api_key openai_key", "sk-", ALNUM, 48),
    _key("openrouter", "apikey", "sk-or-v1-", HEX, 64),
    _langfuse,
    _key("shopify-admin", "X-Shopify-Access-Token accessToken", "shpat_", HEX, 32),
    _key("shopify-secret", "shared_secret api_secret_key", "shpss_", HEX, 32),
    _key("shopify-custom", "shopify_token", "shpca_", HEX, 32),
    _key("github", "GITHUB_TOKEN github-token", "ghp_", ALNUM, 36),
    _key("github-oauth", "oauth_token", "gho_", ALNUM, 36),
    _key("github-fine", "token", "github_pat_", ALNUM + "_", 82),
    _key("gitlab", "PRIVATE-TOKEN ci_token", "glpat-", URLSAFE, 20),
    _slack,
    _key("aws-id", "aws_access_key", "AKIA", UPPER, 16),
    _key("aws-session-id", "awsAccessKey", "ASIA", UPPER, 16),
    _key("google-api", "google_api_key x-goog-api-key key", "AIza", URLSAFE, 35),
    _key("google-access", "access_token googleAccessToken", "ya29.", URLSAFE, 150),
    _key("google-refresh", "refresh_token refreshToken", "1//0", URLSAFE, 99),
    _key("google-secret", "client_secret", "GOCSPX-", URLSAFE, 28),
    _key("google-code", "code auth_code", "4/0A", URLSAFE, 68),
    _key("meta", "access_token page_access_token meta_token", "EAA", ALNUM, 180),
    _key("stripe", "stripe_key STRIPE_SECRET_KEY", "sk_live_", ALNUM, 24),
    _key("stripe-test", "stripeKey", "sk_test_", ALNUM, 99),
    _key("stripe-restricted", "stripe_api_key", "rk_live_", ALNUM, 24),
    _key("stripe-hook", "webhook_secret", "whsec_", ALNUM, 32),
    _key("huggingface", "hf_token", "hf_", ALNUM, 34),
    _key("npm", "NPM_TOKEN", "npm_", ALNUM, 36),
    _named("aws-secret", "aws_secret_access_key secretAccessKey AWS_SECRET_ACCESS_KEY", ALNUM + "+/", 40),
    _named("meta-app", "app_secret appsecret_proof", HEX, 64),
    _named("google-ads", "developer_token developer-token", URLSAFE, 22),
    _named("rudderstack", "write_key writeKey RUDDERSTACK_WRITE_KEY", ALNUM, 27),
    _named("session", "sessionid sid session_id PHPSESSID connect.sid", HEX + ALNUM, 32),
    _named("csrf", "csrftoken X-CSRF-Token csrfmiddlewaretoken xsrf-token", ALNUM, 64),
    _named("cvv", "cvv cvc card_cvc security_code", string.digits, 3),
    _named("otp", "otp otp_code verification_code pin", string.digits, 6),
    _named("pkce", "code_verifier", URLSAFE, 64),
    _named("state", "state", ALNUM, 32),
    _named("vault", "secret_id", HEX, 32),
)  # fmt: skip


def secrets(seed: int, count: int) -> list[Secret]:
    """`count` secrets, every issuer in turn."""
    r = random.Random(seed)
    return [MAKERS[at % len(MAKERS)](r) for at in range(count)]


def positions(secret: Secret) -> Iterator[tuple[str, object]]:
    """The value where it turns up: under its name everywhere, and under none where its look gives it away."""
    name, value = secret.name, secret.value
    header = name.lower().replace("_", "-").encode()
    yield "dict", {"user": "bob", name: value}
    yield "deep dict", {"a": [{"b": ({"c": {name: [value]}},)}]}
    yield "bytes", {name: value.encode()}
    yield "header pair", {"headers": [(b"host", b"x.io"), (header, value.encode())]}
    yield "header pair as a repr", [["b'host'", "b'x.io'"], [repr(header), repr(value.encode())]]
    yield "repr of a dict", f"config = { ({'user': 'bob', name: value, 'n': 1})!r}"
    yield "repr of headers", repr([(b"host", b"x.io"), (header, value.encode())])
    yield "truncated repr", repr({"user": "bob", name: value})[:-3] + "..."
    yield "repr of a repr", repr([repr({"user": "bob", name: value, "n": 1})])
    yield "JSON in a string", json.dumps({"user": "bob", name: value, "n": 1})
    yield "JSON in JSON", json.dumps({"body": json.dumps({name: value, "n": 1})})
    yield "JSON in a repr", repr(json.dumps({name: value, "n": 1}))
    yield "query string", f"https://x.io/callback?page=2&{name}={quote(value, safe='')}&sort=asc"
    yield "named after a line break in a repr", repr(f"environment:\n{name}={value!r}\nn=1")
    yield "source", {"context_line": f"    client = connect({name!r}, {value!r}, retries=3)  # note"}
    yield "percent-encoded", f"/callback/{quote(f'?page=2&{name}={value}&sort=asc')}"
    yield "JSON in base64", base64.b64encode(json.dumps({"user": "bob", name: value}).encode()).decode()
    part = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--b--\r\n'
    yield "multipart form", part
    yield "repr of a multipart form", repr(part.encode())
    if secret.name not in ("code", "key"):  # a listing of HTML's, and a plain word
        yield "XML", f"<user>bob</user><ns:{name} a='b'>{escape(value)}</ns:{name}>"
    if name.isidentifier():
        yield "repr of a model", f"Login(user='bob', {name}={value!r}, n=1)"
        yield "source keyword", {"context_line": f"    {name} = {value!r}"}
    if "\n" not in value:
        yield "cookie", {"headers": {"cookie": f"theme=dark; {name}={value}; lang=en"}}
        yield "header line", f"GET / HTTP/1.1\r\nhost: x.io\r\n{header.decode()}: {value}\r\naccept: */*"
        yield "free text", f"login failed: {name}={value} (attempt 2)" if " " not in value else f"{name}: {value}"
    if secret.by_look:
        yield "harmless name", {"note": value, "n": 1}
        yield "unnamed in text", f"upstream said {value} is not known"
        yield "unnamed in a list", ["a", value, "b"]
        yield "as a key", {value: 1}
        yield "exception", f"ValueError('cannot use {value}')"
        yield "after a line break in a repr", repr(f"cannot use\n{value}\nhere")
