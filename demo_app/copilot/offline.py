"""A model without a network: it reads the copilot's two kinds of prompt by simple rules.

A bare question gets a query as JSON, or what can be asked when it names nothing that the data has; a question with its
rows gets an answer from these rows. Its tokens are words and punctuation marks, counted in everything that it is given
and everything that it replies.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

TOKEN = re.compile(r"\w+|[^\w\s]")
CONTEXT_WINDOW = 1_000
"""Tokens. A longer prompt is refused, as a real model does."""
PACE_S = 0.03
"""Seconds between two pieces of a reply, so that one sees it stream."""


class ContextWindowError(Exception):
    """The prompt is longer than the model can read."""


@dataclass(frozen=True, slots=True)
class TextBlock:
    text: str
    type: str = "text"


class OfflineStream:
    """A reply, word by word."""

    def __init__(self, message: SimpleNamespace, pace_s: float) -> None:
        self.message = message
        self.pace_s = pace_s

    @property
    async def text_stream(self) -> AsyncIterator[str]:
        for piece in re.findall(r"\S+\s*", self.message.content[0].text):
            yield piece
            await asyncio.sleep(self.pace_s)

    async def get_final_message(self) -> SimpleNamespace:
        return self.message


class OfflineModel:
    """The built-in model."""

    name = "metricx-offline-1"

    def __init__(self, pace_s: float = PACE_S) -> None:
        self.pace_s = pace_s

    @asynccontextmanager
    async def stream(self, system: str, prompt: str) -> AsyncIterator[OfflineStream]:
        """Reply to a prompt.

        Raises:
            ContextWindowError: system text and prompt have more than `CONTEXT_WINDOW` tokens.
        """
        given = count_tokens(system) + count_tokens(prompt)
        if given > CONTEXT_WINDOW:
            raise ContextWindowError(f"The prompt has {given} tokens, the context window {CONTEXT_WINDOW}.")
        text = _answer(json.loads(prompt)) if prompt.startswith('{"question"') else json.dumps(_plan(prompt))
        # The shape of the Messages API's reply.
        message = SimpleNamespace(
            model=self.name,
            content=[TextBlock(text)],
            usage=SimpleNamespace(input_tokens=given, output_tokens=count_tokens(text)),
        )
        yield OfflineStream(message, self.pace_s)


def count_tokens(text: str) -> int:
    """Words and punctuation marks."""
    return len(TOKEN.findall(text))


METRICS = {
    "roas": r"\broas\b|return on",
    "cpa": r"\bcpa\b|cost per|expensive",
    "spend": r"\bspen[dt]|\bcosts?\b|budget",
    "clicks": r"\bclick|traffic",
    "conversions": r"\bconver(t|sion)|\borders?\b|\bsales?\b",
    "revenue": r"revenue|\bearn|\bincome\b|\bcampaigns?\b|\bchannels?\b|\bads?\b",
}
"""What a question is about, the first that fits. A question that fits none is not about the data."""
DECLINED = (
    "That is not in this workspace's data. I can answer questions about spend, revenue, return on ad spend (ROAS), "
    "clicks, orders and cost per order, by channel, campaign or day, of the last 60 days at most."
)
CHANNELS = {
    "google_ads": r"\bgoogle\b",
    "meta_ads": r"\b(meta|facebook|instagram)\b",
    "shopify": r"\b(shop|shopify)\b",
}
PERIODS = {1: r"today|yesterday", 7: r"week", 60: r"two months|quarter", 30: r""}


def _first(choices: dict[Any, str], question: str) -> Any:
    return next((choice for choice, words in choices.items() if re.search(words, question)), None)


def _plan(question: str) -> dict[str, Any]:
    question = question.lower()
    metric = _first(METRICS, question)
    if metric is None:
        return {"declined": DECLINED}
    days = re.search(r"(\d{1,2}) days?", question)
    return {
        "metric": metric,
        "channel": _first(CHANNELS, question),
        "days": min(60, max(1, int(days[1]))) if days else _first(PERIODS, question),
        "group_by": _first({"campaign": "campaign", "day": r"per day|each day|daily|trend", "channel": ""}, question),
    }


def _answer(facts: dict[str, Any]) -> str:
    query, rows = facts["query"], facts["rows"]
    if not rows:
        return "There is no data for this question: connect an account that has it, on the page Connections."
    best, worst = max(rows, key=lambda row: row["value"]), min(rows, key=lambda row: row["value"])
    metric = query["metric"].upper() if query["metric"] in {"roas", "cpa"} else query["metric"]
    text = f"{_name(best)} had the highest {metric} of the last {query['days']} days with {best['value']:,}."
    return text if best is worst else f"{text} {_name(worst)} had the lowest with {worst['value']:,}."


def _name(row: dict[str, Any]) -> str:
    label: str = row["label"]
    return label.replace("_", " ").title() if label.islower() else label
