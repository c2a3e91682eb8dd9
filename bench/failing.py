"""An exception with 20 frames and the locals of a usual application, raised from a file whose source can be read."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

FRAMES = 20


class Workspace(BaseModel):
    """A model among the locals."""

    name: str
    plan: str
    seats: int


@dataclass
class Account:
    """A dataclass among the locals."""

    provider: str
    number: str
    currency: str


def fail(message: str) -> None:
    """Raise ValueError through `FRAMES` frames, this one included."""
    _frame(FRAMES - 2, message, [{"campaign": number, "name": f"Summer {number}"} for number in range(8)])


def _frame(depth: int, message: str, rows: list[dict[str, object]]) -> None:
    workspace = Workspace(name="Acme", plan="pro", seats=depth)
    account = Account("google_ads", "123-456-7890", "EUR")
    query = "SELECT campaign.id, metrics.clicks FROM campaign WHERE segments.date DURING LAST_7_DAYS"
    totals = {"clicks": depth * 100, "impressions": depth * 1000, "ctr": 0.1, "by_day": [1, 2, 3, 4, 5]}
    if depth == 0:
        raise ValueError(f"{message}: {workspace.name} {account.provider} {len(query)} {len(totals)}")
    _frame(depth - 1, message, rows)
