"""What the demo keeps. Every row but the OAuth state belongs to a workspace, and every query names that workspace."""

from __future__ import annotations

from datetime import date
from uuid import uuid4

from sqlmodel import Field, SQLModel, UniqueConstraint


def _new_id() -> str:
    return uuid4().hex


class Workspace(SQLModel, table=True):
    id: str = Field(default_factory=_new_id, primary_key=True)
    name: str


class User(SQLModel, table=True):
    id: str = Field(default_factory=_new_id, primary_key=True)
    email: str = Field(unique=True)
    password_hash: str
    workspace_id: str = Field(foreign_key="workspace.id")


class Connection(SQLModel, table=True):
    """A connected account. The access token is not kept: the demo needs it once, to ask for the account's name."""

    __table_args__ = (UniqueConstraint("workspace_id", "provider"),)

    id: int | None = Field(default=None, primary_key=True)
    workspace_id: str = Field(foreign_key="workspace.id")
    provider: str
    account_id: str
    account_name: str


class AdMetric(SQLModel, table=True):
    """What one campaign, or a shop, did on one day. Money in cents."""

    id: int | None = Field(default=None, primary_key=True)
    workspace_id: str = Field(foreign_key="workspace.id", index=True)
    day: date
    channel: str
    campaign: str
    spend_cents: int
    revenue_cents: int
    clicks: int
    conversions: int


class OAuthState(SQLModel, table=True):
    """One authorization that was started and has not come back yet: its PKCE verifier and redirect address."""

    key: str = Field(primary_key=True)
    value: str
    expires_at: float
