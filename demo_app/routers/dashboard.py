"""The first page: what the workspace spent and earned."""

from __future__ import annotations

from math import floor, log10
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from demo_app.copilot.query import Plan, run_query
from demo_app.database import EngineDep
from demo_app.pages import page
from demo_app.security import CurrentUser

router = APIRouter(tags=["dashboard"])

DAYS = 30


@router.get("/")
def dashboard(request: Request, user: CurrentUser, engine: EngineDep) -> Response:
    def totals(metric: str, group_by: str) -> list[dict[str, Any]]:
        plan = Plan.model_validate({"metric": metric, "group_by": group_by, "days": DAYS})
        return run_query(engine, user.workspace_id, plan)

    daily = totals("revenue", "day")
    return page(
        request,
        "dashboard.html",
        days=DAYS,
        totals={metric: totals(metric, "channel") for metric in ("spend", "revenue", "roas")},
        daily=daily,
        axis_top=axis_top(max((row["value"] for row in daily), default=0)),
        campaigns=totals("roas", "campaign"),
    )


def axis_top(highest: float) -> float:
    """Where the axis of the bars ends: 1, 2, 4, 6 or 8 with zeros, not below the highest bar; its half is round too."""
    step = 10 ** floor(log10(highest)) if highest > 0 else 1
    return next(step * n for n in (1, 2, 4, 6, 8, 10) if step * n >= highest)
