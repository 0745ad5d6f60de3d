"""The order in which plugins are called: as they were attached, but for what they declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.hooks.plugin import Plugin


def in_order(plugins: Sequence[Plugin]) -> tuple[Plugin, ...]:
    """The plugins in attach order, each after those that its `after`, or their `before`, names.

    Raises:
        OptionError: what they declare goes round in a circle.
    """
    waiting = list(plugins)
    placed: list[Plugin] = []
    while waiting:
        free = next((place for place, plugin in enumerate(waiting) if _held_by(plugin, waiting) is None), None)
        if free is None:
            raise OptionError(f"the plugins' order is a circle: {_circle(waiting)}; change what one of them declares")
        placed.append(waiting.pop(free))
    return tuple(placed)


def _held_by(plugin: Plugin, waiting: Sequence[Plugin]) -> Plugin | None:
    """A plugin that is waiting and has to come first."""
    return next((other for other in waiting if other is not plugin and _precedes(other, plugin)), None)


def _precedes(first: Plugin, second: Plugin) -> bool:
    return _names(second.after, first) or _names(first.before, second)


def _names(declared: Sequence[str], plugin: Plugin) -> bool:
    return any(kind.__name__ in declared for kind in type(plugin).__mro__)


def _circle(waiting: Sequence[Plugin]) -> str:
    path = [waiting[0]]
    while (held_by := _held_by(path[-1], waiting)) is not None and not any(held_by is plugin for plugin in path):
        path.append(held_by)
    start = next((place for place, plugin in enumerate(path) if plugin is held_by), 0)
    return " after ".join(type(plugin).__name__ for plugin in [*path[start:], path[start]])
