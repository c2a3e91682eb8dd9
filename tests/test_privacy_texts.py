"""Secrets in the texts of tools, beside their names, and in addresses; and what only looks like one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metricx_observe.scrubber import Scrubber

S = "s3cr3t-XYZZY"
VARIABLE = {"name": "DB_PASSWORD", "value": S}
BESIDE = [
    json.dumps(VARIABLE),
    json.dumps(json.dumps(VARIABLE)),
    json.dumps(json.dumps(json.dumps(VARIABLE))),
    repr(VARIABLE),
    json.dumps({"value": S, "name": "DB_PASSWORD"}),
    json.dumps(VARIABLE, indent=2),
    json.dumps(VARIABLE, separators=(",", ":")),
    json.dumps({"name": "DB_PASSWORD", "type": "plain", "value": S}),
    json.dumps({"Key": "DB_PASSWORD", "Value": S}),
    json.dumps({"env": [{"name": "A", "value": "b"}, VARIABLE, {"name": "C", "value": "d"}]}),
    json.dumps({"ParameterKey": "DB_PASSWORD", "ParameterValue": S}),
    f"EnvVar(name='DB_PASSWORD', value='{S}')",
    f"- name: A\n  value: b\n- name: DB_PASSWORD\n  value: {S}\n",
    f"env:\n  - value: {S}\n    name: DB_PASSWORD\n",
    repr(f"- name: DB_PASSWORD\n  value: {S}\n"),
    f'name = "DB_PASSWORD"\nvalue = "{S}"',
    f'<property name="DB_PASSWORD">{S}</property>',
    f"<setting name='DB_PASSWORD'>\n<value>{S}</value></setting>",
    f"<entry><key>DB_PASSWORD</key><value>{S}</value></entry>",
    json.dumps({"env": [f"DB_PASSWORD={S}", "A=b"]}),
]
TOOLS = [
    f"Key (reset_token)=({S}) already exists.",
    f"Key (email, reset_token)=(a@b.c, {S}) already exists.",
    f"DETAIL:  Key (a, reset_token, b)=(1, {S}, 2) is not present in table",
    f"Key (reset_token, a)=(x, {S}, y) already exists",
    f"Key (lower(reset_token::text))=({S}) already exists.",
    f"Duplicate entry '{S}' for key 'users.reset_token'",
    f"Failing row contains (1, bob, {S}, null).",
    f"mysql --password {S} -u root",
    f"mysql --password={S}",
    f"mysqldump -p{S} db",
    f"sshpass -p {S} ssh h",
    f"sshpass -p '{S}' ssh h",
    f"sh -c 'mysql -p{S}'",
    f"PGPASSWORD={S} psql",
    f"docker login -u bob -p {S} reg.io",
    f"redis-cli -h x -a {S} ping",
    f"curl -u user:{S} https://x.io",
    f"curl -s -u 'user:{S}' x",
    f"curl --user user:{S} x",
    f"curl https://x.io -uuser:{S}",
    f"http -a u:{S} x.io",
    json.dumps({"cmd": f'curl -u "u:{S}" x'}),
    f"ldapsearch -x -D cn=a -w {S}",
    f"sqlcmd -S h -U sa -P {S}",
    f"plink -pw {S} h",
    f"htpasswd -bc f bob {S}",
    f"htpasswd -nb bob {S}",
    f"smbclient -U bob%{S} //h/s",
    f"keytool -storepass {S} -list",
    f"aws configure set aws_secret_access_key {S}",
    f"ALTER USER bob WITH PASSWORD '{S}'",
    f"CREATE USER b IDENTIFIED BY '{S}'",
    f"machine h login bob password {S}",
    f"requirepass {S}",
    f"vault login {S}",
    f"SET PASSWORD FOR 'x' = '{S}'",
    f"curl -sSLu u:{S} x",
    f"with unique index 'ix_reset_token'. The duplicate key value is ({S}).",
    f'cmd --token "{S}"',
    f"cmd --client-secret\n{S}",
    repr(f"cmd \\\n --password {S}"),
    repr(["mysql", "--password", S]),
    f"docker run -e DB_PASSWORD={S} img",
]
ADDRESSES = [
    f"postgresql://app:p/{S}@db/x",
    f"postgresql://app:p#{S}@db/x",
    f"postgresql://app:{S}?x@db/x",
    f"postgresql://a:p@{S}@db/x",
    f"redis://:a/{S}@h:1",
    f"https://bob:hun/{S}@x.io/a",
    f"mongodb+srv://u:a#b?/{S}@c.net/?x=1",
    f"amqp:\\/\\/u:a\\/{S}@h",
    f"jdbc:oracle:thin:scott/{S}@h:1521/x",
    f"https://x.io/a?oobCode={S}",
    f"?SAMLResponse={S}",
    f"?ticket={S}",
    f"?otp={S}",
    f"https://x.io/#id_token_hint={S}",
    f"/cb?mode=resetPassword&oobCode={S}&apiKey={S}",
    f"?RelayState={S}12",
    f"?nonce={S}12aB",
    f"?__clerk_ticket={S}",
    f"?token_hash={S}&type=magiclink",
    f"?confirmation_code={S}",
    f"?pgtId={S}",
    f"?samlresponse={S}",
    f"?SAMLart={S}",
    f"?magic={S}",
    f"?sso={S}",
    f"?invite={S}",
    f"?verification={S}",
    f"?logincode={S}",
    f"?page=XYZZ&x=1&a%26token%3D{S}",
    f"page%3D{S[:3]}%26token%3D{S}%26token%3D{S}",
]
CODES = [
    "?code=483920&a=1",
    "https://x.io/cb?a=1&code=483920",
    "?a=1&amp;code=483920",
    "\\u0026code=483920",
    "#code=483920",
    "https%3A%2F%2Fx.io%2F%3Fcode%3D483920",
    repr({"query_string": b"code=483920&x"}),
    '{"query": "code=483920"}',
]


@pytest.mark.parametrize("text", [*BESIDE, *TOOLS, *ADDRESSES])
def test_the_value_goes_and_its_name_stays(text: str) -> None:
    """In whatever a tool prints or is given, alone, in a member, and in a repr of it."""
    for given in (text, {"output": text}, {"local": repr(text)}, {"tool": json.dumps({"arguments": text})}):
        scrubbed = json.dumps(Scrubber().scrub(given, "tool", "input"))
        assert S not in scrubbed
        assert ("DB_PASSWORD" in scrubbed) is ("DB_PASSWORD" in text)
        assert "[scrubbed" in scrubbed


@pytest.mark.parametrize("text", CODES)
def test_a_code_of_digits_in_an_address_goes(text: str) -> None:
    """Six digits are what somebody was sent by phone; anywhere but in an address they may be an error's number."""
    assert "483920" not in Scrubber().text(text, "error", "message")


def test_a_query_string_is_an_address() -> None:
    """Frameworks give it without its question mark, as text and as bytes."""
    for query in ("code=483920&x=1", b"code=483920", "?code=483920"):
        scrubbed = Scrubber().scrub({"query_string": query, "code": 483920}, "error", "request")
        assert "483920" not in scrubbed["query_string"]
        assert scrubbed["code"] == 483920


def test_the_option_of_a_command_in_a_list() -> None:
    """Tools are called with lists of words."""
    for command in (["docker", "login", "-u", "bob", "-p", S], ["mysql", "--password", S], ("redis-cli", "-a", S)):
        assert S not in str(Scrubber().scrub({"args": command}, "tool", "input"))
    harmless = ["docker", "run", "-p", "80:80", "nginx", "-x"]
    assert Scrubber().scrub(harmless, "tool", "input") == harmless


@pytest.mark.parametrize("names", [("Key", "Value"), ("Name", "Value"), ("ParameterKey", "ParameterValue"), ("k", "v")])
def test_names_beside_values_in_any_spelling(names: tuple[str, str]) -> None:
    """As AWS's APIs spell them."""
    value: Any = {names[0]: "DB_PASSWORD", names[1]: S}
    assert S not in str(Scrubber().scrub([value], "tool", "output"))


@pytest.mark.parametrize(
    "text",
    [
        "use --token to pass it",
        "the --password option is required",
        "--password PASSWORD",
        "[--api-key KEY]",
        "--max-tokens 500",
        "mysql -p dbname",
        "docker run -p 80:80 nginx",
        "Key (email)=(a@b.c) already exists.",
        "curl -X POST https://x.io",
        "curl -u https://x",
        "git -p log",
        "zip -r a.zip b",
        "http -v x.io",
        "ENV PATH /usr/bin",
        "set password to continue",
        "password reset with a login of bob",
        "python -m x -p 8080 -a b:c",
        "--token-limit 5",
        "Duplicate entry 'x' for key 'email'",
        "https://x.io:8080/a?b=c@d.e",
        "http://localhost:3000/x",
        "redis://localhost:6379/0",
        "see http://a:80/b and c@d.e",
        "?code=404",
        "error code=10061 x",
        "exit code: 137001",
        "https://x.io/list?state=waiting_for_review_2024&p=1",
        "state: waiting_for_review_2024",
        "state=waiting-for-approval-42",
        '{"code": "order_shipped_2024"}',
        '{"name": "colour", "value": "red"}',
        "- name: A\n  value: b",
        '{"name":"token_count","value":"12"}',
        "name: password reset\nvalue: 3",
        '{"key": "revenue", "value": 5}',
        '{"name": "DB_PASSWORD", "other": 1}, {"value": "x"}',
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    """Prose about options, ports, other tools' options, states of words, and names that are no secrets'."""
    assert Scrubber().text(text, "tool", "input") == text
