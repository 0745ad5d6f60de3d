"""docs/watch.md lists the keys of the app."""

from __future__ import annotations

import re

import pytest
from support.paths import DOCS

pytest.importorskip("textual", reason="the terminal monitor needs the extra watch")

from trainwire_sinks.monitor.app import KEYS, WatchApp

PAGE = (DOCS / "watch.md").read_text()


def test_the_page_has_every_key() -> None:
    """The table lists the app's keys in order, with the descriptions of its own help."""
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [(key.key_display or key.key, key.tooltip) for key in KEYS]
    assert list(WatchApp.BINDINGS) == KEYS


def test_every_key_has_an_action() -> None:
    """Each key has a documented action of the app."""
    for key in KEYS:
        action = getattr(WatchApp, f"action_{key.action.partition('(')[0]}")
        assert action.__doc__
