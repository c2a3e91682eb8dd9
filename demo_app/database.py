"""The database, and one session per request for the routes that run in the threadpool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Engine
from sqlmodel import Session, SQLModel, create_engine
from starlette.requests import HTTPConnection


def open_database(url: str) -> Engine:
    """Create the file, its folder and its tables where they are missing."""
    engine = create_engine(url)
    Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)
    SQLModel.metadata.create_all(engine)
    return engine


async def get_engine(connection: HTTPConnection) -> Engine:
    """For async routes: they open a session in the threadpool for the moment that they need it."""
    engine: Engine = connection.app.state.engine
    return engine


EngineDep = Annotated[Engine, Depends(get_engine)]


def get_session(engine: EngineDep) -> Iterator[Session]:
    """For `def` routes: one session for the whole request."""
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]
