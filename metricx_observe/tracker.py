"""Tracker: analytics calls, with the context of the request or job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .boundary import Boundary
from .context import Context, RequestContext, RequestInfo, current_cell, text_id
from .events import DOCUMENTED, Event, ga4_name_faults, ga4_parameter_faults
from .ids import new_id
from .normalise import Notes, line, moment, plain, snapshot

logger = logging.getLogger(__name__)

_MAX_BYTES = 24 << 10
"""Of properties: RudderStack's gateway takes 32 KiB a message, and the context needs some of it."""


class TrackRecord(NamedTuple):
    """One analytics call as it was made. The codec turns it into the vendor's message."""

    type: str
    """track, identify, group, alias or page."""
    id: str
    timestamp: datetime
    user_id: str | None
    anonymous_id: str | None
    name: str | None
    """Of the event or page."""
    target: str | None
    """The group's id, the previous id of an alias, the category of a page."""
    body: bytes
    """Properties or traits as JSON."""
    personal: frozenset[str]
    """Names of properties that are personal data."""
    state: RequestContext | None
    info: RequestInfo | None


class Tracker:
    """Sends analytics. Injected by `TrackerDep`, or `Observability.tracker`.

    No method raises into the caller, whatever it is given. Each returns the message id on the wire, or None when
    nothing will be sent: analytics are off, the user did not consent, or the call had no name or id.
    """

    __slots__ = ("_boundary", "_cell", "_put")

    def __init__(
        self, put: Callable[[TrackRecord, int], bool] | None, boundary: Boundary, cell: Context | None = None
    ) -> None:
        self._put = put
        self._boundary = boundary
        self._cell = cell

    def bound(self, cell: Context) -> Tracker:
        """The same tracker for one request, whatever thread it is used from."""
        return Tracker(self._put, self._boundary, cell)

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
        with self._boundary("track"):
            notes: Notes = []
            name, values, personal = _event_parts(event, properties, notes)
            if name:
                return self._send("track", notes, name, None, values, user_id, anonymous_id, timestamp, personal)
            self._boundary.note("track", ["no event name"])
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
        with self._boundary("identify"):
            notes: Notes = []
            state, given = self._state(), text_id(user_id)
            user = state.user if state is not None else None
            values: dict[str, Any] = {}
            if user is not None and given in (None, user.id):
                values = {**user.traits, **({} if user.email is None else {"email": user.email})}
            if email is not None:
                values["email"] = email
            if (workspace := _id(workspace_id, notes)) is not None:
                values["workspace_id"] = workspace
            values.update(_mapping(traits, notes))
            return self._send("identify", notes, None, None, values, user_id, None, None, frozenset({"email"}))
        return None

    def group(self, workspace_id: object = None, *, traits: Mapping[str, Any] | None = None) -> str | None:
        """Say that the user belongs to a workspace: the given one, else the bound one."""
        with self._boundary("group"):
            notes: Notes = []
            state = self._state()
            target = _id(workspace_id, notes) or (state.workspace.id if state and state.workspace else None)
            if target is not None:
                return self._send("group", notes, None, target, _mapping(traits, notes), None, None, None)
            self._boundary.note("group", ["no workspace id"])
        return None

    def alias(self, previous_id: object, user_id: object = None) -> str | None:
        """Say that `previous_id` and the user (the given, else the bound one) are the same."""
        with self._boundary("alias"):
            state = self._state()
            user, previous = text_id(user_id) or (state.user.id if state and state.user else None), text_id(previous_id)
            if previous is not None and user is not None:
                return self._send("alias", [], None, previous, {}, user, None, None)
            self._boundary.note("alias", ["needs a previous id and a user"])
        return None

    def page(
        self, name: str | None = None, *, category: str | None = None, properties: Mapping[str, Any] | None = None
    ) -> str | None:
        """Send a page view; the page is the request's."""
        with self._boundary("page"):
            notes: Notes = []
            label = None if name is None else line(name, notes)
            group = None if category is None else line(category, notes)
            return self._send("page", notes, label, group, _mapping(properties, notes), None, None, None)
        return None

    def _state(self) -> RequestContext | None:
        cell = self._cell or current_cell()
        return cell.state if cell is not None and cell.state.request_id else None

    def _send(
        self,
        type: str,
        notes: Notes,
        name: str | None,
        target: str | None,
        values: Mapping[str, Any],
        user_id: object,
        anonymous_id: object,
        timestamp: datetime | None,
        personal: frozenset[str] = frozenset(),
    ) -> str | None:
        cell = self._cell or current_cell()
        state = self._state()
        if self._put is None or (state is not None and state.consent.analytics is False):
            return None
        body = snapshot(values, notes, _MAX_BYTES)
        user = _id(user_id, notes) or (state.user.id if state is not None and state.user is not None else None)
        message_id = new_id()
        record = TrackRecord(
            type, message_id, moment(timestamp, notes) or datetime.now(UTC), user, _id(anonymous_id, notes),
            name, target, body, personal, state, cell.info if cell is not None else None,
        )  # fmt: skip
        if notes:
            self._boundary.note(f"{type} {name or ''}".strip(), dict.fromkeys(notes))
        if not self._put(record, len(body) + 400):  # the record's own objects hold some 400 bytes
            return None
        if cell is not None and state is not None:
            cell.put = True
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s id=%s", type, name or "", message_id)
        return message_id


_NO_NAMES: frozenset[str] = frozenset()


def _event_parts(
    event: object, properties: object, notes: Notes
) -> tuple[str, Mapping[str, Any], frozenset[str]]:
    if isinstance(event, Event):
        name, personal, values = event.name, event.personal, event.__dict__
        if properties is not None:
            values = {**values, **_mapping(properties, notes)}
    else:
        name = "" if event is None else line(event, notes, 256).strip()
        known = DOCUMENTED.get(name)
        personal = known.personal if known is not None else _NO_NAMES
        values = _mapping(properties, notes)
        if known is None:
            notes.extend(ga4_name_faults(name))
    with suppress(Exception):  # what cannot be read is the normaliser's to mark
        notes.extend(ga4_parameter_faults(values))
    return name, values, personal


def _mapping(value: object, notes: Notes) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is dict:
        return value
    fields = plain(value, notes, _MAX_BYTES)
    return fields if isinstance(fields, dict) else {"value": fields}


def _id(value: object, notes: Notes) -> str | None:
    found = text_id(value)
    if found is None and value is not None:
        notes.append("unusable id")
    return found
