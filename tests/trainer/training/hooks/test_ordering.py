"""The order of plugins that declare one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny import train

from trainwire import Plugin
from trainwire.training.hooks.plugin import in_order
from trainwire_protocol.errors import OptionError


def plugin(name: str, **declared: Any) -> Plugin:
    made: Plugin = type(name, (Plugin,), declared)()
    return made


def order(*plugins: Plugin) -> str:
    return "".join(type(plugin).__name__ for plugin in in_order(plugins))


def test_attach_order_stays_where_nothing_is_declared() -> None:
    """A declaration about a plugin that is not attached changes nothing either."""
    assert order(plugin("A"), plugin("B", after=("Z",)), plugin("C")) == "ABC"


def test_declarations_move_as_little_as_they_can() -> None:
    """One comes right after the last that it names, or those that it names right after it."""
    assert order(plugin("A", after=("C",)), plugin("B"), plugin("C"), plugin("D")) == "BCAD"
    assert order(plugin("A"), plugin("B"), plugin("C", before=("A",))) == "BCA"


def test_a_declaration_names_subclasses_too() -> None:
    """What is said of a class is said of those that are made from it."""
    base = type("Base", (Plugin,), {})
    assert order(plugin("A", after=("Base",)), type("Derived", (base,), {})()) == "DerivedA"


def test_a_circle_is_an_error_at_attach(tmp_path: Path) -> None:
    """It names those that are in it, and comes before there is a run's folder."""
    circle = [
        plugin("D", after=("A",)),
        plugin("A", after=("B",)),
        plugin("B", after=("C",)),
        plugin("C", after=("A",)),
    ]
    with pytest.raises(OptionError, match="A after B after C after A"):
        train(tmp_path / "run", *circle)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("declared", ["EMA", (3,)])
def test_what_names_no_class_is_refused(tmp_path: Path, declared: Any) -> None:
    """A string alone would be taken for the names of its letters."""

    class Misled(Plugin):
        after = declared

    with pytest.raises(OptionError, match=r"Misled declares .*: give a tuple"):
        train(tmp_path, Misled())
