"""Which imports are allowed between the packages, and between the rooms within each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
from support.packages import PACKAGES, Module, modules, top_level

ALL = {module.name: module for module in modules()}
SINKS = "trainwire_sinks.builtin"
PLUGINS = "trainwire.plugins"
INTEGRATIONS = "trainwire.integrations"

# From the ground up. A room may import itself and rooms on lower floors, also under TYPE_CHECKING; rooms on the same
# floor must not import each other. A module in no room is part of its package's public face, above all floors.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "trainwire_protocol": (
        ("errors", "statistics"), ("process", "toml_file"), ("events", "commands"), ("environment",), ("wire",),
        ("journal",), ("transport",), ("subscription",),
    ),
    "trainwire": (
        ("bus.values",), ("bus",),
        ("training.distributed",), ("training.hooks", "training.savable"),
        ("training.options",), ("training.model", "training.data"), ("training",), ("checkpointing",), ("plugins",),
        ("integrations",),
    ),
    "trainwire_sinks": (
        ("text",), ("runtime",), ("inspect", "launch", "tensorboard", "nats", "export", "relay", "testing"),
        ("alerts",), ("monitor",), ("builtin",), ("cli",),
    ),
}  # fmt: skip

PLUGIN_DEPENDENCIES: dict[str, set[str]] = {}
"""The plugins that a plugin may import; each entry needs a reason."""

DEFAULTS = "trainwire.plugins.defaults"
"""Imports the plugins that are attached by default."""

SHARED = {f"{INTEGRATIONS}.{name}" for name in ("requirement", "shared_bus", "summaries")}
"""What integrations share."""

WITHOUT_SOCKETS = [name for name in ALL if name.startswith(("trainwire_protocol.journal", "trainwire_protocol.wire"))]


def modules_in(room: str) -> list[Module]:
    """Return the modules of a package or of one of its rooms."""
    return [module for module in ALL.values() if f"{module.name}.".startswith(f"{room}.")]


def module_name(module: Module) -> str:
    return module.name


def closure(name: str) -> set[str]:
    """Return everything that a module imports, directly or through other modules of the packages."""
    seen: set[str] = set()
    pending = {name}
    while pending:
        found = pending.pop()
        seen.add(found)
        pending |= (ALL[found].imports() if found in ALL else set()) - seen
    return seen


def siblings(module: Module, folder: str) -> set[str]:
    """Return the modules of a folder that another module of the folder imports."""
    inside = {name for name in module.imports() if name.startswith(f"{folder}.") and name in ALL}
    return {name for name in inside if not module.name.startswith(name)}


def floor_of(name: str) -> int | None:
    """Return the floor of a module's room, counted from the ground, or None if the module is in no room."""
    package, _, path = name.partition(".")
    rooms = {room: number for number, floor in enumerate(FLOORS[package]) for room in floor}
    within = [room for room in rooms if path == room or path.startswith(f"{room}.")]
    return rooms[max(within, key=len)] if within else None


def room_of(name: str) -> str:
    """Return the room that contains a module, the innermost one if rooms are nested, or an empty string."""
    package, _, path = name.partition(".")
    rooms = chain.from_iterable(FLOORS[package])
    return max((room for room in rooms if path == room or path.startswith(f"{room}.")), key=len, default="")


def imported_modules(module: Module) -> set[str]:
    """Return the modules of its own package that a module imports, at any depth."""
    package = module.name.partition(".")[0]
    found = {name for name in module.imports() if name in ALL and name.partition(".")[0] == package}
    files = {name for name in found if ALL[name].path.name != "__init__.py"}
    rooms = {name for name in found - files if not any(other.startswith(f"{name}.") for other in files)}
    return (files | rooms) - {module.name}


def upward_imports(module: Module) -> Iterator[str]:
    """Yield the modules that a module imports from rooms that are not below its own."""
    floor, room = floor_of(module.name), room_of(module.name)
    for name in sorted(imported_modules(module)):
        target = floor_of(name)
        if floor is not None and room_of(name) != room and (target is None or target >= floor):
            yield name


@pytest.mark.parametrize("module", list(ALL.values()), ids=module_name)
def test_a_room_imports_only_rooms_below_it(module: Module) -> None:
    """No module imports a room on a higher floor or another one on its own floor, not even under TYPE_CHECKING."""
    assert not set(upward_imports(module))


def import_cycles() -> list[list[str]]:
    """Return the groups of modules that import each other, found by Tarjan's algorithm."""
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


def test_there_are_no_import_cycles() -> None:
    """Imports form no cycle, not even under TYPE_CHECKING."""
    assert not import_cycles()


@pytest.mark.parametrize("module", modules_in("trainwire_protocol"), ids=module_name)
def test_the_protocol_imports_neither_trainer_nor_sinks(module: Module) -> None:
    """The protocol imports neither of the other packages, nor torch, nor numpy."""
    assert not top_level(module.imports()) & {"trainwire", "trainwire_sinks", "torch", "numpy"}


@pytest.mark.parametrize("module", modules_in("trainwire"), ids=module_name)
def test_the_trainer_does_not_import_the_sinks(module: Module) -> None:
    """The package for the training process does not import the sinks, which run outside it."""
    assert "trainwire_sinks" not in top_level(module.imports())


@pytest.mark.parametrize("module", modules_in("trainwire_sinks"), ids=module_name)
def test_the_sinks_import_neither_trainer_nor_torch(module: Module) -> None:
    """Sinks do not import the trainer, and run on hosts without torch."""
    assert not top_level(module.imports()) & {"trainwire", "torch", "torchmetrics"}


@pytest.mark.parametrize("name", WITHOUT_SOCKETS)
def test_codec_and_journal_do_not_import_zeromq(name: str) -> None:
    """The codec and the journal import ZeroMQ neither directly nor through other modules."""
    assert "zmq" not in top_level(closure(name))


@pytest.mark.parametrize("module", modules_in(SINKS), ids=module_name)
def test_no_sink_imports_another(module: Module) -> None:
    """A built-in sink does not import another one."""
    assert not siblings(module, SINKS)


@pytest.mark.parametrize("module", modules_in(PLUGINS), ids=module_name)
def test_no_plugin_imports_another(module: Module) -> None:
    """A plugin imports another one only if PLUGIN_DEPENDENCIES allows it."""
    if module.name != DEFAULTS:
        assert siblings(module, PLUGINS) <= PLUGIN_DEPENDENCIES.get(module.name, set())


@pytest.mark.parametrize("module", modules_in("trainwire"), ids=module_name)
def test_nothing_imports_an_integration(module: Module) -> None:
    """No module of the trainer imports an integration, not even another integration, except what these share."""
    assert siblings(module, INTEGRATIONS) <= (SHARED if module in modules_in(INTEGRATIONS) else set())


def test_all_packages_are_found() -> None:
    """The tests above cover all three packages, including sinks and plugins."""
    assert top_level(set(ALL)) == set(PACKAGES)
    assert [name for name in ALL if name.startswith((f"{SINKS}.", f"{PLUGINS}."))]
    assert "msgpack" in top_level(set(chain.from_iterable(module.imports() for module in ALL.values())))
