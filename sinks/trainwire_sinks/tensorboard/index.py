"""Keeps track of the tags and charts in a rank's event files, and chooses the tag of each value."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

logger = logging.getLogger("trainwire")

HPARAMS_START: Final = "_hparams_/session_start_info"
HPARAMS_END: Final = "_hparams_/session_end_info"
LAYOUT: Final = "custom_scalars__config__"

_RESERVED: Final = {
    HPARAMS_START: "hparams",
    HPARAMS_END: "hparams",
    "_hparams_/experiment": "hparams",
    LAYOUT: "layout",
}
"""Tags that have a special meaning in TensorBoard; an event of this name gets another tag."""

MAX_CHARTED: Final = 1 << 16
"""Maximum number of characters of all tags in charts, because each new tag rewrites the whole layout."""


class Index:
    """The tags in use, by kind, and the charts.

    Args:
        state: what `state` returned at the last commit; empty if there is none.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.run = ""
        """The run's name, once it is known."""
        self.has_hparams: bool = state.get("has_hparams", False)
        self.charts: dict[str, dict[str, None]] = {
            name: dict.fromkeys(tags) for name, tags in state.get("charts", {}).items()
        }
        self.has_new_charts = False
        self._kinds: dict[str, str] = {**state.get("tags", {}), **_RESERVED}
        self._is_limit_reported = False
        self._charted = sum(len(tag) for tags in self.charts.values() for tag in tags)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume, as a map for JSON."""
        return {
            "tags": {tag: kind for tag, kind in self._kinds.items() if tag not in _RESERVED},
            "charts": {name: [*tags] for name, tags in self.charts.items()},
            "has_hparams": self.has_hparams,
        }

    def tag(self, name: str, kind: str) -> str:
        """Return the tag of a value: the event's name, with the kind appended if another kind uses the name.

        TensorBoard assigns a tag to the dashboard of its first value, and fails on later values of other kinds. Two
        series of one dashboard are of two kinds as well, since it would show them as one.
        """
        tag = name
        while self._kinds.setdefault(tag, kind) != kind:
            tag += f" ({kind})"
        return tag

    def chart(self, name: str, tags: Iterable[str]) -> None:
        """Add tags to the chart called `name`."""
        shown = self.charts.get(name, {})
        new = [tag for tag in tags if tag not in shown]
        length = sum(map(len, new))
        if not new:
            return
        if self._charted + length > MAX_CHARTED:
            if not self._is_limit_reported:
                self._is_limit_reported = True
                logger.warning("TensorBoard's charts are full: %r and later ones are shown as separate tags", name)
            return
        self._charted += length
        self.charts.setdefault(name, {}).update(dict.fromkeys(new))
        self.has_new_charts = True
