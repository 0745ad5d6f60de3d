"""Plugins that are given by name: the built-in ones, those of other packages, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.third_party import install
from support.tiny_training import make_trainer, train
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainwire import Plugin
from trainwire.plugins.ema import EMA
from trainwire.plugins.histograms import Histograms
from trainwire.plugins.swa import SWA
from trainwire.training.options.plugin_names import (
    PluginByName,
    builtin_plugin_names,
    find_plugin,
    plugin_by_name,
    plugin_names,
)
from trainwire.training.plugin import checked_plugins
from trainwire_protocol.errors import OptionError

NEEDED: dict[str, dict[str, Any]] = {"torch-scheduler": {"make": ReduceLROnPlateau}, "step-models": {"steps": 5}}
"""The arguments without a default."""

THIRD_PARTY = """
from trainwire import Plugin

class Noise(Plugin):
    def __init__(self, strength: float, *, console: "Console" = None, **more):
        self.strength, self.more = strength, more
        if strength < 0:
            raise ValueError("a negative strength")

class NoPlugin:
    pass
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package that registers a plugin, a class that is not a plugin, and a module that does not exist."""
    module = "noise_of_a_third_party"
    entries = {"noise": f"{module}:Noise", "none": f"{module}:NoPlugin", "broken": "no_such_module_here:Noise"}
    install(monkeypatch, tmp_path, "noise", THIRD_PARTY, "trainwire.plugins", entries)


@pytest.mark.parametrize("name", builtin_plugin_names())
def test_each_built_in_plugin_is_created_by_name(name: str) -> None:
    """The name is that of the module, and the plugin has the class that the module defines."""
    (plugin,) = checked_plugins([{name: NEEDED.get(name, {})}])
    assert type(plugin).__module__ == f"trainwire.plugins.{name.replace('-', '_')}"
    assert type(plugin) is find_plugin(name)


def test_arguments_are_passed_on() -> None:
    """A name alone creates the plugin with its defaults; lists are sequences, and whole numbers are floats."""
    default, ema, swa, histograms, zero = checked_plugins([
        "ema", {"ema": {"decay": 0.5, "warm_up": True}}, {"swa": {"start": None, "anneal_strategy": "linear"}},
        {"histograms": {"parameters": ["encoder.*"]}}, {"ema": {"decay": 0}},
    ])  # fmt: skip
    assert isinstance(default, EMA) and isinstance(ema, EMA) and isinstance(zero, EMA)
    assert (default.decay, ema.decay, ema.warm_up, zero.decay) == (0.999, 0.5, True, 0)
    assert isinstance(swa, SWA) and isinstance(histograms, Histograms)
    assert histograms.parameters == ("encoder.*",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("early-stoping", r"\[0\]: there is no plugin 'early-stoping': did you mean early-stopping\? the plugins are"),
        ("defaults", "there is no plugin 'defaults'"),
        ({"ema": {"decoy": 0.9}}, r"plugin ema has no argument 'decoy': did you mean decay\? its arguments are decay"),
        ({"model-card": {"x": 1}}, r"the plugin model-card has no argument 'x': it has no arguments"),
        ("torch-scheduler", "the plugin torch-scheduler needs the argument make: its arguments are make, per"),
        ({"ema": {"decay": "0.9"}}, "the plugin ema has decay='0.9'; it must be of type float: its arguments are"),
        ({"ema": {"warm_up": 1}}, "ema has warm_up=1; it must be of type bool"),
        ({"swa": {"start": 1.5}}, r"swa has start=1.5; it must be of type int \| None"),
        ({"swa": {"anneal_strategy": "cosine"}}, r"it must be of type Literal\['cos', 'linear'\]"),
        ({"histograms": {"parameters": [1]}}, r"it must be of type Sequence\[str\]"),
        ({"torch-scheduler": {"make": "StepLR", "arguments": 3}}, r"must be of type Mapping\[str, Any\] \| None"),
        ({"torch-scheduler": {"make": "StepRL"}}, r"no scheduler 'StepRL': did you mean StepLR\? torch has .*Exponent"),
        ({"torch-scheduler": {"make": "StepLR"}}, "StepLR: missing a required argument: 'step_size': its argum"),
        ({"ema": {"decay": 2.0}}, "EMA: decay is 2.0; it must be at least 0 and below 1"),
        ({"ema": {}, "swa": {}}, "give its name, or one name with its arguments, as in"),
        ({"ema": 0.9}, "give its name, or one name with its arguments"),
        ({"ema": {1: 0.9}}, "give its name, or one name with its arguments"),
        ({}, "give its name, or one name with its arguments"),
        ("no_such_module:Noise", r"plugin no_such_module:Noise .* cannot be loaded: ModuleNotFoundError"),
        ("trainwire:Forward", "is not a subclass of trainwire.Plugin"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_argument_is_refused(given: Any, message: str) -> None:
    """The message names the plugin, the argument and the accepted ones."""
    with pytest.raises(OptionError, match=message):
        checked_plugins([given])


@pytest.mark.usefixtures("third_party")
def test_another_package_registers_a_plugin() -> None:
    """It is listed, and created with its arguments; a broken entry point is one line that names it."""
    assert {"noise", "none", "broken", "ema"} <= set(plugin_names())
    plugin = plugin_by_name({"noise": {"strength": 0.5, "other": 1}})
    assert isinstance(plugin, Plugin)
    assert vars(plugin) == {"strength": 0.5, "more": {"other": 1}}
    for given, message in {
        "none": r"plugin none \(noise_of_a_third_party:NoPlugin\) is not a subclass of trainwire.Plugin",
        "broken": r"plugin broken \(no_such_module_here:Noise\) cannot be loaded: ModuleNotFoundError\(.*\)$",
        "noise": r"the plugin noise needs the argument strength",
    }.items():
        with pytest.raises(OptionError, match=message):
            plugin_by_name(given)
    with pytest.raises(OptionError, match=r"noise cannot be created with strength=-1: ValueError\('a negative"):
        plugin_by_name({"noise": {"strength": -1}})


def test_a_training_has_the_plugins_of_the_names(tmp_path: Path) -> None:
    """Trainer and training take names beside objects; each training creates the plugins of its names anew."""
    given: list[Plugin | PluginByName] = ["early-stopping", {"ema": {"decay": 0.5}}, SWA()]
    trainer = make_trainer(plugins=["throughput"])
    attached: list[list[Plugin]] = []
    trainer.on("after_setup")(lambda setup: attached.append(list(trainer.run.plugins)))
    for folder in ("a", "b"):
        train(tmp_path / folder, *given, trainer=trainer, max_epochs=1)
    first, second = ({type(plugin).__name__: plugin for plugin in plugins} for plugins in attached)
    assert {"EarlyStopping", "EMA", "SWA", "Throughput"} <= first.keys()
    assert first["EMA"] is not second["EMA"] and first["Throughput"] is second["Throughput"]
    with pytest.raises(OptionError, match=r"plugins\[1\]: there is no plugin 'emma'"):
        train(tmp_path / "c", *["ema", "emma"], trainer=trainer)
    assert not (tmp_path / "c").exists()
    with pytest.raises(OptionError, match=r"plugins\[0\]: there is no plugin 'emma'"):
        make_trainer(plugins=["emma"])
