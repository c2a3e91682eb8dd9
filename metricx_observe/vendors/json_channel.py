"""What channels of JSON over HTTP have in common: basic authentication, one post at a time, no rate limits by kind."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from metricx_observe.delivery.channel import Importance

from .vendor import Target


class JsonChannel:
    """Where the messages go, with which headers."""

    concurrency = 1

    def __init__(self, target: Target, path: str, *, shown_path: str = "") -> None:
        """`shown_path` tells the rows of several channels of one host apart."""
        fingerprint = sha256(target.key.encode()).hexdigest()[:12]
        login = b64encode(f"{target.key}:{target.secret}".encode()).decode()
        self.local, self.away_hint = target.state == "local", target.away_hint
        self.destination = f"{urlsplit(target.url).netloc}{shown_path}#{fingerprint}"
        self._url = target.url + path
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        """All messages matter alike."""
        return Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:  # noqa: ARG002
        """None beyond `Retry-After`."""
        return {}
