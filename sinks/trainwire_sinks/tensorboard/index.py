"""What a rank's event files hold so far: it decides which tag a value gets, and which charts there are."""

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
"""Tags that mean something to TensorBoard, so that no event's name becomes one of them."""

MAX_CHARTED: Final = 1 << 16
"""Most characters of all tags in charts: the layout is written whole whenever one is new."""


class Index:
    """The tags that were given, by kind, and the charts.

    Args:
        state: what `state` gave when the files were committed; empty if there are none.
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
        self._is_full_told = False
        self._charted = sum(len(tag) for tags in self.charts.values() for tag in tags)

    def state(self) -> dict[str, Any]:
        """What has to be known to go on, for JSON."""
        kinds = {tag: kind for tag, kind in self._kinds.items() if tag not in _RESERVED}
        return {
            "tags": kinds,
            "charts": {name: [*tags] for name, tags in self.charts.items()},
            "has_hparams": self.has_hparams,
        }

    def tag(self, name: str, kind: str) -> str:
        """The tag of an event's value: its name, unless that is a tag of another kind already.

        TensorBoard takes a tag for what it first was, and falls over what comes later and is something else.
        """
        tag = name
        while self._kinds.setdefault(tag, kind) != kind:
            tag += f" ({kind})"
        return tag

    def chart(self, name: str, tags: Iterable[str]) -> None:
        """Show these tags in the chart called `name`, with those that it has."""
        shown = self.charts.get(name, {})
        new = [tag for tag in tags if tag not in shown]
        length = sum(map(len, new))
        if not new:
            return
        if self._charted + length > MAX_CHARTED:
            self._report_full(name)
            return
        self._charted += length
        self.charts.setdefault(name, {}).update(dict.fromkeys(new))
        self.has_new_charts = True

    def _report_full(self, name: str) -> None:
        if not self._is_full_told:
            self._is_full_told = True
            logger.warning("TensorBoard's charts are full: %r, as others after it, is shown by tags of its own", name)
