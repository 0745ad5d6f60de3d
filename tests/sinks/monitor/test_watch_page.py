"""`docs/watch.md` says what the keys do: here it is held to it."""

from __future__ import annotations

import re

import pytest
from support.paths import DOCS

pytest.importorskip("textual", reason="the terminal monitor needs the extra watch")

from trainwire_sinks.monitor.app import KEYS, WatchApp

PAGE = (DOCS / "watch.md").read_text()


def test_the_page_has_every_key() -> None:
    """The table's rows are the app's keys, in their order, with the words of its own help."""
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [(key.key_display or key.key, key.tooltip) for key in KEYS]
    assert list(WatchApp.BINDINGS) == KEYS


def test_every_key_does_something() -> None:
    """Each key has an action of the app, which is documented."""
    for key in KEYS:
        action = getattr(WatchApp, f"action_{key.action.partition('(')[0]}")
        assert action.__doc__
