"""What is imported when: no vendor's SDK before its vendor is opened, no database before delivery, no HTTP client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .processes import run_fresh_python

CODE = """
import json, sys
WATCHED = ("sentry_sdk", "rudderstack", "langfuse", "opentelemetry.sdk", "httpx", "sqlite3", "metricx_observe.receiver")
def loaded():
    return [name for name in WATCHED if name in sys.modules]
import fastapi
before = set(loaded())
import metricx_observe
after_import = set(loaded()) - before
observability = metricx_observe.Observability.from_env({overrides})
observability.install(fastapi.FastAPI())
after_install = set(loaded()) - before
observability.tracker.track("e", user_id="u1")
observability.flush(5)
print(json.dumps([sorted(found) for found in (after_import, after_install, set(loaded()) - before)]))
"""
LLM_PACKAGES = (
    "agents", "anthropic", "cohere", "google.genai", "huggingface_hub", "langchain_core", "langgraph", "litellm", "mcp",
    "openai", "pydantic_ai",
)  # fmt: skip
"""What Sentry's SDK has integrations for that we remove: Langfuse has the LLM calls."""
STARTED = """
import importlib.util, json, sys
import fastapi
PACKAGES = sys.argv[2].split()
imported = set()

class Anything:  # finds these packages and any module in them, each with any class that is asked for
    @staticmethod
    def find_spec(name, path=None, target=None):
        found = [each for each in PACKAGES if name == each or name.startswith(each + ".")]
        imported.update(found)
        return importlib.util.spec_from_loader(name, Anything, is_package=True) if found else None
    create_module = staticmethod(lambda spec: None)
    @staticmethod
    def exec_module(module):
        module.__getattr__ = lambda name: type(name, (), {})

sys.meta_path.insert(0, Anything)
from metricx_observe import Observability
observability = Observability.from_env(**json.loads(sys.argv[1]))
observability.install(fastapi.FastAPI())
observability.start()
ours = sorted(imported)
assert observability.states()['sentry']
observability.close(0.1)
import sentry_sdk.integrations.anthropic, sentry_sdk.integrations.langgraph, sentry_sdk.integrations.openai
print(json.dumps([ours, sorted(imported)]))
"""
RUDDERSTACK = {
    "environment": "production",
    "rudderstack_write_key": "key",
    "rudderstack_data_plane_url": "http://127.0.0.1:9",
    "outbox_url": "memory://",
}
LANGFUSE = {
    "environment": "production",
    "langfuse_public_key": "pk",
    "langfuse_secret_key": "sk",
    "langfuse_base_url": "http://127.0.0.1:9",
    "outbox_url": "memory://",
}
SENTRY = {"environment": "production", "sentry_dsn": "http://key@127.0.0.1:9/1", "outbox_url": "memory://"}


def test_what_is_imported_when(tmp_path: Path) -> None:
    """Importing the package loads no SDK; opening loads those that are configured, and sqlite3."""
    cases = {"off": {"environment": "production"}, "sentry": SENTRY, "rudderstack": RUDDERSTACK, "langfuse": LANGFUSE}

    def loaded(case: str) -> list[list[str]]:
        overrides = ", ".join(f"{name}={value!r}" for name, value in cases[case].items())
        code = CODE.format(overrides=overrides)
        ended = run_fresh_python("-c", code, folder=tmp_path)
        assert ended.returncode == 0, ended.stderr
        found: list[list[str]] = json.loads(ended.stdout)
        return found

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(cases, pool.map(loaded, cases), strict=True))
    assert [steps[0] for steps in found.values()] == [[], [], [], []]
    opened = {case: set(steps[1]) for case, steps in found.items()}
    assert opened["off"] == set()
    assert opened["rudderstack"] == {"rudderstack", "sqlite3"}
    assert "sentry_sdk" in opened["sentry"]
    assert not {"rudderstack", "metricx_observe.receiver"} & opened["sentry"]
    assert {"langfuse", "opentelemetry.sdk"} <= opened["langfuse"]
    assert not {"sentry_sdk", "rudderstack"} & opened["langfuse"]
    assert set(found["rudderstack"][2]) == opened["rudderstack"]
    assert not {"sentry_sdk", "langfuse"} & set(found["rudderstack"][2])


def test_no_package_for_llm_calls_is_imported(tmp_path: Path) -> None:
    """Seconds of CPU and 100 MB where they are installed. Sentry's integrations import them, and we remove those."""
    ended = run_fresh_python("-c", STARTED, json.dumps(SENTRY), " ".join(LLM_PACKAGES), folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = json.loads(ended.stdout)
    assert ours == []
    assert {"anthropic", "langgraph", "openai"} <= set(theirs)
