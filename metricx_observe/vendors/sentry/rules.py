"""What a request says of its Sentry signals that is not a part of them: what may not be sent, and what was not allowed.

Known at the call, needed where the writer scrubs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from metricx_observe.scrubber import Personal

_TELLING, _WORD = 8, 4
"""Characters from which on a part of a path is looked for everywhere, and as a word; a shorter one behind a `/`."""
_BEGIN, _END = r"(?<![A-Za-z0-9_~%.\-])", r"(?![A-Za-z0-9_~%\-])"
_UNMATCHED = "<unmatched>"
_TRAVELLING = "metricx.rules"

Replace = Callable[[str], str]


class Rules(NamedTuple):
    """Of one event or item."""

    refused: bool = False
    """Whether analytics were not allowed: no personal data then."""
    ip: str | None = None
    """The client's address, where it is to be sent."""
    secrets: Mapping[str, str] = {}
    """What may not be sent of the path, and what stands for it."""
    bound: Sequence[str] = ()
    """What the server bound itself: a client that puts it into the path must not take it off the event."""
    paths: Sequence[str] = ()
    """Spellings of the path and of its parts, where no route took the request: all of it may be secret."""

    @property
    def personal(self) -> Personal:
        """What becomes of addresses in a signal."""
        return "drop" if self.refused else "hash"

    @property
    def replace(self) -> Replace | None:
        """What takes the path's secrets out of a text; None: there are none."""
        return self._replacing(self.secrets)

    @property
    def replace_in_path(self) -> Replace | None:
        """The same where they stand in a path only."""
        return self._replacing({f"/{text}": f"/{kept}" for text, kept in self.secrets.items()})

    @property
    def replace_unbound(self) -> Replace | None:
        """The same for a text that may name what the server bound."""
        return self._replacing({text: kept for text, kept in self.secrets.items() if text not in self.bound})

    def _replacing(self, secrets: Mapping[str, str]) -> Replace | None:
        unknown = {path: _UNMATCHED for path in self.paths if len(path) > 1}
        return replacing(
            {**unknown, **secrets}, lambda text: _of_unknown(text) if text in unknown else _of_parameter(text)
        )

    def travel_in(self, members: dict[str, Any]) -> None:
        """Put them where the writer takes them off again. The application's hook has run."""
        members[_TRAVELLING] = orjson.dumps(self._asdict()).decode()


NO_RULES = Rules()


def take_rules(members: dict[str, Any]) -> Rules:
    """Those that travel in an event or an item's attributes; none where the application has put something else."""
    given = members.pop(_TRAVELLING, None)
    try:
        return Rules(**orjson.loads(given["value"] if isinstance(given, dict) else given))
    except (ValueError, TypeError, KeyError):
        return NO_RULES


def replacing(stand_ins: Mapping[str, str], pattern: Callable[[str], str]) -> Replace | None:
    """What puts these in the places of the texts they stand for, in one pass over a longer text; None: there are none.

    `pattern`: of a text, where it is taken for itself.
    """
    longest_first = sorted(filter(None, stand_ins), key=len, reverse=True)
    if not longest_first:
        return None
    found = re.compile("|".join(map(pattern, longest_first)))
    return lambda text: found.sub(lambda match: stand_ins[match[0]], text)


def replaced(value: Any, replace: Replace | None) -> Any:
    """A copy of a value with the texts in it replaced; keys stay."""
    if replace is None:
        return value
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, dict):
        return {key: replaced(item, replace) for key, item in value.items()}
    return [replaced(item, replace) for item in value] if isinstance(value, list) else value


def _of_unknown(path: str) -> str:
    return (_BEGIN if len(path) < _TELLING else "") + re.escape(path) + _END


def _of_parameter(text: str) -> str:
    """A short one may stand in a text by chance."""
    if text[0] == "/":
        return re.escape(text) + _END
    if len(text) >= _TELLING:
        return re.escape(text)
    return (_BEGIN if len(text) >= _WORD else "(?<=/)") + re.escape(text) + _END
