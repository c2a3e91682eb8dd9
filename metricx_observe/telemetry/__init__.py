"""The functions of the documented API: a thin face over one `Observability`, laid out as the users' own module is.

They work inside and outside a request. Before `init_observability()` (or an `Observability` that was opened) they do
nothing and say so once. None of them raises, whatever it is given: an argument that nobody knows, or that is missing,
is counted, and the call goes on without it.
"""

from .analytics import (
    flush_analytics,
    identify,
    track,
    track_connected_google_ads,
    track_connected_meta_ads,
    track_connected_shopify,
    track_copilot_query_sent,
    track_user_logged_in,
    track_user_signed_up,
)
from .errors import capture_exception, capture_message, clear_user_context, set_user_context
from .lifecycle import init_analytics, init_langfuse, init_observability, init_sentry, shutdown_observability
from .llm_trace import (
    complete_copilot_trace,
    create_copilot_trace,
    flush_langfuse,
    get_langfuse,
    log_generation,
    log_span,
    shutdown_langfuse,
    trace_llm_call,
)

__all__ = [
    "capture_exception",
    "capture_message",
    "clear_user_context",
    "complete_copilot_trace",
    "create_copilot_trace",
    "flush_analytics",
    "flush_langfuse",
    "get_langfuse",
    "identify",
    "init_analytics",
    "init_langfuse",
    "init_observability",
    "init_sentry",
    "log_generation",
    "log_span",
    "set_user_context",
    "shutdown_langfuse",
    "shutdown_observability",
    "trace_llm_call",
    "track",
    "track_connected_google_ads",
    "track_connected_meta_ads",
    "track_connected_shopify",
    "track_copilot_query_sent",
    "track_user_logged_in",
    "track_user_signed_up",
]
