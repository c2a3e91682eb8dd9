"""Langfuse: observations as OTLP/JSON, and its SDK's client behind our outbox."""
