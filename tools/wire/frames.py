"""Where code stands: folders of a run by their role, and stack frames without what is not the application's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

PACKAGE = "metricx_observe"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of a run, the inner ones first."""

    folders: tuple[tuple[str, str], ...]
    """Each with its name."""

    def shorten(self, text: str) -> str:
        """Names in the places of folders."""
        if "/" in text:
            for folder, name in self.folders:
                text = text.replace(folder, name)
        return text


def plain_frames(frames: list[dict[str, Any]], places: Places) -> list[dict[str, Any]]:
    """The application's frames whole, a library's without its values, the package's own as one mark for a run of them.

    How many functions of the package a request runs through, and what they are called, is its own affair.
    """
    found: list[dict[str, Any]] = []
    for ours, run in groupby(frames, _is_package):
        if ours:
            found.append({"frames of": PACKAGE, "in_app": sorted({str(frame.get("in_app")) for frame in run})})
        else:
            found += [_library(frame) if _is_library(frame, places) else frame for frame in run]
    return found


def _is_package(frame: dict[str, Any]) -> bool:
    return str(frame.get("module") or "").partition(".")[0] == PACKAGE


def _is_library(frame: dict[str, Any], places: Places) -> bool:
    where = places.shorten(str(frame.get("abs_path") or ""))
    return where.startswith(("<venv>", "<python>", "<frozen"))


def _library(frame: dict[str, Any]) -> dict[str, Any]:
    """Its locals by name only: they hold our own objects, by the names of our classes."""
    kept = {
        key: value
        for key, value in frame.items()
        if key not in ("lineno", "context_line", "pre_context", "post_context")
    }
    if isinstance(frame.get("vars"), dict):
        kept["vars"] = sorted(frame["vars"])
    return kept
