"""The walls between the packages, and the floors within them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
from support.packages import PACKAGES, Module, modules, top_level

ALL = {module.name: module for module in modules()}
SINKS = "trainwire_sinks.builtin"
PLUGINS = "trainwire.plugins"

# From the ground up: a room imports itself and rooms on lower floors, also under TYPE_CHECKING. Rooms on one floor do
# not import each other. What no room claims is the face of its package and stands above all floors.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "trainwire_protocol": (
        ("errors", "statistics"), ("process",), ("events", "commands"), ("environment",), ("wire",), ("journal",),
        ("transport",), ("subscription",),
    ),
    "trainwire": (("bus",), ("training.hooks",), ("training",), ("checkpointing",), ("plugins",), ("integrations",)),
    "trainwire_sinks": (
        ("text",), ("runtime",), ("inspect", "launch", "tensorboard", "nats", "export", "relay", "testing", "series"),
        ("alerts",), ("monitor", "web"), ("builtin",), ("cli",),
    ),
}  # fmt: skip

# Plugins that need another one, each with the reason.
DECLARED_NEEDS: dict[str, set[str]] = {}

PUT_TOGETHER = "trainwire.plugins.defaults"
"""Attaches the plugins of a training, so it imports those that are attached by default."""


SOCKETLESS = [name for name in ALL if name.startswith(("trainwire_protocol.journal", "trainwire_protocol.wire"))]


def parameters(*packages: str) -> list[Module]:
    return [module for module in ALL.values() if module.name.partition(".")[0] in packages]


def named(module: Module) -> str:
    return module.name


def closure(name: str) -> set[str]:
    """All that a module imports, by others of ours too."""
    seen: set[str] = set()
    waiting = {name}
    while waiting:
        found = waiting.pop()
        seen.add(found)
        waiting |= (ALL[found].imports() if found in ALL else set()) - seen
    return seen


def siblings(module: Module, folder: str) -> set[str]:
    """The modules in a package's folder that a module of it imports, itself not counted."""
    inside = {name for name in module.imports() if name.startswith(f"{folder}.") and name in ALL}
    return {name for name in inside if not module.name.startswith(name)}


def floor_of(name: str) -> int | None:
    """The floor that a module's room is on, counted from the ground; None for a package's face."""
    package, _, path = name.partition(".")
    rooms = {room: number for number, floor in enumerate(FLOORS[package]) for room in floor}
    within = [room for room in rooms if path == room or path.startswith(f"{room}.")]
    return rooms[max(within, key=len)] if within else None


def room_of(name: str) -> str:
    """The room that a module is in: the longest one of its package's floors that its name begins with."""
    package, _, path = name.partition(".")
    rooms = chain.from_iterable(FLOORS[package])
    return max((room for room in rooms if path == room or path.startswith(f"{room}.")), key=len, default="")


def imported_modules(module: Module) -> set[str]:
    """The modules of its own package that a module imports, anywhere in it."""
    package = module.name.partition(".")[0]
    found = {name for name in module.imports() if name in ALL and name.partition(".")[0] == package}
    files = {name for name in found if ALL[name].path.name != "__init__.py"}
    rooms = {name for name in found - files if not any(other.startswith(f"{name}.") for other in files)}
    return (files | rooms) - {module.name}


def upward_imports(module: Module) -> Iterator[str]:
    """What a module imports of rooms that are not below its own."""
    floor, room = floor_of(module.name), room_of(module.name)
    for name in sorted(imported_modules(module)):
        target = floor_of(name)
        if floor is not None and room_of(name) != room and (target is None or target >= floor):
            yield name


@pytest.mark.parametrize("module", list(ALL.values()), ids=named)
def test_a_room_imports_only_rooms_below_it(module: Module) -> None:
    """No import goes up to a higher room or across to one on the same floor, also none for types alone."""
    assert not set(upward_imports(module))


def circles() -> list[list[str]]:
    """The groups of modules that import each other, by Tarjan's algorithm for strongly connected components."""
    edges = {name: imported_modules(module) for name, module in ALL.items()}
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            found.extend([sorted(members)] if len(members) > 1 else [])

    for name in ALL:
        if name not in index:
            visit(name)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports form no circle, also none for types alone."""
    assert not circles()


@pytest.mark.parametrize("module", parameters("trainwire_protocol"), ids=named)
def test_the_protocol_stands_on_nothing_of_ours(module: Module) -> None:
    """The protocol imports neither of the other packages, nor torch, nor more than pyzmq and msgpack."""
    assert not top_level(module.imports()) & {"trainwire", "trainwire_sinks", "torch", "numpy"}


@pytest.mark.parametrize("module", parameters("trainwire"), ids=named)
def test_the_trainer_does_not_know_the_sinks(module: Module) -> None:
    """What runs inside the training process imports nothing of what runs outside it."""
    assert "trainwire_sinks" not in top_level(module.imports())


@pytest.mark.parametrize("module", parameters("trainwire_sinks"), ids=named)
def test_the_sinks_know_neither_the_trainer_nor_torch(module: Module) -> None:
    """Sinks import nothing of the training process, and run on hosts without torch."""
    assert not top_level(module.imports()) & {"trainwire", "torch", "torchmetrics"}


@pytest.mark.parametrize("name", SOCKETLESS)
def test_events_codec_and_journal_know_no_sockets(name: str) -> None:
    """What reads and writes bytes and files imports no ZeroMQ, by no way."""
    assert "zmq" not in top_level(closure(name))


@pytest.mark.parametrize("module", [module for module in ALL.values() if module.name.startswith(SINKS)], ids=named)
def test_no_sink_imports_another(module: Module) -> None:
    """A built-in sink imports no other one."""
    assert not siblings(module, SINKS)


@pytest.mark.parametrize("module", [module for module in ALL.values() if module.name.startswith(PLUGINS)], ids=named)
def test_no_plugin_imports_another(module: Module) -> None:
    """A plugin imports no other one, unless it is listed here with its reason."""
    if module.name != PUT_TOGETHER:
        assert siblings(module, PLUGINS) <= DECLARED_NEEDS.get(module.name, set())


def test_there_are_modules_to_look_at() -> None:
    """The tests above have found all three packages, with sinks and plugins in them."""
    assert top_level(set(ALL)) == set(PACKAGES)
    assert [name for name in ALL if name.startswith((f"{SINKS}.", f"{PLUGINS}."))]
    assert "msgpack" in top_level(set(chain.from_iterable(module.imports() for module in ALL.values())))
