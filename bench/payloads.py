"""What all variants send and answer: a browser's headers, an event, a generation. Text varies as real text does."""

from __future__ import annotations

import random
from typing import Any

HOST = b"app.example.com"
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"host", HOST),
    (b"connection", b"keep-alive"),
    (b"sec-ch-ua", b'"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"macOS"'),
    (b"user-agent", b"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/142.0 Safari/537.36"),
    (b"accept", b"application/json, text/plain, */*"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"cors"),
    (b"referer", b"https://app.example.com/workspaces/ws_42/copilot"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-US,en;q=0.9"),
    (b"cookie", b"session=c2Vzc2lvbg; _ga=GA1.1.1234567890.1732460000; rl_anonymous_id=0d9f6f4e-7b6a-4a0e-8a51"),
)  # fmt: skip
"""A browser's request to its own API, of a user with an analytics cookie."""

USER_ID, EMAIL = "user_4711", "ann@example.com"
EVENT, MODEL = "copilot_query_sent", "claude-sonnet-4-5"
USAGE = {"input": 512, "output": 256, "total": 768}
_WORDS = str.split(
    """
    campaign clicks spend return audience budget week report conversions impressions revenue shop keyword channel
    creative bid margin forecast segment landing page traffic quarter because although compared against higher lower
    """
)


def text(size: int, seed: int) -> str:
    """Prose of exactly `size` characters; another seed gives another text, so that gzip finds what it finds in life."""
    chosen, written = random.Random(seed), ""
    while len(written) < size:
        words = " ".join(chosen.choices(_WORDS, k=chosen.randint(6, 18)))
        written += f"{words.capitalize()} {chosen.randint(1, 9999)}. "
    return written[:size]


def properties(n: int) -> dict[str, Any]:
    """An event's, of about 200 bytes as JSON."""
    return {
        "question": text(90, n), "model": MODEL, "workspace_id": "ws_42", "connection": "google_ads",
        "tokens": 768, "seconds": 1.25,
    }  # fmt: skip


def messages(size: int, n: int) -> list[dict[str, str]]:
    """An LLM call's input of about `size` bytes."""
    return [{"role": "user", "content": text(size, n)}]


VARIETY = 64
"""Different texts; made beforehand, because making them costs more than sending them."""
PROPERTIES = [properties(n) for n in range(VARIETY)]
INPUTS = [messages(2_000, n) for n in range(VARIETY)]
OUTPUTS = [text(1_000, n) for n in range(VARIETY)]


def answer(item_id: int) -> dict[str, Any]:
    """What every route answers."""
    return {"id": item_id, "name": "Summer sale", "active": True, "budget": 120.5, "channels": ["google_ads", "meta"]}
