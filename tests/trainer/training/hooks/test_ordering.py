"""The declared order of plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import train

from trainwire import Plugin
from trainwire.training.hooks.base_plugin import in_order
from trainwire_protocol.errors import OptionError


def plugin(name: str, **declared: Any) -> Plugin:
    made: Plugin = type(name, (Plugin,), declared)()
    return made


def order(*plugins: Plugin) -> str:
    return "".join(type(plugin).__name__ for plugin in in_order(plugins))


def test_attach_order_is_kept_without_declarations() -> None:
    """A declaration that names a plugin that is not attached has no effect."""
    assert order(plugin("A"), plugin("B", after=("Z",)), plugin("C")) == "ABC"


def test_declarations_move_as_few_plugins_as_possible() -> None:
    """A plugin comes right after the last one named by `after`, and plugins named by `before` come right after it."""
    assert order(plugin("A", after=("C",)), plugin("B"), plugin("C"), plugin("D")) == "BCAD"
    assert order(plugin("A"), plugin("B"), plugin("C", before=("A",))) == "BCA"


def test_a_declaration_includes_subclasses() -> None:
    """A class name in a declaration also applies to the subclasses."""
    base = type("Base", (Plugin,), {})
    assert order(plugin("A", after=("Base",)), type("Derived", (base,), {})()) == "DerivedA"


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    """The error names the plugins in the cycle, and the run's folder is not created."""
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
def test_a_declaration_without_class_names_is_refused(tmp_path: Path, declared: Any) -> None:
    """A single string would be read as a sequence of one-letter names."""

    class Misled(Plugin):
        after = declared

    with pytest.raises(OptionError, match=r"Misled declares .*; it must be a tuple of class names"):
        train(tmp_path, Misled())
