"""What stands on the inside of Starlette: its stack of middleware, with the outer layer around it."""

from __future__ import annotations

from typing import Any

from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import Receive, Scope, Send

from .middleware import ObserveMiddleware


class OuterStack(ServerErrorMiddleware):
    """The outer layer, as the class that Starlette's stack begins with, for who takes that apart and puts it together.

    OpenTelemetry's instrumentation for FastAPI does, and makes no span where it finds anything else.
    """

    def __init__(self, stack: ServerErrorMiddleware, **more: Any) -> None:
        """`more`: as of `ObserveMiddleware`."""
        super().__init__(ObserveMiddleware(stack, **more), stack.handler, stack.debug)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def is_unanswered(error: Exception) -> bool:
    """Whether the response to an exception is the plain 500 of a mounted application, which raises it again after that.

    An exception's outermost frame is the one that caught it. Told by its module: Sentry's own integration puts a
    function of its own in the place of the class's `__call__`, for the whole process.
    """
    if error.__traceback__ is None:
        return False
    frame = error.__traceback__.tb_frame
    caught_by = frame.f_locals.get("self")
    if frame.f_globals.get("__name__") != ServerErrorMiddleware.__module__ or frame.f_code.co_name != "__call__":
        return False
    return isinstance(caught_by, ServerErrorMiddleware) and (caught_by.handler is None or caught_by.debug)
