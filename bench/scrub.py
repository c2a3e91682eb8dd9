"""What scrubbing costs: a usual Sentry error against the SDK's capture of the same exception, and JSON of two sizes.

    python -m bench.scrub            prints the figures; exits with 1 when the ratio is above 1/7

Figures are the best of several rounds, so that other processes on the machine matter little.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import orjson
import sentry_sdk
from pydantic import BaseModel
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from metricx_observe.scrubber import Scrubber

MAX_RATIO = 1 / 7
FRAMES = 20


class Workspace(BaseModel):
    name: str
    plan: str
    api_key: str


@dataclass
class Connection:
    provider: str
    account: str
    access_token: str


class Keep(Transport):
    """Keeps the last event instead of sending it."""

    event: Any = None

    def capture_envelope(self, envelope: Envelope) -> None:
        self.event = envelope.items[0].payload.json


def frame(depth: int, rows: list[dict[str, Any]], note: str) -> None:
    """One frame with locals of every usual sort."""
    workspace = Workspace(name="Acme", plan="pro", api_key="a-key-of-the-workspace")
    connection = Connection("google_ads", "123-456-7890", f"token-{depth}")
    query = "SELECT campaign.id, metrics.clicks FROM campaign WHERE segments.date DURING LAST_7_DAYS"
    totals = {"clicks": depth * 100, "impressions": depth * 1000, "ctr": 0.1, "by_day": [1, 2, 3, 4, 5]}
    url = f"https://api.example.com/v1/reports?account={depth}&page=2"
    if depth == 0:
        raise ValueError(f"no rows for {workspace.name} {connection.provider} {query} {totals} {url}")
    frame(depth - 1, rows, note)


def fail() -> None:
    """Raise in the last of the frames and capture it: a new exception each time, since the SDK drops repeated ones."""
    try:
        frame(FRAMES - 2, [{"campaign": n, "name": f"Summer {n}"} for n in range(8)], text(200))
    except ValueError as error:
        sentry_sdk.capture_exception(error)


def text(characters: int, seed: int = 1) -> str:
    """Prose as a model writes it: sentences, headings, colons, now and then a word that looks like a secret's name."""
    chosen = random.Random(seed)
    words = str.split(
        "the campaign spent more on clicks than last week and its return fell because of a new audience token key "
        "budget author metrics conversions impressions revenue shop it's secretary password don't 12.5% CPC (ROAS)"
    )
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        sentence = " ".join(chosen.choice(words) for _ in range(chosen.randint(6, 18)))
        link = f"{sentence}, see https://x.io/a-b. "
        parts.append(chosen.choice((f"- **Summary**: {sentence}.\n", f"{sentence}. ", link)))
    return "".join(parts)[:characters]


def best(call: Callable[[], object], rounds: int, calls: int) -> float:
    """Microseconds of CPU of one call in the fastest round."""
    fastest = float("inf")
    for _ in range(rounds):
        start = process_time()
        for _ in range(calls):
            call()
        fastest = min(fastest, (process_time() - start) / calls)
    return fastest * 1e6


def event_of(characters: int) -> bytes:
    """An analytics message of about 2 KB with a question of so many characters."""
    return orjson.dumps(
        {
            "messageId": "5f1e8f5e-0b0e-4c61-9a1f-2b7f0b6b8a11", "type": "track", "event": "copilot_query_sent",
            "userId": "user_123", "anonymousId": "0d9f6f4e-7b6a-4a0e-8a51-2b7f0b6b8a12",
            "timestamp": "2026-01-24T15:31:03.123456Z", "integrations": {"All": True},
            "context": {
                "library": {"name": "metricx_observe", "version": "0.1.0"}, "sessionId": 1732460000,
                "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "page": {"url": "https://app.example.com/copilot"},
                "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
            },
            "properties": {
                "question": text(characters), "session_id": 1732460000, "input_tokens": 1200, "max_tokens": 4096,
                "workspace_id": "ws_42", "request_id": "0af7651916cd43dd8448eb211c80319c", "provider": "anthropic",
            },
        }
    )  # fmt: skip


def trace_of(characters: int) -> bytes:
    """What a generation holds: messages in, text out, usage."""
    half = characters // 2
    return orjson.dumps(
        {
            "input": [{"role": "user", "content": text(half)}],
            "output": {"role": "assistant", "content": text(half, 2)},
            "model": "claude-sonnet-4-5",
            "usage": {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 5},
        }
    )


def messages_of(characters: int) -> bytes:
    """Messages without a secret."""
    return orjson.dumps([{"role": "user", "content": f"{text(characters, 3)}."}])


def rows_of(characters: int) -> bytes:
    """What a tool of a language model answers."""
    rows = ({"campaign": n, "name": f"Summer {n}", "clicks": n * 7, "ctr": 0.1} for n in range(characters // 55))
    return orjson.dumps(list(rows))


def main() -> int:
    """Print the figures; 1 when scrubbing an error costs more than a seventh of capturing it."""
    kept = Keep()
    sentry_sdk.init("http://key@127.0.0.1:9/1", transport=kept)
    capture = best(fail, 5, 20)
    print(f"event                   {len(orjson.dumps(kept.event)):9} bytes")
    print(f"capture by the SDK      {capture:9.1f} us")
    scrubber = Scrubber()
    scrub = best(lambda: scrubber.scrub(kept.event, "error", "event"), 7, 20)
    print(f"scrub                   {scrub:9.1f} us, {scrub / capture:.3f} of it, at most {MAX_RATIO:.3f}")
    cases = {
        "analytics event": event_of(1100), "LLM trace": trace_of(50_000),
        "2 KB of text": messages_of(2_000), "50 KB of text": messages_of(50_000), "rows as JSON": rows_of(50_000),
    }  # fmt: skip
    for name, data in cases.items():
        value = orjson.loads(data)
        cost = best(lambda value=value: scrubber.scrub(value, "track", "properties"), 7, 200)  # type: ignore[misc]
        print(f"{name:16} {len(data):6} B {cost:9.1f} us")
    return int(scrub > MAX_RATIO * capture)


if __name__ == "__main__":
    sys.exit(main())
