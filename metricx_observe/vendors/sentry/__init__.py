"""Sentry, by its own SDK."""
