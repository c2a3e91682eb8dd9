"""The scrubber: what goes, what stays, and how it behaves with odd input."""

from __future__ import annotations

import ast
import base64
import copy
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import pytest
import sentry_sdk
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

from metricx_observe.scrubber import Scrubber
from metricx_observe.scrubber.hints import occurs
from metricx_observe.scrubber.named import BESIDE, NAMED, by_name, by_sibling
from metricx_observe.scrubber.names import Names
from metricx_observe.scrubber.rules import groups

MARK = r"\[scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}\]"


def scrub(value: object, **options: Any) -> Any:
    return Scrubber(**options).scrub(value, "error", "extra")


def test_the_marker_keeps_type_length_and_a_hash_by_which_equal_values_are_equal() -> None:
    """People see that two values are the same or not, and never the value."""
    one = scrub({"password": "hunter2", "token": b"hunter2", "pin": 1234, "db": {"pwd": "'hunter2'"}}, key=b"k")
    assert re.fullmatch(r"\[scrubbed name str len=7 #[0-9a-f]{4}\]", one["password"])
    assert one["token"] == one["password"] == one["db"]["pwd"]
    assert one["pin"].startswith("[scrubbed name int len=4 #")
    assert scrub({"password": "hunter3"}, key=b"k")["password"] != one["password"]
    assert one == scrub({"password": "hunter2", "token": "hunter2", "pin": 1234, "db": {"pwd": "hunter2"}}, key=b"k")


def test_without_a_key_the_hash_differs_between_processes() -> None:
    """The hash cannot be looked up in a table."""
    marks = {scrub({"password": "hunter2"})["password"] for _ in range(8)}
    assert len(marks) > 1


@pytest.mark.parametrize(
    "value", [None, True, False, "", "None", "'None'", "%s", "{token}", "[Filtered]", "**********"]
)
def test_what_says_nothing_stays(value: Any) -> None:
    """An empty value, a placeholder and what others have masked help the reader and hold no secret."""
    assert scrub({"password": value}) == {"password": value}


def test_names_are_read_in_any_spelling() -> None:
    """Case, hyphens, underscores, camelCase and prefixes do not matter."""
    names = ["X-Shopify-Access-Token", "HTTP_AUTHORIZATION", "stripeKey", "dbPassword", "user[password]", "PASSWORD2"]
    names += [
        "client-secret",
        "csrfmiddlewaretoken",
        "x_api_key",
        "request.headers.authorization",
        "smtppass",
        "b'token'",
    ]
    assert [name for name, value in scrub(dict.fromkeys(names, "hunter2")).items() if "hunter2" in value] == []


def test_users_add_names_patterns_and_safe_names() -> None:
    """Own names match as a part of longer ones, own patterns everywhere, safe names are judged by value only."""
    options: dict[str, Any] = {"names": ["vat number"], "patterns": [r"MX-\d{6}"], "safe_names": ["page_token"]}
    scrubbed = scrub(
        {"customerVatNumber": "DE1", "note": "see MX-123456", "pageToken": "abc", "api_token": "abc"}, **options
    )
    assert re.fullmatch(MARK, scrubbed["customerVatNumber"])
    assert re.fullmatch(f"see {MARK}", scrubbed["note"])
    assert scrubbed["pageToken"] == "abc"
    assert scrubbed["api_token"] != "abc"
    safe = scrub({"password_hint": "the usual", "password": "x1"}, safe_names=["password-hint"])
    assert safe["password_hint"] == "the usual"
    assert safe["password"] != "x1"
    assert "1234" not in scrub("vat_number=1234", **options)


def test_a_lone_surrogate_hides_nothing() -> None:
    """What is no Unicode is made so before anything looks at it."""
    assert "hunter2" not in scrub("\ud800 password=hunter2 \udfff")


def test_a_pattern_that_is_none_is_refused_without_its_text() -> None:
    """A wrong setting raises at start-up."""
    with pytest.raises(ValueError, match="not a regular expression"):
        Scrubber(patterns=["("])


def test_a_users_pattern_leaves_markers_alone() -> None:
    """A pattern that matches inside a marker does not break it."""
    scrubber = Scrubber(patterns=[r"\d+", "scrubbed"])
    once = scrubber.scrub({"password": "hunter2", "note": "room 12"}, "error", "extra")
    assert scrubber.scrub(once, "error", "extra") == once


def test_below_a_secret_name_everything_goes_and_the_names_stay() -> None:
    """A tree under `credentials` keeps its shape."""
    scrubbed = scrub(
        {"credentials": {"user": "bob", "pairs": [["a", 1]], "on": True, "none": None, "t": (b"x1", {"k"})}}
    )
    assert list(scrubbed["credentials"]) == ["user", "pairs", "on", "none", "t"]
    assert scrubbed["credentials"]["on"] is True
    assert not re.search("bob|'a'|x1|'k'", str(scrubbed["credentials"]))


def test_below_an_ambiguous_name_names_count_again() -> None:
    """`session` and `email` hold ordinary members and secret ones."""
    scrubbed = scrub({"session": {"theme": "dark", "password": "hunter2"}, "email": [{"token": "t1", "to": "bob"}]})
    assert scrubbed["session"]["theme"] == "dark"
    assert scrubbed["email"][0]["to"] == "bob"
    assert "hunter2" not in str(scrubbed)
    assert "t1" not in str(scrubbed).replace("to", "")


def test_cookies_keep_their_names() -> None:
    """What cookies a browser sent is worth knowing; their values are not to be known."""
    scrubbed = scrub(
        {"headers": {"cookie": "session=abc; theme=dark; empty="}, "cookies": {"a": "b1"}, "set-cookie": "odd"}
    )
    assert re.fullmatch(f"session={MARK}; theme={MARK}; empty=", scrubbed["headers"]["cookie"])
    assert re.fullmatch(MARK, scrubbed["cookies"]["a"])
    assert re.fullmatch(MARK, scrubbed["set-cookie"])


def test_oauth_callbacks() -> None:
    """`code` and `state` are secrets when they are random, or long for a word in an address; else ordinary words."""
    assert "SplxlOBeZQ" not in str(scrub({"code": "SplxlOBeZQQYbYS6WxSbIA", "state": "xyz"}))
    assert "SplxlOBeZQ" not in scrub("/callback?code=SplxlOBeZQQYbYS6WxSbIA&page=2")
    assert "xyzxyzxyz" not in scrub("https://x.io/callback?state=xyzxyzxyz&code=abc")
    assert "SplxlOBeZQ" not in scrub({"query_string": b"code=SplxlOBeZQQYbYS6WxSbIA"})["query_string"]
    for harmless in (
        {"code": "invalid_api_key"},
        {"state": "California"},
        "https://x.io/list?state=open&email=bob@x.io",
    ):
        assert scrub(harmless) == harmless


def test_a_session_id_of_digits_is_ga4s() -> None:
    """GA4 joins events by it."""
    assert scrub({"session_id": "1732460000", "sessionId": 1732460000}) == {
        "session_id": "1732460000",
        "sessionId": 1732460000,
    }
    assert "a8" not in scrub({"session_id": "a8f5f167f44f4964e6c998dee827110c"})["session_id"].split("#")[0]


def test_a_pair_and_a_flag_are_followed_by_their_value() -> None:
    """Header pairs, `[name, value]` forms and command lines."""
    assert "hunter2" not in str(scrub({"sys.argv": ["serve", "--password", "hunter2", "--port", "80"]}))
    pairs = [("name", "password", "value"), ("key", "api_key", "value"), ("field", "pin", "val"), ("k", "token", "v")]
    assert "hunter2" not in str(scrub([{key: name, value: "hunter2"} for key, name, value in pairs]))
    assert scrub([{"name": "colour", "value": "red"}]) == [{"name": "colour", "value": "red"}]
    assert "hunter2" not in str(scrub([(b"authorization", b"hunter2")]))


def test_a_log_messages_arguments_are_judged_by_the_message() -> None:
    """`token=%s` says what its argument is; the message stays, since events are grouped by it."""
    entry = {"message": "user %s token=%s took %.2f s", "params": ["bob", "hunter2", 1.5], "formatted": "token=hunter2"}
    scrubbed = scrub(entry)
    assert scrubbed["message"] == entry["message"]
    assert scrubbed["params"][0] == "bob"
    assert scrubbed["params"][2] == 1.5
    assert "hunter2" not in str(scrubbed)
    assert "hunter2" not in str(scrub({"message": "token=%(token)s", "params": {"token": "hunter2"}}))


def test_errors_of_pydantic_do_not_repeat_what_was_typed() -> None:
    """A validation error of a password holds it, as a dict, as its text and as its repr."""

    class Login(BaseModel):
        password: int
        age: int

    with pytest.raises(ValidationError) as caught:
        Login.model_validate({"password": "hunter2", "age": "abc"})
    errors: Any = caught.value.errors()
    scrubbed = scrub({"errors": errors, "text": str(caught.value), "repr": repr(errors), "json": json.dumps(errors)})
    assert "hunter2" not in str(scrubbed)
    assert scrubbed["errors"][1]["input"] == "abc"


def test_ordinary_source_code_is_not_mangled() -> None:
    """Code that handles secrets holds none: names, calls, annotations and placeholders stay."""
    lines = [
        "    password = get_password(user, retries=3)",
        "def login(username: str, password: str, token: str | None = None) -> Token:",
        '    token = request.headers["authorization"].removeprefix("Bearer ")',
        '    api_key = os.environ.get("API_KEY")',
        '    logger.info("token=%s for %s", token, user)',
        '    headers = {"Authorization": f"Bearer {token}", "X-Api-Key": api_key}',
        '    raise ValueError(f"bad password={password} in {config}")',
        "    if password != other.password or not secret:",
        '    password = getpass("Password: ")',
        "    max_tokens=1024, token_count=len(tokens), key=lambda pair: pair[1],",
        "<input name='password'>",
    ]
    event = {"pre_context": lines, "context_line": lines[0], "post_context": []}
    assert scrub(event) == event


def test_literal_secrets_in_source_code_go() -> None:
    """In assignments, calls, lists, dicts, bytes, numbers and inside of strings."""
    lines = [
        'password = "hunter2"',
        "connect(password='hunter2', n=1)",
        'token=b"hunter2"',
        'secrets = ["hunter2", "hunter2"]',
        'config = {"password": "hunter2", "n": 1}',
        'api_key = SecretStr("hunter2")',
        'raise ValueError("password=hunter2 is wrong")',
        'os.environ.get("API_KEY", "hunter2")',
        'if password == "hunter2":',
        'os.environ["TOKEN"] = "hunter2"',
        "db = 'postgresql://app:hunter2@db/app'",
        "x" * 3000 + ' password = "hunter2"',
    ]
    scrubbed = scrub({"context_line": lines[0], "pre_context": lines[1:]})
    assert [line for line in [scrubbed["context_line"], *scrubbed["pre_context"]] if "hunter2" in line] == []
    assert "4711" not in scrub({"context_line": "pin = 4711"})["context_line"]
    assert scrub({"context_line": 5, "pre_context": None}) == {"context_line": 5, "pre_context": None}


@pytest.mark.parametrize(
    "text",
    [
        "password: 'hunter2",
        'password="hunter2',
        "token=Token(value='hunter2', n=(1, [2]))",
        "password=(1, 'hunter2'",
        "{'password': {'old': 'hunter2'}, 'n': 1}",
        "Authorization: Digest username=bob, response=hunter2",
        "api key: hunter2",
        'password:\n    "hunter2"',
        "password    = hunter2",
        "password=<Secret hunter2>",
        '{\\"password\\": \\"hunter2\\"}',
        '\'{\\\\"password\\\\": \\\\"hunter2\\\\"}\'',
        "export DB_PASSWORD=hunter2\n",
        "password=hun,hunter2)x",
        "Cookie: a=hunter2; b=c",
        "\\npassword=hunter2",
        json.dumps(json.dumps({"password": 'a"hunter2'})),
        "\\token=hunter2",
        "password => hunter2",
        "mysql --password=hunter2 -u root",
        "pwd=a'b'hunter2",
        '{"password": "a\\"hunter2"}',
        "Authorization: AWS4 Credential=hunter2/x, Signature=hunter2",
        "d['password'] = 'hunter2'",
        "**Password:** hunter2",
        "**Password**: `hunter2`",
        "`password`: `hunter2`",
        "password\u00a0=\u00a0hunter2",
        '<input name="password" value="hunter2">',
        json.dumps('<add key="ApiKey" value="hunter2"/>'),
        f"100%25 of /callback/{quote('?token=hunter2&page=1')}",
        quote(json.dumps({"password": "hunter2", "n": 1})),
        quote(quote("https://x.io/?page=1&password=hunter2&next=2")),
        f"state={quote('https://bob:hunter2@x.io/')}",
        "https:\\/\\/bob:hunter2@db.example\\/app",
        "(Error) no\n[SQL: INSERT INTO users (name, password) VALUES (?, ?)]\n[parameters: ('b', 'hunter2')]\n",
        repr("[SQL: UPDATE users SET password=? WHERE id=?]\n[parameters: ('hunter2', 1)]\n(Background on this error)"),
        "<password>hunter2</password>",
        '<soap:Body><wsse:Password Type="text">hunter2 hunter2</wsse:Password></soap:Body>',
        "<login><password><![CDATA[hunter2]]></password></login>",
        json.dumps({"body": "<db:password\n>hunter2</db:password>"}),
        "<login><name>bob</name><password>hunter2",
        form := (
            '--b\r\nContent-Disposition: form-data; name="user"\r\n\r\nbob\r\n--b\r\nContent-Disposition: form-data; '
            'name="password"\r\nContent-Type: text/plain\r\n\r\n<hunter2>\r\nhunter2\r\n--b--\r\n'
        ),
        repr(form),
        repr(form.encode()),
        json.dumps([form]),
        repr([repr(form.encode())]),
        form.replace("\r", "").replace('"', ""),
        form[: form.rindex("\r\n--b")],
    ],
)
def test_forms_of_text(text: str) -> None:
    """Quoted, truncated, nested, escaped, bare, in containers and in calls."""
    scrubbed = scrub(text)
    assert "hunter2" not in scrubbed
    assert re.search(MARK, scrubbed)
    assert scrub(scrubbed) == scrubbed


def test_json_in_base64_is_read() -> None:
    """Tokens of paging and states of OAuth are such; what holds no secret stays."""
    for plain, stays in (({"page": 2, "sort": "name"}, True), ({"password": "hunter2", "page": 2}, False)):
        text = base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()
        assert (scrub(f"cursor={text}&n=1") == f"cursor={text}&n=1") is stays
        assert stays or re.fullmatch(f"cursor={MARK}=*&n=1", scrub(f"cursor={text}&n=1"))


def test_hashes_of_passwords_are_secrets_by_their_look() -> None:
    """Who has one can guess at it."""
    for text in (f"$2b$12${'aB1./' * 10}", f"$argon2id$v=19$m=65536,t=3,p=4${'aB1/' * 10}"):
        assert re.fullmatch(f"row: {MARK}", scrub(f"row: {text}"))


def test_what_only_looks_like_markup_stays() -> None:
    """Placeholders, generics, listings and files of other names."""
    for text in (
        "usage: login <token> [--port]", "curl -H 'X: Bearer <token>'", "Map<Token> tokens", "a <token>",
        "<code>some_function_name2()</code>", "<state>open</state>", '<input type="password">', "<password></password>",
        '--b\r\nContent-Disposition: form-data; name="note"; filename="token"\r\n\r\nhello\r\n--b--',
    ):  # fmt: skip
        assert scrub(text) == text


def test_what_stands_around_a_secret_stays() -> None:
    """The reader loses the value and nothing else."""
    config = {"user": "bob", "password": "it's", "n": [1, 2]}
    assert re.fullmatch(rf"\{{'user': 'bob', 'password': \"{MARK}\", 'n': \[1, 2\]\}}", scrub(repr(config)))
    assert re.fullmatch(
        f"https://bob:{MARK}@x.io/a[?]token={MARK}&page=2", scrub("https://bob:pw1@x.io/a?token=abc&page=2")
    )
    assert re.fullmatch(f"token={MARK}, retry 3 of 5", scrub("token=abc1, retry 3 of 5"))


POLICY_TEXT = (
    "mail bob@example.com or +49 170 1234567 or (555) 123-4567 from 10.1.2.3 and 2001:db8::8a2e:370:7334 at 10:15:30"
)


def test_personal_data_is_kept_by_default() -> None:
    """Sentry's user and Langfuse's text are of use with it."""
    value = {
        "email": "bob@example.com",
        "note": POLICY_TEXT,
        "ip_address": "10.1.2.3",
        "phone": 49170,
        "nested": {"mobile": ["1"]},
    }
    assert scrub(value) == value


def test_personal_data_is_dropped_by_policy() -> None:
    """By name and in free text; the kind stays."""
    scrubber = Scrubber()
    value = {
        "email": "bob at home",
        "note": POLICY_TEXT,
        "client_ip": "10.1.2.3",
        "bob@example.com": 1,
        "phone": None,
        "mobile": 49170,
    }
    scrubbed = scrubber.scrub(value, "track", "properties", personal="drop")
    assert scrubbed["note"] == (
        "mail [dropped email] or [dropped phone] or [dropped phone] from [dropped ip] and [dropped ip] at 10:15:30"
    )
    assert scrubbed["email"] == scrubbed["client_ip"] == "[dropped personal]"
    assert "bob" not in str(scrubbed)
    assert "49170" not in str(scrubbed)
    assert scrubber.scrub(scrubbed, "track", "properties", personal="drop") == scrubbed


def test_personal_data_is_hashed_by_policy() -> None:
    """SHA-256 of the normalised value, as Google and Meta want it; hashing again changes nothing."""
    scrubber = Scrubber()
    value = {"email": " Bob@Example.com", "note": "write to BOB@example.com", "tel": "call +49 170 1234567"}
    scrubbed = scrubber.scrub(value, "track", "properties", personal="hash")
    bob = hashlib.sha256(b"bob@example.com").hexdigest()
    assert scrubbed["email"] == bob
    assert scrubbed["note"] == f"write to {bob}"
    assert scrubbed["tel"] == f"call {hashlib.sha256(b'+491701234567').hexdigest()}"
    assert scrubber.scrub(scrubbed, "track", "properties", personal="hash") == scrubbed


@pytest.mark.parametrize("policy", ["hash", "drop"])
def test_a_browsers_hints_are_no_personal_data(policy: Any) -> None:
    """`Sec-CH-UA-Mobile` says that the browser runs on a phone, and is no number of one."""
    hints = {"sec-ch-ua-mobile": "?0", "Sec-CH-UA-Mobile": "?1", "HTTP_SEC_CH_UA_MOBILE": "?0", "mobile": "49170"}
    scrubbed = Scrubber().scrub(hints, "error", "request", personal=policy)
    assert {name for name in hints if scrubbed[name] != hints[name]} == {"mobile"}


def test_card_numbers_as_numbers_and_ids_that_look_like_them() -> None:
    """Luhn's check, the issuers' prefixes, and a name that ends in `id`."""
    scrubbed = scrub(
        {"amount": 4111111111111111, "campaign_id": 4111111111111111, "n": 4111111111111112, "f": 4111111111111111.0}
        | {"big_id": 1 << 70}
    )
    assert re.fullmatch(r"\[scrubbed card int len=16 #\w{4}\]", scrubbed["amount"])
    assert re.fullmatch(r"\[scrubbed card float len=18 #\w{4}\]", scrubbed["f"])
    assert scrubbed["campaign_id"] == 4111111111111111
    assert "4111" not in scrub('{"n":4111111111111111}')
    assert scrubbed["n"] == 4111111111111112
    assert scrubbed["big_id"] == str(1 << 70)


class Login(NamedTuple):
    user: str
    password: str


@dataclass
class Account:
    name: str
    api_key: str


class Model(BaseModel):
    name: str
    token: str


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def test_objects_are_made_plain_first() -> None:
    """Models, dataclasses, named tuples, sets, subclasses of dict, bytes and undecodable bytes."""
    value = {
        "a": Login("bob", "hunter2"),
        "b": Account("x", "hunter2"),
        "c": Model(name="x", token="hunter2"),
        "d": {"only"},
        "e": OrderedDict(password="hunter2"),
        "f": b"password=hunter2",
        "password": Model(name="hunter2", token=""),
        b"token": b"hunter2",
        5: {"pwd": bytearray(b"hunter2")},
        ("password", 1): "x",
        "secret": {"hunter2"},
        "g": b"\xff\xfe",
    }
    scrubbed = scrub(value)
    assert "hunter2" not in str(scrubbed)
    assert scrubbed["a"]["user"] == "bob"
    assert scrubbed["d"] == ["only"]
    assert scrubbed["g"] == "[unreadable bytes]"
    orjson.dumps(scrubbed)


def test_a_subclass_and_a_huge_number_are_read_as_their_text() -> None:
    """Whatever their methods answer."""

    class Odd(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

    assert scrub({"note": Odd("password=hunter2"), "n": 10**5_000, "set": memoryview(b"token=hunter2")}).keys() == {
        "note",
        "n",
        "set",
    }
    assert "hunter2" not in str(scrub([Odd("password=hunter2"), memoryview(b"token=hunter2"), {Odd("pin"): "hunter2"}]))
    assert scrub({"n": 10**5_000}) == {"n": "[unreadable int]"}


def test_it_fails_closed_per_field() -> None:
    """What cannot be read is replaced, the rest goes on; the input stays as it was."""
    value = {"bad": Unreadable(), "deep": [{"bad": Unreadable(), "password": "hunter2"}], "good": 1, "lone": "a\ud800b"}
    before = copy.copy(value)
    scrubbed = scrub(value)
    assert scrubbed["good"] == 1
    assert "hunter2" not in str(scrubbed)
    assert scrubbed["bad"].startswith("[")
    assert value == before
    orjson.dumps(scrubbed)


def test_only_a_path_says_what_an_input_is() -> None:
    """Pydantic's `loc` is a list of names; another one's may be a number, or a place."""
    given = {"input": 5, "loc": 120, "plan": "pro"}
    assert Scrubber().scrub(given, "track", "properties") == given
    for loc in (["body", "password"], ("password",)):
        assert "hunter22" not in str(Scrubber().scrub({"input": "hunter22", "loc": loc}, "error", "local"))


@given(st.text(max_size=400) | st.text("pa:=ss word\udce9é[", max_size=400).map("password: hunter22 ".__add__))
def test_a_text_is_scrubbed_as_a_value_is(text: str) -> None:
    """Alone it takes a shorter way to the same result, the second time too."""
    scrubber = Scrubber(key=b"k")
    for given_text in (text, text, text * 2):
        assert scrubber.text(given_text, "log", "message") == Scrubber(key=b"k").scrub(given_text, "log", "message")
    number: Any = 5
    assert scrubber.text(number, "log", "message") == "5"


def test_the_report_counts_by_signal_place_and_rule() -> None:
    """Counts only: no value, no name."""
    scrubber = Scrubber()
    for _ in range(3):
        scrubber.scrub({"password": "hunter2", "n": "Bearer abc.def.1"}, "error", "request.headers")
    scrubber.scrub(["token=abc token=abc"] * 2, "log", "message")
    assert scrubber.report.as_dict() == {
        "error": {"request.headers": {"name": 3, "credentials": 3}},
        "log": {"message": {"name": 4}},
    }


class Kept(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events += [item.payload.json for item in envelope.items]


def test_nothing_of_a_real_event_of_sentrys_sdk_gets_through() -> None:
    """The SDK's own reprs of models, dataclasses, deep dicts and ASGI scopes, exception arguments and breadcrumbs."""

    def fail(secret: str) -> None:
        model, account = Model(name="bob", token=secret), Account("bob", secret)
        deep = {"a": {"b": {"c": {"d": {"password": secret, "e": {"f": [{"token": secret}]}}}}}}
        scope: dict[str, Any] = {
            "headers": [(b"authorization", secret.encode()), (b"cookie", b"s=" + secret.encode())],
            "path": "/ok",
        }
        scope["query_string"] = b"page=2&token=" + secret.encode()
        db_url, stripe_key, body = (
            f"postgresql://app:{secret}@db/app",
            secret,
            json.dumps({"password": secret}).encode(),
        )
        raise ValueError(
            f"cannot use {Login('bob', secret)} {db_url}",
            {"password": secret},
            model,
            account,
            deep,
            scope,
            body,
            stripe_key[:0],
        )

    kept = Kept()
    client = sentry_sdk.Client("http://key@127.0.0.1:9/1", transport=kept, default_integrations=False)
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        hidden = "zq" * 4  # so that it is in no line of this file
        scope.add_breadcrumb({"message": f"GET https://u:{hidden}@x.io/?token={hidden}"})
        try:
            fail(hidden)
        except ValueError as error:
            scope.capture_event(*event_from_exception(error, client_options=client.options))
    (event,) = kept.events
    assert str(event).count(hidden) > 20
    for frame in event["exception"]["values"][0]["stacktrace"]["frames"]:
        frame.get("vars", {}).pop("hidden", None)  # a plain word under a plain name is nobody's secret
    scrubbed = scrub(event)
    assert re.findall(f".{{40}}{hidden}.{{20}}", str(scrubbed)) == []
    assert "'/ok'" in str(scrubbed)


secrets = st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=6)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Unreadable),
    lambda children: (
        st.lists(children)
        | st.tuples(children, children)
        | st.dictionaries(
            st.text() | st.binary() | st.sampled_from(["password", "token", "code", "cookie", "email", "value"]),
            children,
        )
    ),
    max_leaves=20,
)
pieces = st.lists(
    st.sampled_from(
        [
            "password",
            "token",
            "cookie",
            "code",
            "Authorization",
            "=",
            ": ",
            "'",
            '"',
            "\\",
            "[",
            "]",
            "{",
            "}",
            "(",
            ")",
            ", ",
            "&",
            ";",
            " ",
            "\n",
            "b'",
            "Bearer ",
            "sk-",
            "a" * 20,
            "x1",
            "[scrubbed name str len=3 #abcd]",
            "[scrubbed ",
            "%3A%2F%2F",
            "://u:p@",
            "<",
            ">",
            "é",
        ]
    ),
    max_size=14,
).map("".join)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(anything, st.sampled_from(["keep", "hash", "drop"]))
@example({"Cookie": "a1;"}, "keep")
def test_any_value_gives_json_and_scrubbing_it_again_changes_nothing(value: object, personal: Any) -> None:
    """Never raises, idempotent, and the result is JSON."""
    scrubber = Scrubber()
    once = scrubber.scrub(value, "error", "extra", personal=personal)
    data = orjson.dumps(once)
    again = scrubber.scrub(once, "error", "extra", personal=personal)
    assert orjson.dumps(again) == data


@settings(deadline=None, max_examples=400)
@given(pieces, st.booleans())
@example("password=[scrubbed name str len=3 #abcd]x1", False)
@example("&code://u:p@", False)
@example("password=b'b'password://u:p@", True)
def test_any_text_scrubbed_twice_is_as_scrubbed_once(text: str, source: bool) -> None:
    """Markers are recognised whatever stands around them."""
    scrubber = Scrubber()
    name = "context_line" if source else "note"
    once = scrubber.scrub({name: text}, "error", "extra")[name]
    twice = scrubber.scrub({name: once}, "error", "extra")[name]
    if source:  # whether a name stands in a string is told by the quotes before it, of which a marker takes some away
        assert set(re.findall(MARK, once)) <= set(re.findall(MARK, twice))
    else:
        assert twice == once


@given(secrets)
def test_the_marker_never_holds_the_value(value: str) -> None:
    """Whatever the secret is, words of the marker itself apart."""
    assume(value not in "[scrubbed name str len=")
    scrubbed = scrub({"password": value})["password"]
    assert scrubbed == value or value not in scrubbed
    if not re.fullmatch(MARK, scrubbed):
        assert scrub({"token": value})["token"] == value  # it says nothing: a placeholder


looks_of = st.sampled_from(
    [
        "Bearer a1b2c3", "basic abcdeF", "://u:p@", "://aaaaaaaaaaaaaaaaaaaa@", "%3A%2F%2Fu%3Ap%40", "½@x.io", "-BEGIN",
        "4111 1111 1111 1111", "a%40b.c", "eyJhbGciOiJI.e.s", "sk-aaaaaaaaaaaaaaaa", "AKIAAAAAAAAAAAAAAAAA",
        "10.1.2.3", "1:2::3:4", "+49 170 1234567", "(555) 123-4567", "½", "٣", "\x1c", "n", "\\n", "@", ".", "x.io",
    ]
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(st.lists(pieces | looks_of | st.text(max_size=3), max_size=8).map("".join))
def test_a_hint_occurs_wherever_something_is_found(text: str) -> None:
    """One pass over a text says whether there may be something to find: never no where the patterns find something."""
    names = Names()
    if [*by_name(text, names), *by_name(text, names, source=True)]:
        assert occurs(NAMED.format(stems=names.stems))(text)
    if [*by_sibling(text, names)]:
        assert occurs(BESIDE.format(stems=names.stems))(text)
    for group in groups(names.stems):
        for might, rule in group.rules:
            if [*rule.findings(text, names)]:
                assert might(text)
                assert group.might(text)


def test_the_scrubber_knows_nobody() -> None:
    """It imports nothing of the rest of the package."""
    sources = [file for file in files("metricx_observe.scrubber").iterdir() if file.name.endswith(".py")]
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.level == 0 and not str(node.module).startswith("metricx_observe"))
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("metricx_observe") for name in node.names)
