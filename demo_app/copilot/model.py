"""The model that the copilot asks: Claude where a key is set, else the built-in one. Both have one face."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from demo_app.copilot.offline import OfflineModel
from demo_app.settings import Settings

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

MAX_TOKENS = 1_024
"""Far more than two sentences or a query need; a bound on what a runaway reply can cost."""


class Stream(Protocol):
    """A reply that is arriving. The names are those of the anthropic SDK's stream."""

    @property
    def text_stream(self) -> AsyncIterator[str]: ...

    async def get_final_message(self) -> Any:
        """The whole reply with `model`, `content` and `usage`."""


class Model(Protocol):
    @property
    def name(self) -> str: ...

    def stream(self, system: str, prompt: str) -> AbstractAsyncContextManager[Stream]: ...


class Claude:
    """Anthropic's Messages API."""

    def __init__(self, client: AsyncAnthropic, name: str) -> None:
        self.client = client
        self.name = name

    def stream(self, system: str, prompt: str) -> AbstractAsyncContextManager[Stream]:
        return self.client.messages.stream(
            model=self.name,
            max_tokens=MAX_TOKENS,
            system=system,
            messages=[{"role": "user", "content": prompt}],
        )


@asynccontextmanager
async def open_model(settings: Settings) -> AsyncIterator[Model]:
    """The model for the life of the application, with its connection pool."""
    if settings.anthropic_api_key is None:
        yield OfflineModel()
        return
    from anthropic import AsyncAnthropic  # a second of import time, so only where it is used

    async with AsyncAnthropic(api_key=settings.anthropic_api_key.get_secret_value()) as client:
        yield Claude(client, settings.anthropic_model)


async def get_model(connection: HTTPConnection) -> Model:
    model: Model = connection.app.state.model
    return model


ModelDep = Annotated[Model, Depends(get_model)]
