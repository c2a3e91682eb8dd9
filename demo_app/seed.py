"""Sixty days of plausible ad metrics for a new workspace: the same ones for the same workspace and day, always."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta

from demo_app.models import AdMetric

DAYS = 60
CAMPAIGNS = {
    "google_ads": {"Brand Search": 4.6, "Shopping": 3.1, "Performance Max": 2.4},
    "meta_ads": {"Prospecting": 1.4, "Retargeting": 3.8, "Lookalikes": 1.9},
}
"""Each channel's campaigns and the return on ad spend that theirs swings around."""


def ad_metrics(workspace_id: str, until: date) -> Iterator[AdMetric]:
    """The rows of `DAYS` days, the last being `until`."""
    chance = random.Random(workspace_id)
    for age in reversed(range(DAYS)):
        for channel, campaigns in CAMPAIGNS.items():
            for campaign, return_on_spend in campaigns.items():
                spend_cents = chance.randint(4_000, 26_000)
                revenue_cents = int(spend_cents * chance.gauss(return_on_spend, 0.4))
                yield AdMetric(
                    workspace_id=workspace_id,
                    day=until - timedelta(days=age),
                    channel=channel,
                    campaign=campaign,
                    spend_cents=spend_cents,
                    revenue_cents=max(0, revenue_cents),
                    clicks=spend_cents // chance.randint(45, 120),
                    conversions=max(0, revenue_cents) // chance.randint(4_500, 9_000),
                )
