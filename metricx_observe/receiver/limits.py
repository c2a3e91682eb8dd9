"""Where the receiver listens and what it takes at most."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4390
"""With DEFAULT_HOST the default of METRICX_RECEIVER_URL."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the receiver: sizes in bytes, ages in seconds."""

    body_bytes: int = 16 << 20
    """One post as it arrives. A full batch of 512 Langfuse spans of 50 KB is 25 MB before gzip."""
    decoded_bytes: int = 32 << 20
    """One post after decompression."""
    rows: int = 10_000
    rows_per_s: int = 20_000
    """More are refused with 429, which a courier repeats later."""
    stored_bytes: int = 256 << 20
    max_age_s: float = 7 * 86_400.0
