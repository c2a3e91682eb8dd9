"""The vendors' own SDKs, unmodified, each posting to a receiver: `python receiver_clients.py sentry URL`.

A process of its own for each, because their clients are global and their threads outlive a test.
"""

from __future__ import annotations

import logging
import sys

USAGE = {"input": 100, "output": 50, "total": 150}


def sentry(url: str) -> None:
    """An error, a message, a transaction, a log record and a session, with user, workspace and request id."""
    import sentry_sdk

    dsn = url.replace("://", "://public@") + "/1"
    sentry_sdk.init(dsn, traces_sample_rate=1.0, enable_logs=True, release="1.0")
    with sentry_sdk.isolation_scope() as scope:
        scope.set_user({"id": "u1", "email": "ann@example.com"})
        scope.set_tag("request_id", "r1")
        scope.set_tag("workspace_id", "w1")
        with sentry_sdk.start_transaction(name="/api/things/{id}", op="http.server"):
            try:
                _ = 1 / 0
            except ZeroDivisionError:
                sentry_sdk.capture_exception()
            sentry_sdk.capture_message("only a message")
            logging.getLogger("shop").warning("a log record")
    client = sentry_sdk.get_client()
    sentry_sdk.get_isolation_scope().start_session("application")
    sentry_sdk.get_isolation_scope().end_session()
    client.close(timeout=10)


def rudderstack(url: str) -> None:
    """One message of each type, gzipped, in one batch."""
    from rudderstack.analytics.client import Client

    client = Client("write-key", host=url, gzip=True)
    context = {"request_id": "r1", "trace_id": "a" * 32, "workspace_id": "w1"}
    client.track("u1", "Thing Bought", {"price": 3}, context=dict(context))
    client.identify("u1", {"plan": "pro"}, context=dict(context))
    client.group("u1", "w1", {"name": "Acme"}, context=dict(context))
    client.alias("anon", "u1", context=dict(context))
    client.page("u1", "docs", "Pricing", {"url": "https://example.com"}, context=dict(context))
    client.screen("u1", "docs", "Home", context=dict(context))
    client.flush()
    client.join()


def langfuse(url: str) -> None:
    """A trace with a tool and a generation, a score, and the authentication check."""
    from langfuse import Langfuse, propagate_attributes
    from opentelemetry.sdk.trace import TracerProvider

    client = Langfuse(public_key="pk-lf-x", secret_key="sk-lf-x", base_url=url, tracer_provider=TracerProvider())
    assert client.auth_check()
    with (
        client.start_as_current_observation(name="answer", as_type="span", input="why?") as trace,
        propagate_attributes(
            user_id="u1",
            session_id="s1",
            metadata={"request_id": "r1", "workspace_id": "w1", "request_trace_id": "a" * 32},
        ),
    ):
        with client.start_as_current_observation(name="search", as_type="tool"):
            pass
        with client.start_as_current_observation(
            name="write", as_type="generation", model="model-1", usage_details=USAGE
        ) as generation:
            generation.update(output="because")
        trace.score_trace(name="helpful", value=0.9, score_id="score-1", comment="good")
    client.flush()
    client.shutdown()


if __name__ == "__main__":
    {"sentry": sentry, "rudderstack": rudderstack, "langfuse": langfuse}[sys.argv[1]](sys.argv[2])
