"""Settings: what the environment says, by mode, and what is told when it is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from metricx_observe import ConfigurationError, Observability, Settings
from metricx_observe.settings import RECEIVER_URL, load_settings
from metricx_observe.vendors.vendor import Target

SENTRY = "https://d5f1c2@o1.ingest.sentry.io/42"
KEYS = {
    "SENTRY_DSN": SENTRY,
    "RUDDERSTACK_WRITE_KEY": "2aBcDeFgHiJk",
    "RUDDERSTACK_DATA_PLANE_URL": "https://acme.dataplane.rudderstack.com/",
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1234",
    "LANGFUSE_SECRET_KEY": "sk-lf-5678",
}
PLACEHOLDERS = {
    "SENTRY_DSN": "https://xxx@xxx.ingest.sentry.io/xxx",
    "RUDDERSTACK_WRITE_KEY": "xxx",
    "RUDDERSTACK_DATA_PLANE_URL": "https://xxx.dataplane.rudderstack.com",
    "LANGFUSE_PUBLIC_KEY": "pk-lf-xxx",
    "LANGFUSE_SECRET_KEY": "sk-lf-xxx",
}
MARKER = "hunter2"
"""Stands in every wrong value, and must not stand in any text."""

Environment = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """Reads settings from these variables and this `.env`, with these overrides."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VERSION")  # under pytest an unset ENVIRONMENT is "test"

    def read(variables: Mapping[str, str] | None = None, dotenv: str = "", **overrides: Any) -> Settings:
        (tmp_path / ".env").write_text(dotenv)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (variables or {}).items():
                patch.setenv(name, value)
            return load_settings(overrides)

    return read


def states(settings: Settings) -> list[str]:
    return [settings.vendor(name).state for name in ("sentry", "rudderstack", "langfuse")]


def test_each_vendor_is_read_from_its_documented_variables(read: Environment) -> None:
    """The documented names configure the three vendors; Langfuse's host has its cloud as default."""
    settings = read({**KEYS, "ENVIRONMENT": "production"})
    assert settings.vendor("sentry") == Target("on", SENTRY)
    assert settings.vendor("rudderstack") == Target("on", "https://acme.dataplane.rudderstack.com", "2aBcDeFgHiJk")
    assert settings.vendor("langfuse") == Target("on", "https://cloud.langfuse.com", "pk-lf-1234", "sk-lf-5678")


def test_langfuse_host_works_and_its_successor_wins(read: Environment) -> None:
    """LANGFUSE_HOST is still read; LANGFUSE_BASE_URL wins over it, from the same place."""
    assert read({"LANGFUSE_HOST": "https://old.example"}).langfuse_base_url == "https://old.example"
    assert read({"LANGFUSE_BASE_URL": "https://new.example"}).langfuse_base_url == "https://new.example"
    both = {"LANGFUSE_HOST": "https://old.example", "LANGFUSE_BASE_URL": "https://new.example"}
    assert read(both).langfuse_base_url == "https://new.example"
    target = read({**KEYS, "LANGFUSE_HOST": "https://old.example/"}).vendor("langfuse")
    assert target.url == "https://old.example"


def test_dotenv_is_read_and_the_environment_wins(read: Environment) -> None:
    """`.env` in the working directory counts where the environment says nothing, under either name of a setting."""
    assert read(dotenv=f"SENTRY_DSN={SENTRY}\nUNKNOWN=1\n").vendor("sentry").url == SENTRY
    assert read({"LOG_LEVEL": "INFO"}, "LOG_LEVEL=DEBUG\n").log_level == "INFO"
    assert read({"LANGFUSE_HOST": "https://a.example"}, "LANGFUSE_BASE_URL=https://b.example\n").langfuse_base_url == (
        "https://a.example"
    )


def test_keywords_win_over_the_environment(read: Environment) -> None:
    """A keyword of `from_env` counts more than any variable, under either name of it."""
    for name in ("LANGFUSE_HOST", "LANGFUSE_BASE_URL"):
        settings = read({name: "https://a.example"}, langfuse_base_url="https://b.example")
        assert settings.langfuse_base_url == "https://b.example"
    assert read({"METRICX_STRICT": "true"}, strict=False).strict is False


def test_an_unknown_keyword_is_refused(read: Environment) -> None:
    """A mistyped keyword is an error that names it, and is not taken for nothing."""
    with pytest.raises(ConfigurationError, match="no such setting: sentry_dns"):
        read(sentry_dns=SENTRY)


@pytest.mark.parametrize(
    ("variables", "mode", "expected"),
    [
        ({}, "development", ["local", "local", "local"]),
        ({"ENVIRONMENT": ""}, "development", ["local", "local", "local"]),
        ({"ENVIRONMENT": "Development", "SENTRY_DSN": SENTRY}, "development", ["on", "local", "local"]),
        ({"SENTRY_DSN": SENTRY}, "production", ["on", "off", "off"]),
        ({"ENVIRONMENT": "staging", **KEYS}, "production", ["on", "on", "on"]),
        ({"ENVIRONMENT": "production"}, "production", ["off", "off", "off"]),
        ({"ENVIRONMENT": "test", "SENTRY_DSN": SENTRY}, "test", ["on", "on", "on"]),
    ],
)
def test_modes(read: Environment, variables: dict[str, str], mode: str, expected: list[str]) -> None:
    """ENVIRONMENT decides what becomes of a vendor without keys; unset, whether any key is set decides."""
    settings = read(variables)
    assert (settings.mode, states(settings)) == (mode, expected)


def test_a_vendor_without_keys_says_which_are_missing(read: Environment) -> None:
    """In production the reason names the variables that would switch a vendor on."""
    vendor = read({"ENVIRONMENT": "production"}).vendor("langfuse")
    assert vendor.reason == "not set: LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY"


def test_test_mode_uses_no_key(read: Environment) -> None:
    """In test mode the targets are local ones, whatever is configured, and the outbox is in memory."""
    settings = read({**KEYS, "ENVIRONMENT": "test", "METRICX_OUTBOX_URL": "sqlite:////nowhere/outbox.db"})
    for name in ("sentry", "rudderstack", "langfuse"):
        target = settings.vendor(name)
        assert target.url.partition("://")[2].removeprefix("local@").startswith(RECEIVER_URL.partition("://")[2])
        assert not {target.key, target.secret} & set(KEYS.values())
    assert settings.outbox == "memory://"


def test_the_local_receiver_in_each_vendors_shape(read: Environment) -> None:
    """Without keys in development each SDK gets the receiver's address in the shape that it takes."""
    settings = read({"METRICX_RECEIVER_URL": "http://127.0.0.1:9999/"})
    assert settings.vendor("sentry") == Target("local", "http://local@127.0.0.1:9999/1")
    assert settings.vendor("rudderstack") == Target("local", "http://127.0.0.1:9999", "local")
    assert settings.vendor("langfuse").url == "http://127.0.0.1:9999"


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("SENTRY_DSN", f"{MARKER}", "SENTRY_DSN is malformed: type https://PUBLIC_KEY@HOST/PROJECT_ID"),
        ("SENTRY_DSN", f"https://{MARKER}@o1.ingest.sentry.io/", "SENTRY_DSN is malformed"),
        ("SENTRY_DSN", f"https://{MARKER}.sentry.io/42", "SENTRY_DSN is malformed"),
        ("RUDDERSTACK_DATA_PLANE_URL", f"{MARKER}.rudderstack.com", "RUDDERSTACK_DATA_PLANE_URL is no URL: type it"),
        ("RUDDERSTACK_DATA_PLANE_URL", f"https://{MARKER}:99999", "RUDDERSTACK_DATA_PLANE_URL is no URL"),
        ("RUDDERSTACK_WRITE_KEY", f"“{MARKER}”", "RUDDERSTACK_WRITE_KEY has characters that no key has: copy it again"),
        ("LANGFUSE_HOST", f"{MARKER}", "LANGFUSE_BASE_URL (or LANGFUSE_HOST) is no URL: type it with its scheme"),
        ("LANGFUSE_SECRET_KEY", "  ", "LANGFUSE_SECRET_KEY is not set but LANGFUSE_PUBLIC_KEY is: set both or none"),
        ("LANGFUSE_PUBLIC_KEY", "", "LANGFUSE_PUBLIC_KEY is not set but LANGFUSE_SECRET_KEY is: set both or none"),
        ("RUDDERSTACK_WRITE_KEY", "", "RUDDERSTACK_WRITE_KEY is not set but RUDDERSTACK_DATA_PLANE_URL is"),
        ("METRICX_RECEIVER_URL", MARKER, "METRICX_RECEIVER_URL: is no URL: type it with its scheme"),
        ("METRICX_OUTBOX_URL", f"redis://{MARKER}", "METRICX_OUTBOX_URL: type sqlite:///absolute/path or memory://"),
        ("METRICX_ERROR_STATUSES", MARKER, "METRICX_ERROR_STATUSES: type statuses and ranges, e.g. 500-599"),
        ("METRICX_TRUSTED_PROXIES", MARKER, "METRICX_TRUSTED_PROXIES: type addresses or networks, e.g. 10.0.0.0/8"),
        ("METRICX_PERSONAL_DATA", MARKER, "METRICX_PERSONAL_DATA: Input should be 'keep', 'hash' or 'drop'"),
        ("METRICX_TRACES_SAMPLE_RATE", "7", "METRICX_TRACES_SAMPLE_RATE: Input should be less than or equal to 1"),
        ("METRICX_STRICT", MARKER, "METRICX_STRICT: type true or false"),
        *[(name, value, f"{name} is still the document's placeholder") for name, value in PLACEHOLDERS.items()],
    ],
)
def test_a_wrong_value_is_told_without_being_shown(
    read: Environment, monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, told: str
) -> None:
    """An error names the variable, the fault and what to type, and shows no value."""
    for key, value in {**KEYS, "ENVIRONMENT": "production", name: wrong}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError) as raised:
        Observability.from_env()
    assert told in str(raised.value)
    for secret in (MARKER, *KEYS.values()):
        assert secret not in str(raised.value)
    assert raised.value.__cause__ is None


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three wrong vendors make one error that names all three."""
    for name, value in PLACEHOLDERS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        Observability.from_env()
    assert [name in str(raised.value) for name in ("SENTRY_DSN", "RUDDERSTACK_WRITE_KEY", "LANGFUSE_PUBLIC_KEY")] == (
        [True, True, True]
    )


def test_a_dotenv_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A `.env` in another encoding is a configuration error, not a decoding error from within."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes("LOG_LEVEL=INFO # für alle\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"^\.env: cannot be read \(UnicodeDecodeError\)"):
        load_settings({})


def test_settings_show_no_secret(read: Environment) -> None:
    """Neither the settings nor a vendor's target nor pydantic's own error shows a key."""
    settings = read({**KEYS, "ENVIRONMENT": "production", "METRICX_CARRY_SECRET": MARKER})
    shown = repr(settings) + repr([settings.vendor(name) for name in ("sentry", "rudderstack", "langfuse")])
    for secret in (SENTRY, "2aBcDeFgHiJk", "sk-lf-5678", MARKER):
        assert secret not in shown
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"traces_sample_rate": MARKER})
    assert MARKER not in str(raised.value)


def test_a_missing_sdk_is_told_with_the_pip_command(monkeypatch: pytest.MonkeyPatch, read: Environment) -> None:
    """A vendor that is configured but not installed says what to type; one that is not configured is merely off."""
    monkeypatch.setitem(sys.modules, "langfuse", None)
    configured = read({**KEYS, "ENVIRONMENT": "production"}).vendor("langfuse")
    assert configured.state == "fault"
    assert re.search(r"pip install .*\[langfuse\]'$", configured.reason)
    assert read({"ENVIRONMENT": "development"}).vendor("langfuse").state == "off"
    assert read({**KEYS, "ENVIRONMENT": "test"}).vendor("langfuse").state == "off"


def test_a_missing_sdk_by_an_import_hook(monkeypatch: pytest.MonkeyPatch, read: Environment) -> None:
    """An import hook that refuses the SDK counts as not installed."""

    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "rudderstack":
                raise ModuleNotFoundError(name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "rudderstack"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert read({**KEYS, "ENVIRONMENT": "production"}).vendor("rudderstack").state == "fault"


def test_the_service_name(read: Environment, tmp_path: Path) -> None:
    """METRICX_SERVICE, else OTEL_SERVICE_NAME, else the directory's name; no bare SERVICE or RELEASE is read."""
    assert read({"METRICX_SERVICE": "a", "OTEL_SERVICE_NAME": "b"}).service_name == "a"
    assert read({"OTEL_SERVICE_NAME": "b"}).service_name == "b"
    settings = read({"SERVICE": "c", "RELEASE": "d"})
    assert (settings.service_name, settings.release) == (tmp_path.name, None)
    assert read({"SENTRY_RELEASE": "1", "METRICX_RELEASE": "2"}).release == "2"


def test_the_environments_name_is_one_that_every_vendor_takes(read: Environment) -> None:
    """Langfuse takes lower case, digits, `-` and `_`, at most 40 of them."""
    assert read({"ENVIRONMENT": "Prod EU/1"}).environment_name == "prod-eu-1"
    assert read({"ENVIRONMENT": "x" * 60}).environment_name == "x" * 40
    assert read().environment_name == "development"


def test_the_sample_rate_by_where_sentry_goes(read: Environment) -> None:
    """Every request is traced locally, a tenth elsewhere, and as many as were asked for where that was said."""
    assert read().sample_rate == 1.0
    assert read({"ENVIRONMENT": "production", "SENTRY_DSN": SENTRY}).sample_rate == 0.1
    assert read({"METRICX_TRACES_SAMPLE_RATE": "0"}).sample_rate == 0.0


def test_lists_are_words_between_commas(read: Environment) -> None:
    """Lists in variables are separated by commas, with or without spaces."""
    settings = read(
        {
            "METRICX_IN_APP": "app, lib",
            "METRICX_ERROR_STATUSES": "404, 500-502",
            "METRICX_TRUSTED_PROXIES": "10.0.0.1/8,::1",
            "METRICX_IGNORE_PATHS": "/up",
        }
    )
    assert settings.in_app == ("app", "lib")
    assert settings.error_statuses == {404, 500, 501, 502}
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert (settings.ignored("/up"), settings.ignored("/health")) == (True, False)
    assert read(error_statuses=frozenset({418})).error_statuses == {418}


def test_where_the_outbox_is(read: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """METRICX_OUTBOX_URL, else a file per service and environment in the state directory, else memory."""
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    named = {"METRICX_SERVICE": "a/b", "ENVIRONMENT": "Prod"}
    folder = "metricx-observe/a%2Fb-prod/outbox.db"
    assert read(named).outbox == f"sqlite:////home/ada/.local/state/{folder}"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert read(named).outbox == f"sqlite:////state/{folder}"
    assert read({"METRICX_OUTBOX_URL": "sqlite:////x.db"}).outbox == "sqlite:////x.db"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    assert read(named).outbox == "memory://"


def test_nothing_else_reads_the_environment() -> None:
    """`settings` is the only reader of the environment in the core."""
    package = Path(sys.modules["metricx_observe"].__file__ or "").parent
    others = ("cli/", "receiver/", "settings.py")
    readers = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "os.environ" in (text := path.read_text()) or "getenv" in text
    ]
    assert [name for name in readers if not name.startswith(others)] == []


def test_a_wrong_address_of_the_outbox_costs_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where faults are told and not raised, the usual file is taken, and a line says which."""
    monkeypatch.setenv("METRICX_OUTBOX_URL", f"redis://{MARKER}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    told: list[str] = []
    settings = load_settings({"environment": "production", "service": "shop"}, told)
    assert told == [
        "METRICX_OUTBOX_URL: type sqlite:///absolute/path or memory://; its default is taken",
        f"METRICX_OUTBOX_URL is taken as sqlite:///{tmp_path}/metricx-observe/shop-production/outbox.db",
    ]
    assert settings.outbox == told[1].removeprefix("METRICX_OUTBOX_URL is taken as ")
