"""The options of a training: their declarations, their checks, and what editors and type checkers know about them."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from mypy import api
from support.paths import DOCS, ROOT
from support.run_reader import read_events
from support.tiny_training import linear, points
from torch.optim import SGD, AdamW

from trainwire import ModelTrainer
from trainwire.training.options import options as options_module
from trainwire.training.options.options import REQUIREMENTS, TrainingOptions, TrainingOptionsDict
from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event, validate

FIELDS = {option.name: option for option in dataclasses.fields(TrainingOptions)}


def test_keywords_and_fields_are_the_same_options() -> None:
    """`TrainingOptionsDict` declares the fields of `TrainingOptions`, in the same order and with the same types."""
    keywords = get_type_hints(TrainingOptionsDict)
    assert list(keywords) == list(FIELDS)
    assert keywords == get_type_hints(TrainingOptions)
    assert not TrainingOptionsDict.__required_keys__


def documentation() -> dict[str, str]:
    """Return the docstring under each keyword of `TrainingOptionsDict`."""
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(options_module)).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingOptionsDict"
    ]
    return {
        ast.unparse(declaration.target): " ".join(ast.literal_eval(docstring.value).split())
        for declaration, docstring in pairwise(body)
        if isinstance(declaration, ast.AnnAssign) and isinstance(docstring, ast.Expr)
    }


def test_every_option_is_documented_where_editors_look() -> None:
    """Each keyword has a docstring, and the docstring of `train` lists all options with their defaults."""
    assert list(documentation()) == list(FIELDS)
    options = TrainingOptions.from_keywords({})
    defaults = {name: getattr(options, name) for name in FIELDS}
    shown = [f"{name}={getattr(value, '__name__', repr(value))}" for name, value in defaults.items()]
    assert ", ".join(shown) in " ".join((ModelTrainer.train.__doc__ or "").split())


def test_the_page_on_training_documents_each_option_alike() -> None:
    """The table of options in `docs/training.md` has the text of the docstrings."""
    page = (DOCS / "training.md").read_text()
    assert not [text for text in documentation().values() if f"| {text} |" not in page]


def test_every_option_is_checked() -> None:
    """Each option has a requirement, except for those that are checked where they are used."""
    assert FIELDS.keys() - REQUIREMENTS.keys() == {"device", "bind"}
    assert not REQUIREMENTS.keys() - FIELDS.keys()


def test_type_checkers_reject_wrong_names_and_types(tmp_path: Path) -> None:
    """mypy accepts valid options of `train` and `fine_tune`, and reports an unknown name and a wrong type."""
    snippet, config = tmp_path / "snippet.py", tmp_path / "mypy.ini"
    snippet.write_text(
        "from torch import nn\n"
        "from trainwire import ModelTrainer; from trainwire.plugins.early_stopping import EarlyStopping\n"
        "trainer = ModelTrainer(nn.Linear(2, 2), loss=nn.CrossEntropyLoss())\n"
        "trainer.train('run', max_epochs=3, learning_rate=1, sinks=['loss-file'], use_amp='bf16', seed=None)\n"
        "trainer.train('run', max_epoch=3)\n"
        "trainer.fine_tune('run', learning_rate='0.1')\n"
        "trainer.train('run', use_amp='bf15')\n"
        "trainer.train('run', sinks='loss-file')\n"
        "trainer.fine_tune('run', options='tune.toml', plugins=['swa', {'ema': {'decay': 0.9}}, EarlyStopping()])\n"
        "trainer.train('run', plugins=['swa', 3])\n"
    )
    folders = os.pathsep.join(str(ROOT / folder) for folder in ("protocol", "trainer"))
    # Reading the types of torch takes most of a minute, and the options that are checked here do not need them.
    config.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {folders}\n[mypy-torch.*,torchmetrics.*]\nfollow_imports = skip\n"
    )
    arguments = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), "--hide-error-context"]
    report, problems, _ = api.run([*arguments, "--follow-imports=silent", "--no-pretty", str(snippet)])
    errors = [line.partition("snippet.py:")[2] for line in report.splitlines() if ": error: " in line]
    expected = {
        5: '"max_epoch" for "train"',
        6: '"learning_rate" to "fine_tune"',
        7: '"use_amp"',
        8: '"sinks"',
        10: "item 1",
    }
    assert [int(error.partition(":")[0]) for error in errors] == list(expected), report + problems
    assert all(text in error for text, error in zip(expected.values(), errors, strict=True))


def test_the_defaults_are_those_of_a_plain_training() -> None:
    """By default, `train` uses SGD at 0.1 with batches of 32, and starts the loss-file and log-file sinks."""
    options = TrainingOptions()
    assert (options.optimizer, options.learning_rate, options.mini_batch_size) == (SGD, 0.1, 32)
    assert options.sinks == ("loss-file", "log-file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0), ("learning_rate", -0.1), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("learning_rate", "0.1"), ("learning_rate", True), ("mini_batch_size", 0), ("mini_batch_size", -32),
        ("mini_batch_size", 1.5), ("mini_batch_size", None), ("mini_batch_size", True), ("eval_batch_size", 0),
        ("max_epochs", 0), ("max_steps", 0), ("num_workers", -1), ("seed", -1), ("seed", 2**63),
        ("max_grad_norm", 0), ("optimizer", "SGD"), ("optimizer", dict), ("optimizer_arguments", [0.9]),
        ("optimizer_arguments", {"lr": 0.1}), ("shuffle", "yes"), ("monitor_test", None), ("dev_name", "test"),
        ("dev_name", "a/b"), ("dev_name", ""), ("main_evaluation_metric", ("dev", "loss")), ("sinks", "loss-file"),
        ("sinks", [1]), ("bind", 5), ("bind", "localhost"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_by_name(name: str, value: Any) -> None:
    """The error names the option."""
    with pytest.raises(OptionError, match=name):
        TrainingOptions(**{name: value})


def test_an_unknown_option_is_refused_with_the_valid_names() -> None:
    """The error for a misspelled option suggests the names that are close to it, and lists all names."""
    with pytest.raises(OptionError) as raised:
        TrainingOptions.from_keywords({"lerning_rate": 0.1})
    assert "did you mean 'learning_rate' or 'decoder_learning_rate'?" in str(raised.value)
    assert all(name in str(raised.value) for name in FIELDS)


def test_an_optimizer_instance_takes_no_arguments() -> None:
    """`optimizer_arguments` are refused with an optimizer instance, which would ignore them."""
    optimizer = SGD(linear().parameters(), lr=0.5)
    assert TrainingOptions(optimizer=optimizer).optimizer is optimizer
    with pytest.raises(OptionError, match="apply to an optimizer class only: omit them"):
        TrainingOptions(optimizer=optimizer, optimizer_arguments={"momentum": 0.9})


def test_options_can_be_published() -> None:
    """The hyperparameters are a valid event, whatever the options contain."""
    options = TrainingOptions(optimizer=AdamW, optimizer_arguments={"betas": (0.9, 0.99)}, device=torch.device("cpu"))
    values = options.as_hyperparameters()
    validate(Event("hparams", values, "hparams", 0.0, 0))
    assert (values["optimizer"], values["device"]) == ("AdamW", "cpu")
    assert values["optimizer_arguments"] == {"betas": [0.9, 0.99]}
    assert TrainingOptions(optimizer=SGD(linear().parameters())).as_hyperparameters()["optimizer"] == "SGD"


def test_own_hyperparameters_come_first(tmp_path: Path) -> None:
    """Then come the options that were changed, then all others; an option has the value that the training has."""
    own = argparse.Namespace(note="x", depth=3, learning_rate="slow")
    trainer = ModelTrainer(linear(), loss=torch.nn.CrossEntropyLoss())
    trainer.train(tmp_path, train=points(8), hparams=own, learning_rate=0.5, max_epochs=1, sinks=(), quiet=True)
    (recorded,) = [event.value for event in read_events(tmp_path) if event.type == "hparams"]
    assert list(recorded)[:6] == ["note", "depth", "learning_rate", "max_epochs", "sinks", "quiet"]
    assert (recorded["note"], recorded["depth"], recorded["learning_rate"]) == ("x", 3, 0.5)
    assert {name for name in FIELDS if name != "hparams"} <= recorded.keys()
    with pytest.raises(OptionError, match="hparams is 3; it must be a mapping of names to values"):
        TrainingOptions(hparams=3)


@pytest.mark.parametrize("sink", ["tensorbord", "loss_file", "alerts2 --rules alerts.toml"])
def test_an_unknown_sink_is_refused_before_the_training(sink: str) -> None:
    """A sink that is not installed is an error that suggests the closest name; a class of one's own is accepted."""
    with pytest.raises(OptionError, match=r"there is no sink .*: did you mean (tensorboard|loss-file|alerts)\?"):
        TrainingOptions(sinks=[sink])
    TrainingOptions(sinks=["tensorboard", "mine.module:MySink --option 1"])
