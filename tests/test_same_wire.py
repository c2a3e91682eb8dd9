"""`tools/same_wire.py` tells each difference on the wire, and nothing that two runs of one code have of their own."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tools.wire.command import main
from tools.wire.compare import MISSING, Difference, compare, judge, read_expected
from tools.wire.decode import decode
from tools.wire.frames import Places, plain_frames
from tools.wire.normalise import Setting, normalise
from tools.wire.runner import run
from tools.wire.sink import Arrived, Sink

ROOT = Path(__file__).parents[1]
NOW = time.time()
SETTING = Setting(
    Places((("/env/lib/site-packages", "<venv>"), ("/home/me/checkout", "<checkout>"))), NOW, "http://127.0.0.1:4242"
)


def plain(*signals: Any, part: str = "sentry") -> Any:
    """Signals of one situation, normalised."""
    return normalise({"s": {part: list(signals)}}, SETTING)["s"][part]


def differences(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> list[Difference]:
    """Between two normalised versions of one situation."""
    first, second = normalise({"s": old}, SETTING), normalise({"s": new}, SETTING)
    return compare(first, second)


def iso(seconds: float = 0) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def test_ids_are_told_by_what_is_equal_to_what() -> None:
    """An id has the same name wherever it stands, also within a text, and each kind counts for itself."""
    trace, span = uuid4().hex, uuid4().hex[:16]
    (found,) = plain({"a": trace, "b": f"00-{trace}-{span}-01", "c": uuid4().hex, "d": str(uuid4())})
    assert found == {"a": "<hex32 1>", "b": "00-<hex32 1>-<hex16 1>-01", "c": "<hex32 2>", "d": "<uuid 1>"}


def test_times_near_the_run_keep_their_format_only() -> None:
    """What the situation gave itself is far away from now, and stays."""
    given = {
        "iso": iso(),
        "z": iso().replace("+00:00", "Z"),
        "s": NOW,
        "ns": str(time.time_ns()),
        "old": "2024-05-01T12:00:00Z",
    }
    (found,) = plain(given)
    assert found["iso"].startswith("<time T.")
    assert found["iso"].endswith("+00:00>")
    assert found["z"].endswith("Z>")
    assert found["s"] == "<float time s>"
    assert found["ns"] == "<epoch ns.0>"
    assert found["old"] == given["old"]


def test_the_order_of_times_and_a_given_length_are_seen() -> None:
    """A span that ends before it began is told, and one whose length was given."""
    start = time.time_ns()
    (found,) = plain({"startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 1_500_000_000)})
    assert found["(time)"] == "start <= end, 1500000000 ns"
    (found,) = plain({"startTimeUnixNano": str(start), "endTimeUnixNano": str(start - 1)})
    assert found["(time)"] == "END BEFORE START"
    (found,) = plain({"start_timestamp": iso(2), "timestamp": iso()})
    assert found["(time)"] == "END BEFORE START"


def test_what_a_run_has_of_its_own_is_taken_out() -> None:
    """Folders, ports, addresses, hosts, versions and the hash in a scrubber's marker."""
    (found,) = plain(
        {
            "url": "http://127.0.0.1:4242/v1", "port": "127.0.0.1:50123", "at": "<object at 0x7f0123456789>",
            "file": "/home/me/checkout/a.py", "server_name": "host", "sys.argv": ["8000"], "process.pid": {"value": 7},
            "sdk": {"name": "sentry.python.redis", "version": "2"},
            "marker": "[scrubbed name str len=3 #a1b2] and [scrubbed name str len=3 #a1b2]", "modules": {"a": "1"},
        }
    )  # fmt: skip
    assert found == {
        "url": "<sink>/v1", "port": "127.0.0.1:<port>", "at": "<object at <address>>", "file": "<checkout>/a.py",
        "server_name": "<host>", "sys.argv": "<command>", "process.pid": {"value": "<pid>"},
        "sdk": {"name": "sentry.python", "version": "<version>"}, "modules": "<versions>",
        "marker": "[scrubbed name str len=3 #<hash 1>] and [scrubbed name str len=3 #<hash 1>]",
    }  # fmt: skip


def test_frames_of_the_package_are_one_mark() -> None:
    """How many of its functions a request runs through is its own affair; the application's frames stay whole."""
    own = {
        "module": "shop.app",
        "function": "route",
        "lineno": 3,
        "vars": {"a": "1"},
        "abs_path": "/home/me/checkout/app.py",
    }
    library = {
        "module": "starlette.routing",
        "function": "app",
        "lineno": 9,
        "vars": {"scope": "{}"},
        "abs_path": "/env/lib/site-packages/s.py",
    }
    ours = {"module": "metricx_observe.middleware", "function": "__call__", "in_app": False}
    assert plain_frames([ours, ours, library, own], SETTING.places) == [
        {"frames of": "metricx_observe", "in_app": ["False"]},
        {"module": "starlette.routing", "function": "app", "vars": ["scope"], "abs_path": library["abs_path"]},
        own,
    ]


def test_neither_the_order_of_signals_nor_other_ids_are_a_difference() -> None:
    """Of two threads either may be first, and signals that look alike are told apart by what they refer to."""

    def made(turned: bool) -> dict[str, list[Any]]:
        first, second, alone = uuid4().hex, uuid4().hex, uuid4().hex
        signals = [{"signal": "track:a", "id": id} for id in (first, second, alone)]
        named = [{"signal": "event:x", "of": second, "text": "password"}, {"signal": "event:y", "of": alone}]
        return {"caller": [{"id": second}], "rudderstack": signals[::-1] if turned else signals, "sentry": named}

    assert not differences(made(False), made(True))


MADE = {"signal": "track:a", "userId": "u", "context": {"tags": {"a": "b"}, "list": [1, 2]}, "messageId": "0" * 32}


@pytest.mark.parametrize(
    ("changed", "path", "old", "new"),
    [
        ({"userId": "other"}, "rudderstack/track:a/userId", "u", "other"),
        ({"context": {"list": [1, 2]}}, "rudderstack/track:a/context/tags", {"a": "b"}, MISSING),
        ({"more": 1}, "rudderstack/track:a/more", MISSING, 1),
        ({"context": {"tags": {"a": "b"}, "list": [1, 2.0]}}, "rudderstack/track:a/context/list/1", 2, 2.0),
        ({"context": {"tags": {"a": "b"}, "list": [0, 1, 2]}}, "rudderstack/track:a/context/list/0", MISSING, 0),
        ({"context": {"tags": {"a": "b"}, "list": [1]}}, "rudderstack/track:a/context/list/1", 2, MISSING),
        ({"signal": "track:b"}, "rudderstack/track:a/signal", "track:a", "track:b"),
        ({"userId": None}, "rudderstack/track:a/userId", "u", None),
    ],
)
def test_a_changed_value_is_told_with_its_path(changed: dict[str, Any], path: str, old: Any, new: Any) -> None:
    """Also where only its type is another."""
    assert differences({"rudderstack": [MADE]}, {"rudderstack": [MADE | changed]}) == [Difference("s", path, old, new)]


def test_signals_that_are_missing_or_doubled_are_told_and_no_other() -> None:
    """The ids of those behind them are other ones then, which is no difference."""
    listed = [{"signal": f"track:{number}", "messageId": uuid4().hex} for number in range(4)]
    (found,) = differences({"rudderstack": listed}, {"rudderstack": listed[1:]})
    assert (found.path, found.new) == ("rudderstack/track:0", MISSING)
    (found,) = differences({"rudderstack": listed}, {"rudderstack": [*listed, listed[2]]})
    assert (found.path, found.old) == ("rudderstack/track:2", MISSING)
    (found,) = compare({"s": {}}, {})
    assert (found.situation, found.path) == ("s", "situation")


def test_an_id_that_is_no_longer_the_same_is_told() -> None:
    """The trace of an event was its transaction's, and is one of its own now."""
    trace, other = uuid4().hex, uuid4().hex
    old = {"sentry": [{"signal": "event:e", "trace": trace}, {"signal": "transaction:t", "trace": trace}]}
    new = {"sentry": [{"signal": "event:e", "trace": other}, {"signal": "transaction:t", "trace": trace}]}
    (found,) = differences(old, new)
    assert found.path == "sentry/transaction:t/trace"
    assert len(differences(new, old)) == 1


def test_expected_differences_need_a_reason() -> None:
    """A block without one, or with an unknown member, is a mistake in the file."""
    (block,) = read_expected(
        '# a comment\n\nsituation: a.*\npath: sentry/*/level\nnew: "warning"\nreason: because\n  it is so\n'
    )
    assert (block.reason, block.old) == ("because it is so", "*")
    for text in ("situation: a\npath: b\n", "situation: a\npath: b\nreason: c\ncolour: d\n"):
        with pytest.raises(ValueError, match=r"same_wire\.expected"):
            read_expected(text)


def test_what_is_expected_is_told_from_what_is_not_and_from_what_is_gone() -> None:
    """By situation, path and values. What belongs to situations that did not run says nothing."""
    text = "\n\n".join(
        f"situation: {name}\npath: {path}\nreason: r" for name, path in (("a", "p/*"), ("a", "gone"), ("other", "p"))
    )
    found = [Difference("a", "p/q", 1, 2), Difference("a", "r", 1, 2)]
    unexpected, unused = judge(found, read_expected(text), {"a"})
    assert unexpected == [found[1]]
    assert [block.path for block in unused] == ["gone"]


def test_each_vendors_requests_are_read() -> None:
    """Envelopes, batches, OTLP as JSON and as protobuf, and scores; logs one by one."""
    otlp = {
        "resourceSpans": [{"resource": {"attributes": [{"key": "r", "value": {"stringValue": "x"}}]}, "scopeSpans": [{
            "scope": {"name": "n"}, "spans": [{
                "traceId": "a" * 32, "spanId": "b" * 16, "name": "s", "kind": 1,
                "startTimeUnixNano": "1", "endTimeUnixNano": "2",
                "attributes": [{"key": "i", "value": {"intValue": "7"}}],
            }],
        }]}],
    }  # fmt: skip
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    binary = json.loads(json.dumps(otlp))
    span = binary["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span |= {"traceId": "qqqqqqqqqqqqqqqqqqqqqg==", "spanId": "u7u7u7u7u7s="}  # Base64 in protobuf's own JSON
    log = {"items": [{"body": "one"}, {"body": "two"}]}
    envelope = b"\n".join(
        json.dumps(part).encode()
        for part in (
            {"event_id": "e", "sent_at": iso()},
            {"type": "event"},
            {"message": "m"},
            {"type": "log", "item_count": 2},
            log,
        )
    )
    json_type, traces = {"content-type": "application/json"}, "/api/public/otel/v1/traces"
    found = decode([
        Arrived("POST", "/api/1/envelope/", {"content-encoding": "gzip"}, gzip.compress(envelope)),
        Arrived("POST", "/v1/batch", {"authorization": "Basic a2V5Og=="}, b'{"batch":[{"type":"track","event":"a"}]}'),
        Arrived("POST", traces, json_type, json.dumps(otlp).encode()),
        Arrived("POST", traces, {}, ParseDict(binary, ExportTraceServiceRequest()).SerializeToString()),
        Arrived("POST", "/api/public/scores", json_type, b'[{"name":"good"}]'),
    ])  # fmt: skip
    assert [each["signal"] for each in found["sentry"]] == ["event:m", "log:one", "log:two"]
    assert [each["signal"] for each in found["rudderstack"]] == ["track:a"]
    by_json, by_protobuf, score = found["langfuse"]
    assert by_json == by_protobuf
    assert by_json["attributes"] == {"i": 7}
    assert score == {"signal": "score:good", "name": "good"}
    assert {"vendor": "rudderstack", "method": "POST", "path": "/v1/batch", "authorization": "Basic key:"} in found[
        "requests"
    ]


def test_a_vendor_may_be_away() -> None:
    """It refuses then, and what it refused did not arrive."""
    with Sink() as sink:

        def post(path: str) -> int:
            try:
                with urllib.request.urlopen(f"{sink.url}{path}", b"{}", timeout=10) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        assert post("/away/one") == 200
        assert post("/s/one/v1/batch") == 503
        assert post("/back/one") == 200
        assert post("/s/one/v1/batch") == 200
        assert post("/s/two/unknown") == 404
        assert [request.path for request in sink.take("one")] == ["/v1/batch"]


def test_the_command_compares_and_says_what_is_not_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 with a reason, 1 without; the whole values stand there."""
    old, new, expected = (tmp_path / name for name in ("old", "new", "expected"))
    for file, level in ((old, "info"), (new, "error")):
        situations = {"s": {"sentry": [{"signal": "event:e", "level": level}]}}
        file.write_text(json.dumps({"made by": "this", "situations": situations}))
    assert main(["compare", str(old), str(new), "--expected", str(expected)]) == 1
    assert 's\n  sentry/event:e/level\n    old: "info"\n    new: "error"' in capsys.readouterr().out
    expected.write_text("situation: s\npath: sentry/*/level\nreason: louder\n\nsituation: *\npath: x\nreason: y\n")
    assert main(["compare", str(old), str(new), "--expected", str(expected)]) == 0
    assert "NO LONGER THERE: * x: y" in capsys.readouterr().out
    new.write_text(json.dumps({"made by": "that", "situations": {}}))
    assert main(["compare", str(old), str(new)]) == 2


SOURCE: tuple[tuple[str, str], ...] = (
    (r'"anonymousId"', r'"anonymousID"'),
    (r'"consentManagement"', r'"consents"'),
    (r'level: str = "info"', r'level: str = "warning"'),
)
"""Texts that stand somewhere in the package whatever its files are: names on the wire and of the public API."""
FACES = """
def _mutate():
    from langfuse import LangfuseOtelSpanAttributes as names

    names.OBSERVATION_INPUT = "langfuse.observation.given"

    def without_group(self, *args, **kwargs):
        return None

    def twice(self, *args, **kwargs):
        alias(self, *args, **kwargs)
        return alias(self, *args, **kwargs)

    def other_user(self, id, **kwargs):
        return bind_user(self, id and f"{id}-other", **kwargs)

    def raising(self, *args, **kwargs):
        raise ValueError("page")

    def more(self, name, value, **kwargs):
        return score(self, name, value, **{**kwargs, "comment": "another"})

    def tag(self, key, value):
        return set_tag(self, f"{key}_", value)

    def with_safe_names(cls, **kwargs):
        return from_env(cls, **{**kwargs, "scrub_safe_names": ("password",)})

    alias, bind_user, score, set_tag = Tracker.alias, Context.bind_user, Observation.score, Context.set_tag
    from_env = Observability.from_env.__func__
    Tracker.group, Tracker.alias, Tracker.page, Context.bind_user = without_group, twice, raising, other_user
    Observation.score, Context.set_tag, Observability.from_env = more, tag, classmethod(with_safe_names)


_mutate()
"""
"""The same by the public names: a signal dropped, one doubled, another user, a call that raises, …"""
TOLD = (
    ("attribution.bind.nobody", "rudderstack/track:probe/anonymousI*"),
    ("attribution.bind.nobody", "sentry/event:probe happened/payload/level"),
    ("attribution.bind.async", "rudderstack/track:probe/userId"),
    ("attribution.bind.async", "sentry/transaction:*/payload/user/id"),
    ("attribution.bind.async", "langfuse/generation:call/attributes/langfuse.observation.input"),
    ("attribution.bind.async", "langfuse/generation:call/attributes/langfuse.observation.given"),
    ("consent.installed.all", "rudderstack/track:before/context/consent*"),
    ("consent.installed.all", "sentry/*/payload/tags/reply_to*"),
    ("group", "rudderstack/group:"),
    ("group", "caller/0/group"),
    ("alias", "rudderstack/alias:"),
    ("page", "caller/0*"),
    ("llm.scores", "langfuse/score:quality/comment"),
    ("track.nested-secrets", "rudderstack/track:nested/properties/deep/password"),
    ("track.nested-secrets", "leaks/leak:rudderstack"),
)
"""What must be among the differences, and where."""


def test_small_mutations_of_the_package_are_told(tmp_path: Path) -> None:
    """A copy of the package with a dozen small faults: each is told, by the situations that have to do with it."""
    copy = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "metricx_observe", copy / "metricx_observe", ignore=shutil.ignore_patterns("__pycache__", "receiver")
    )
    for text, put in SOURCE:
        files = [file for file in copy.rglob("*.py") if text in file.read_text()]
        assert files, f"{text} is nowhere: take another text for this mutation"
        for file in files:
            file.write_text(file.read_text().replace(text, put))
    init = copy / "metricx_observe" / "__init__.py"
    init.write_text(init.read_text() + FACES)
    only = ",".join({situation for situation, _ in TOLD})
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda root: run(root, Path(sys.executable), only=only), (ROOT, copy))
    (old, faults), (new, more) = runs
    assert not [*faults, *more]
    found = compare(old, new)
    for situation, path in TOLD:
        assert any(each.situation == situation and fnmatchcase(each.path, path) for each in found), (situation, path)


def test_another_package_than_the_checkouts_is_refused(tmp_path: Path) -> None:
    """An installed one must not be taken for that of a checkout which has none."""
    document, (fault,) = run(tmp_path, Path(sys.executable), only="alias")
    assert not document
    assert f"which is not in {tmp_path}" in fault
