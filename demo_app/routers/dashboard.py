"""The first page: what the workspace spent and earned."""

from __future__ import annotations

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
    def totals(metric: str, group_by: str) -> list[dict[str, object]]:
        plan = Plan.model_validate({"metric": metric, "group_by": group_by, "days": DAYS})
        return run_query(engine, user.workspace_id, plan)

    return page(
        request,
        "dashboard.html",
        days=DAYS,
        totals={metric: totals(metric, "channel") for metric in ("spend", "revenue", "roas")},
        daily=totals("revenue", "day"),
        campaigns=totals("roas", "campaign"),
    )
