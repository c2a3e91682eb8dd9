"""What the copilot can ask the database: one metric, over some days, grouped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Engine, func, select
from sqlmodel import Session, col

from demo_app.models import AdMetric

Metric = Literal["spend", "revenue", "roas", "clicks", "conversions", "cpa"]


class Plan(BaseModel):
    """A query that the model asks for. Nothing that it writes becomes SQL; it can only choose."""

    metric: Metric
    channel: Literal["google_ads", "meta_ads", "shopify"] | None = None
    days: int = Field(default=30, ge=1, le=60)
    group_by: Literal["channel", "campaign", "day"] = "channel"


class Declined(BaseModel):
    """What the model says in place of a query when the question is not about these figures."""

    declined: str


def run_query(engine: Engine, workspace_id: str, plan: Plan) -> list[dict[str, Any]]:
    """The plan's rows for this workspace: `label` and `value` (money in euros), best first, days in order.

    Without spend there is no return on it, and without orders no cost of one: such a row is left out.
    """
    group = col(getattr(AdMetric, plan.group_by))
    mine = col(AdMetric.workspace_id) == workspace_id
    with Session(engine) as session:
        last_day = session.scalar(select(func.max(col(AdMetric.day))).where(mine))
        if last_day is None:
            return []
        statement = select(
            group,
            func.sum(col(AdMetric.spend_cents)).label("spend"),
            func.sum(col(AdMetric.revenue_cents)).label("revenue"),
            func.sum(col(AdMetric.clicks)).label("clicks"),
            func.sum(col(AdMetric.conversions)).label("conversions"),
        )
        statement = statement.where(mine, col(AdMetric.day) > last_day - timedelta(days=plan.days)).group_by(group)
        if plan.channel:
            statement = statement.where(col(AdMetric.channel) == plan.channel)
        found: Iterable[Any] = session.connection().execute(statement)
        values = ((str(row[0]), _VALUES[plan.metric](row)) for row in found)
        rows = [{"label": label, "value": value} for label, value in values if value is not None]
    return sorted(rows, key=(lambda row: row["label"]) if plan.group_by == "day" else (lambda row: -row["value"]))


_VALUES: dict[Metric, Callable[[Any], float | None]] = {
    "spend": lambda row: round(row.spend / 100, 2),
    "revenue": lambda row: round(row.revenue / 100, 2),
    "roas": lambda row: round(row.revenue / row.spend, 2) if row.spend else None,
    "clicks": lambda row: row.clicks,
    "conversions": lambda row: row.conversions,
    "cpa": lambda row: round(row.spend / 100 / row.conversions, 2) if row.spend and row.conversions else None,
}
