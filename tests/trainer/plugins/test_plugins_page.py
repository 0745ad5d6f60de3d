"""`docs/plugins.md` matches the code, and its examples run."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from support.paths import DOCS
from support.run_reader import read_events
from support.tiny_training import linear, points
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from trainwire import Plugin
from trainwire.training.options.plugin_names import builtin_plugin_names

PAGE = (DOCS / "plugins.md").read_text()
TABLES = [
    [[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()[2:]]
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE)
]
PLUGINS = {row[0].strip("`"): row for row in TABLES[0]}


def made(module: str) -> Plugin:
    """Return the plugin of the example."""
    plugin = eval(PLUGINS[module][3].strip("`"), vars(import_module(f"trainwire.plugins.{module}")))
    assert isinstance(plugin, Plugin)
    return plugin


@pytest.mark.parametrize("module", PLUGINS)
def test_a_plugin_has_the_arguments_of_the_page(module: str) -> None:
    """The example creates a plugin of the module, and its documented arguments are those of the table."""
    kind = type(made(module))
    assert kind.__module__ == f"trainwire.plugins.{module}"
    arguments = [] if kind.__init__ is Plugin.__init__ else list(inspect.signature(kind).parameters)
    assert re.findall(r"`(\w+)`", PLUGINS[module][2]) == arguments
    assert all(argument in (kind.__doc__ or "") for argument in arguments)


def test_each_plugin_of_the_page_has_a_name() -> None:
    """The names of the built-in plugins are the modules of the first table, with hyphens."""
    assert {module.replace("_", "-") for module in PLUGINS} == set(builtin_plugin_names())


def test_the_second_table_has_plugins_of_the_first() -> None:
    """Each plugin of the second table is in the list of plugins."""
    assert {name for row in TABLES[1] for name in re.findall(r"`(\w+)`", row[0])} <= PLUGINS.keys()


def test_the_page_lists_the_plugins_that_may_fail() -> None:
    """The page lists the plugins whose failure does not end the training."""
    section = PAGE.partition("## If a plugin fails")[2]
    assert set(re.findall(r"`(\w+)`", section)) == {name for name in PLUGINS if not made(name).essential}


def test_the_snippets_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples run, given a model, a loss, metrics and data."""
    monkeypatch.chdir(tmp_path)
    known = {
        "model": linear(), "loss": nn.CrossEntropyLoss(), "data": points(1600), "dev": points(16),
        "metrics": {"accuracy": MulticlassAccuracy(2, average="micro")},
    }  # fmt: skip
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet.replace("max_epochs=3", "max_epochs=3, sinks=()"), known)
        known["data"] = points(32)
    assert known["result"].status == "finished"  # type: ignore[attr-defined]  # set by the snippet
    names = {event.name for event in read_events(tmp_path / "runs" / "mine")}
    assert {"throughput/samples_per_second", "dev/accuracy", "run/finished"} <= names
