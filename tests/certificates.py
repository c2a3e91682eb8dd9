"""One certificate authority, that nobody has the key of, in the place of all that certifi knows."""

from __future__ import annotations

from pathlib import Path

import certifi

AUTHORITY = Path(__file__).with_name("authority.pem")


def trust_one_authority() -> None:
    """For this process. Each HTTP client parses the whole bundle when it is made, Langfuse's makes two, and whatever a
    test asks is on loopback: nearly all that opening an Observability costs is that.
    """
    certifi.where = lambda: str(AUTHORITY)
