"""How both layers of the middleware get around an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import Receive, Scope, Send

from .identity import AskConsent, Identify
from .inner_layer import InnerLayer
from .middleware import ObserveMiddleware

if TYPE_CHECKING:
    from metricx_observe.observability import Observability


class OuterStack(ServerErrorMiddleware):
    """The outer layer, as the class that Starlette's stack begins with.

    OpenTelemetry's instrumentation for FastAPI makes no spans where the stack begins with another class.
    """

    def __init__(self, stack: ServerErrorMiddleware, **more: Any) -> None:
        """`more`: as of `ObserveMiddleware`."""
        super().__init__(ObserveMiddleware(stack, **more), stack.handler, stack.debug)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def wrap(
    app: Starlette, observability: Observability, *, identify: Identify | None, consent: AskConsent | None
) -> None:
    """Put the outer layer around the application's whole stack, and the inner one behind its own middleware."""
    build = app.build_middleware_stack

    def build_wrapped_stack() -> ObserveMiddleware | OuterStack:
        stack = build()
        whole: object = stack  # which is always the one class to Starlette's types
        if isinstance(whole, ServerErrorMiddleware):
            return OuterStack(whole, observability=observability, consent_required=consent is not None)
        return ObserveMiddleware(stack, observability=observability, consent_required=consent is not None)

    # the one seam around ServerErrorMiddleware, which sends the 500 of unhandled errors outside user middleware
    app.build_middleware_stack = build_wrapped_stack  # type: ignore[method-assign]
    if observability.settings.enabled:
        inner = Middleware(InnerLayer, observability=observability, identify=identify, consent=consent)
        app.user_middleware.append(inner)
