"""The walls between the packages, and within them."""

from __future__ import annotations

from itertools import chain

import pytest
from packages import PACKAGES, Module, modules, top_level

ALL = {module.name: module for module in modules()}
SINKS = "trainwire_sinks.builtin"
PLUGINS = "trainwire.plugins"

# Plugins that need another one, each with the reason.
DECLARED_NEEDS: dict[str, set[str]] = {}


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


@pytest.mark.parametrize("name", ["events", "errors", "wire", "records", "journal", "run_folder", "attempts"])
def test_events_codec_and_journal_know_no_sockets(name: str) -> None:
    """What reads and writes bytes and files imports no ZeroMQ, by no way."""
    assert "zmq" not in top_level(closure(f"trainwire_protocol.{name}"))


@pytest.mark.parametrize("module", [module for module in ALL.values() if module.name.startswith(SINKS)], ids=named)
def test_no_sink_imports_another(module: Module) -> None:
    """A built-in sink imports no other one."""
    assert not siblings(module, SINKS)


@pytest.mark.parametrize("module", [module for module in ALL.values() if module.name.startswith(PLUGINS)], ids=named)
def test_no_plugin_imports_another(module: Module) -> None:
    """A plugin imports no other one, unless it is listed here with its reason."""
    if module.name != PLUGINS:  # the package itself gathers them
        assert siblings(module, PLUGINS) <= DECLARED_NEEDS.get(module.name, set())


def test_there_are_modules_to_look_at() -> None:
    """The tests above have found all three packages, with sinks and plugins in them."""
    assert top_level(set(ALL)) == set(PACKAGES)
    assert [name for name in ALL if name.startswith((f"{SINKS}.", f"{PLUGINS}."))]
    assert "msgpack" in top_level(set(chain.from_iterable(module.imports() for module in ALL.values())))
