"""Tracker: analytics calls, with the context of the request or job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from time import time
from typing import Any, TypeGuard

import orjson

from metricx_observe.boundary import Facade
from metricx_observe.context import User
from metricx_observe.events import DOCUMENTED, Event, ga4_name_faults, ga4_parameter_faults
from metricx_observe.ids import new_id
from metricx_observe.normalise import Notes, freeze, identifier, mapping, moment, short_text, shown_name, snapshot

from .records import AnalyticsRecord, context_facts

logger = logging.getLogger("metricx_observe.tracker")

_MAX_BYTES = 24 << 10
"""Of properties: RudderStack's gateway takes 32 KiB a message, and the context needs some of it."""


class Tracker(Facade[Callable[[bytes, int], bool]]):
    """Sends analytics. Injected by `TrackerDep`, or `Observability.tracker`.

    No method raises into the caller, whatever it is given. Each returns the message id on the wire, or None when
    nothing will be sent: analytics are off, the user did not consent, or the call had no name or id.
    """

    def track(
        self,
        event: Event | str,
        properties: Mapping[str, Any] | None = None,
        *,
        user_id: object = None,
        anonymous_id: object = None,
        timestamp: datetime | None = None,
    ) -> str | None:
        """Send an event.

        Args:
            event: An `Event`, or a plain name. A name that GA4 refuses is sent all the same (RudderStack has other
                destinations), counted and logged once.
            properties: Of a plain name; added to those of an `Event`.
            user_id: Instead of the bound user, for this call.
            anonymous_id: Instead of the one from the browser's cookie.
            timestamp: When it happened; naive means UTC. GA4 refuses what is over 72 h old.
        """
        name, faults, personal, shown = _read_name(event)
        with self._boundary(f"track {shown}" if name else "track") as notes:
            if not name:
                notes.append("no event name")
                return None
            given = _values(properties, notes)
            if _is_event(event):
                given = {**event.properties(), **given}
            # what is None is not known, for which GA4 has no word
            values = {key: value for key, value in given.items() if value is not None}
            notes += faults
            if self._boundary.strict:  # else the codec looks, off the event loop
                notes += ga4_parameter_faults(values)
            return self._send(
                notes, "track", values, name=name, user_id=user_id, anonymous_id=anonymous_id, timestamp=timestamp,
                personal=personal, shown=shown,
            )  # fmt: skip
        return None

    def identify(
        self,
        user_id: object = None,
        *,
        email: str | None = None,
        traits: Mapping[str, Any] | None = None,
        workspace_id: object = None,
    ) -> str | None:
        """Tell analytics who a user is: the given user, else the bound one. Binds nobody."""
        with self._boundary("identify") as notes:
            given, bound = identifier(user_id, notes), self._user()
            if given is None and user_id is not None:  # a user was meant, but certainly not the bound one
                return None
            known = bound if bound is not None and given in (None, bound.id) else User("")
            own = {"email": known.email if email is None else email, "workspace_id": identifier(workspace_id, notes)}
            values = {**known.traits, **{key: value for key, value in own.items() if value is not None}}
            values |= _values(traits, notes)
            return self._send(notes, "identify", values, user_id=given, personal=("email",))
        return None

    def group(self, workspace_id: object = None, *, traits: Mapping[str, Any] | None = None) -> str | None:
        """Say that the user belongs to a workspace: the given one, else the bound one."""
        with self._boundary("group") as notes:
            cell = self._cell_now()
            bound = cell.workspace.id if cell is not None and cell.workspace is not None else None
            if target := identifier(workspace_id, notes) or bound:
                return self._send(notes, "group", _values(traits, notes), target=target)
            notes.append("no workspace id")
        return None

    def alias(self, previous_id: object, user_id: object = None) -> str | None:
        """Say that `previous_id` and the user (the given, else the bound one) are the same."""
        with self._boundary("alias") as notes:
            previous = identifier(previous_id, notes)
            if previous and (identifier(user_id, notes) or self._user()):
                return self._send(notes, "alias", {}, target=previous, user_id=user_id)
            notes.append("needs a previous id and a user")
        return None

    def page(
        self, name: str | None = None, *, category: str | None = None, properties: Mapping[str, Any] | None = None
    ) -> str | None:
        """Send a page view; the page is the request's."""
        with self._boundary("page") as notes:
            label, group = short_text(name, notes) or None, short_text(category, notes) or None
            shown = shown_name(label) if label else ""
            return self._send(notes, "page", _values(properties, notes), name=label, target=group, shown=shown)
        return None

    def _user(self) -> User | None:
        cell = self._cell_now()
        return None if cell is None else cell.user

    def _send(
        self,
        notes: Notes,
        type: str,
        values: Mapping[str, Any],
        *,
        name: str | None = None,
        target: str | None = None,
        user_id: object = None,
        anonymous_id: object = None,
        timestamp: object = None,
        personal: Iterable[str] = (),
        shown: str = "",
    ) -> str | None:
        cell = self._cell_now()
        state, info = (None, None) if cell is None else (cell.state, cell.info)
        if self._sink is None or (state is not None and state.consent.analytics is False):
            return None
        given = None if user_id is None else identifier(user_id, notes)
        when = None if timestamp is None else moment(timestamp, notes)
        record: AnalyticsRecord = {
            "type": type,
            "id": new_id(),
            "timestamp": time() if when is None else when.timestamp(),
            "user_id": given or (state.user.id if state is not None and state.user is not None else None),
            "anonymous_id": None if anonymous_id is None else identifier(anonymous_id, notes),
            "name": name,
            "target": target,
            "values": orjson.Fragment(snapshot(values, notes, _MAX_BYTES)),
            "personal": [*personal],
            "context": context_facts(cell),
            "request": None if info is None else orjson.Fragment(info.frozen()),
        }
        frozen = freeze(record)
        if not self._sink(frozen, len(frozen)):
            return None
        if cell is not None:
            cell.put = True
        logger.info("%s %s id=%s", type, shown, record["id"])
        return record["id"]


def _is_event(event: object) -> TypeGuard[Event]:
    return issubclass(type(event), Event)  # `isinstance` of pydantic before 2.10 reads attributes, which may raise


_Name = tuple[str, tuple[str, ...], frozenset[str], str]
"""Of an event: what GA4 has against it, which of its fields are personal, and what our own log says."""


def _read_name(event: object) -> _Name:
    if _is_event(event):
        return event.name, (), event.personal, event.name
    return _read_plain_name(short_text(event, [], 256).strip())


@lru_cache(1_000)  # an application has few
def _read_plain_name(name: str) -> _Name:
    documented = DOCUMENTED.get(name)
    if documented:
        return name, (), documented.personal, name
    return name, tuple(ga4_name_faults(name)), frozenset(), shown_name(name)


def _values(given: object, notes: Notes) -> dict[str, Any]:
    """Properties or traits; a dict as it is, since `snapshot` reads it at once."""
    return given if type(given) is dict else mapping(given, notes, _MAX_BYTES)
