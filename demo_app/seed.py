"""Sixty days of plausible metrics of a connected account: the same ones for the same workspace and day, always."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta

from demo_app.models import AdMetric

DAYS = 60
CAMPAIGNS = {
    "google_ads": {"Brand Search": 4.6, "Shopping": 3.1, "Performance Max": 2.4},
    "meta_ads": {"Prospecting": 1.4, "Retargeting": 3.8, "Lookalikes": 1.9},
    "shopify": {"Online Store": 4.0},
}
"""Each channel's campaigns and the return on ad spend that theirs swings around. A shop sells without any spend."""


def ad_metrics(workspace_id: str, channel: str, until: date) -> Iterator[AdMetric]:
    """The rows of a channel for `DAYS` days, the last being `until`."""
    chance, is_shop = random.Random(f"{workspace_id} {channel}"), channel == "shopify"
    for age in reversed(range(DAYS)):
        for campaign, return_on_spend in CAMPAIGNS[channel].items():
            spend_cents = chance.randint(4_000, 26_000)
            revenue_cents = max(0, int(spend_cents * chance.gauss(return_on_spend, 0.4)))
            yield AdMetric(
                workspace_id=workspace_id,
                day=until - timedelta(days=age),
                channel=channel,
                campaign=campaign,
                spend_cents=0 if is_shop else spend_cents,
                revenue_cents=revenue_cents,
                clicks=0 if is_shop else spend_cents // chance.randint(45, 120),
                conversions=revenue_cents // chance.randint(4_500, 9_000),
            )
