"""Options in TOML files: what is written, what is read, and what is refused at which line."""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
import tomllib
from argparse import Namespace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.paths import DOCS
from support.tiny_training import corpus, linear, make_trainer, points, train
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from trainwire import ModelTrainer, TrainingOptions
from trainwire.plugins.ema import EMA
from trainwire.training.options.options import REQUIREMENTS
from trainwire_protocol.errors import OptionError, OutputError

PAGE = (DOCS / "options-file.md").read_text()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
plain = st.recursive(
    st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(), int: st.integers(0, 2**63 - 1), float: st.floats(), str: texts, NoneType: st.none(),
}  # fmt: skip
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "optimizer": st.sampled_from([SGD, Adam, AdamW, {"a": Adam, "b": (SGD, {"lr": 0.1, "betas": (0.5, 0.5)})}]),
    "optimizer_arguments": st.dictionaries(texts, plain, max_size=2),
    "ddp_arguments": st.fixed_dictionaries({}, optional={"static_graph": st.booleans(), "bucket_cap_mb": numbers}),
    "sinks": st.lists(st.sampled_from(["log-file", "alerts --rules 'a b.toml'"]), max_size=2).map(tuple),
    "plugins": st.lists(st.sampled_from(["swa", {"ema": {"decay": 0.5, "warm_up": True}}]), max_size=2).map(tuple),
    "bind": st.sampled_from([None, "tcp://127.0.0.1:0"]),
    "device": st.sampled_from([None, "cpu", "cuda:1"]),
    "hparams": st.none() | st.dictionaries(texts, st.booleans() | st.integers(0, 9) | texts, max_size=3),
}


def strategy(name: str, hint: Any) -> st.SearchStrategy[Any] | None:
    """Return the values of an option that a file can have, if there are any besides None."""
    if name in SPECIAL:
        return SPECIAL[name]
    members: list[Any] = [hint] if hint in SIMPLE or get_origin(hint) is Literal else list(get_args(hint))
    known = {member: SIMPLE[member] for member in members if member in SIMPLE}
    known |= {member: st.sampled_from(get_args(member)) for member in members if get_origin(member) is Literal}
    return st.one_of(*known.values()).filter(REQUIREMENTS[name].is_met) if known.keys() - {NoneType} else None


OPTIONS = {
    name: found for name, hint in get_type_hints(TrainingOptions).items() if (found := strategy(name, hint)) is not None
}


def read(text: str, method: Literal["train", "fine_tune"] = "train") -> TrainingOptions:
    """Return the options in a file with this text, called train.toml."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.toml"
        path.write_text(text)
        return TrainingOptions.from_file(path, method)


def problems(text: str) -> list[str]:
    """Return the message about a file with this text, by lines and without its folder."""
    with pytest.raises(OptionError) as raised:
        read(text)
    return [re.sub(r"^.*/(?=train\.toml:)", "", line) for line in str(raised.value).splitlines()]


@given(st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=5), st.data())
def test_options_that_are_written_are_read_again(names: list[str], data: st.DataObject) -> None:
    """Whatever a file can have is equal after writing and reading, whichever defaults complete the file."""
    given = {name: data.draw(OPTIONS[name], label=name) for name in names}
    try:
        options = TrainingOptions(**given)
    except OptionError:
        assume(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.toml"
        options.to_file(path)
        assert "cannot be written" not in path.read_text()
        assert TrainingOptions.from_file(path) == TrainingOptions.from_file(path, "fine_tune") == options


def test_most_options_can_be_written() -> None:
    """The others are functions, objects and classes."""
    others = {"sampler", "batch_sampler", "collate_fn"}
    assert {"learning_rate", "max_epochs", "use_amp", "seed", "main_evaluation_mode", *SPECIAL} <= OPTIONS.keys()
    assert not others & OPTIONS.keys()


class OwnOptimizer(SGD):
    pass


def test_what_cannot_be_written_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A comment and the log name it, and the file can be read."""
    path = tmp_path / "train.toml"
    options = TrainingOptions(
        optimizer=OwnOptimizer, optimizer_arguments={"betas": (0.5, None), "fused": None, "x": "\ud800", "y": 1},
        plugins=["swa", EMA(), {"torch-scheduler": {"make": len}}], sampler=lambda data: data, collate_fn=max,
        hparams=Namespace(note="x\n", value=float("nan")),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="trainwire"):
        options.to_file(path)
    expected = [
        "plugins[1], an instance of EMA: give it by name", "plugins[2].torch-scheduler.make, the function len",
        "optimizer, the class OwnOptimizer", "optimizer_arguments.betas[1], None", "optimizer_arguments.fused, None",
        "optimizer_arguments.x, a string that is not Unicode", "sampler, the function <lambda>",
        "collate_fn, the function max",
    ]  # fmt: skip
    assert [line.removeprefix("#   ") for line in path.read_text().splitlines() if line.startswith("#   ")] == expected
    (message,) = caplog.messages
    assert message == f"{path}: not all options can be written to a file: {'; '.join(expected)}"
    found = TrainingOptions.from_file(path)
    assert (found.optimizer, found.optimizer_arguments, found.plugins) == (SGD, {"y": 1}, ("swa",))
    assert found.hparams["note"] == "x\n"


def test_none_is_written_if_it_is_not_the_default(tmp_path: Path) -> None:
    """`"none"` stands for None where None is allowed; a device of torch is written by its name."""
    path = tmp_path / "train.toml"
    TrainingOptions(max_grad_norm=None, device=torch.device("cuda", 1)).to_file(path)
    content = tomllib.loads(path.read_text())
    assert (content["max_grad_norm"], content["device"]) == ("none", "cuda:1")
    assert "seed" not in content
    assert TrainingOptions.from_file(path).max_grad_norm is None
    assert read('seed = "none"').seed is None
    assert read('main_evaluation_metric = "none"').main_evaluation_metric == "none"
    assert problems('learning_rate = "none"') == [
        "train.toml:1: learning_rate is 'none'; it must be a finite number above 0"
    ]
    with pytest.raises(OutputError, match=r"the options file .* cannot be written: No such file or directory"):
        TrainingOptions().to_file(tmp_path / "missing" / "train.toml")


WRONG = """
# A file with many mistakes.
max_epoch = 3
learning_rate = "fast"
lr = 3
resume = true
plugins = [
    "early-stopping",
    {ema = {decay = 0.9, decoy = [
        0.9
    ]}},
    3,
]
optimizer = "Adamm"
device = "gpu"
[[plugin]]
"""


def test_each_wrong_key_is_named_with_its_line() -> None:
    """All wrong keys and values are named at once, each with file and line."""
    found = problems(WRONG)
    expected = {
        3: "there is no option 'max_epoch'; did you mean 'max_epochs'",
        4: "learning_rate is 'fast'; it must be a finite number above 0",
        5: "there is no option 'lr'; use learning_rate",
        6: "resume is an argument of the trainer's methods, and not an option: pass it there",
        9: "plugins[1]: the plugin ema has no argument 'decoy': did you mean decay?",
        12: "plugins[2]: it must be a name, or a name with its arguments",
        14: "optimizer is 'Adamm': did you mean Adam? the classes of torch.optim are ASGD, ",
        15: "device is 'gpu'; it must be a name such as 'cpu' or 'cuda:0'",
        16: "there is no option 'plugin'; did you mean 'plugins'?",
    }
    assert len(found) == len(expected)
    for line, (number, text) in zip(found, expected.items(), strict=True):
        assert line.startswith(f"train.toml:{number}: {text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nsinks = ['loss-fil']", "train.toml:2: there is no sink 'loss-fil': did you mean loss-file? "),
        ("\nddp_arguments.static = 1\nseed = 1", "train.toml:2: ddp_arguments contains 'static'; the arguments of"),
        ("max_grad_norm = 'none'\n[optimizer_arguments]\nlr = 1", "train.toml:2: optimizer_arguments contains 'lr'"),
        ("seed = 1\nbind = 'x'", "train.toml:2: bind is 'x'; it must be tcp://address:port"),
        ("optimizer.a = ['Adem', {}]", "train.toml:1: optimizer is 'Adem': did you mean Adam? the classes of"),
        ("optimizer = {a = ['Adam']}", "train.toml:1: optimizer is {'a': ['Adam']}; it must be a class of torch.optim"),
        ("plugins = 'ema'", "train.toml:1: plugins is 'ema'; it must be a list of plugins"),
        ("[plugins]\nema = {}", "train.toml:1: plugins is {'ema': {}}; it must be a list of plugins"),
        ("seed = 1\nseed = 2", "train.toml:2: invalid TOML: Cannot overwrite a value"),
        ("sampler = 'Random'", "train.toml:1: sampler is 'Random'; it must be a torch sampler, or a function"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(text: str, message: str) -> None:
    """Also where the check is that of all options together."""
    (line,) = problems(text)
    assert line.startswith(message)


def test_keywords_override_the_file_and_it_overrides_the_defaults_of_the_method(tmp_path: Path) -> None:
    """In `fine_tune`, keys that the file does not have have the defaults of `fine_tune`."""
    path = tmp_path / "train.toml"
    path.write_text("max_epochs = 2\nlearning_rate = 0.1\nmini_batch_size = 16\nsinks = []\nplugins = ['swa']\n")
    seen: dict[str, TrainingOptions] = {}
    trainer = make_trainer()
    trainer.on("after_setup")(lambda setup: seen.update({trainer.run.folder.name: trainer.run.options}))
    trainer.train(tmp_path / "train", corpus=corpus(), options=path, max_epochs=1, attach_default_scheduler=False)
    trainer.fine_tune(tmp_path / "tune", corpus=corpus(), options=str(path), plugins=[])
    both = TrainingOptions.from_file(path)
    trainer.fine_tune(tmp_path / "object", corpus=corpus(), options=both, max_epochs=1, plugins=["ema"])
    changes = {"max_epochs": 1, "attach_default_scheduler": False}
    assert seen["train"] == TrainingOptions.from_keywords(changes, "train", path)
    assert (seen["train"].max_epochs, seen["train"].optimizer, seen["train"].plugins) == (1, SGD, ("swa",))
    tuned = seen["tune"]
    assert (tuned.optimizer, tuned.use_final_model_for_eval, tuned.plugins) == (AdamW, True, [])
    assert (tuned.max_epochs, tuned.learning_rate, tuned.mini_batch_size) == (2, 0.1, 16)
    assert tuned == dataclasses.replace(TrainingOptions.from_file(path, "fine_tune"), plugins=[])
    assert seen["object"] == dataclasses.replace(both, max_epochs=1, plugins=["ema"])


@pytest.mark.parametrize(("method", "default"), [("train", 100), ("fine_tune", 10)])
def test_the_number_of_epochs_is_the_same_however_options_are_given(
    tmp_path: Path, method: Literal["train", "fine_tune"], default: int
) -> None:
    """It is that of the method, none with `max_steps` alone, or the one that is given; also after a round trip."""
    empty, steps, both = tmp_path / "empty.toml", tmp_path / "steps.toml", tmp_path / "both.toml"
    empty.touch()
    steps.write_text("max_steps = 50")
    both.write_text("max_steps = 50\nmax_epochs = 3")

    def epochs(options: TrainingOptions | Path | None = None, **keywords: Any) -> int | None:
        return TrainingOptions.from_keywords(keywords, method, options).max_epochs

    def ways(path: Path, **keywords: Any) -> list[TrainingOptions | Path]:
        given = [TrainingOptions(**keywords), TrainingOptions.from_file(path, method)]
        for number, options in enumerate(given):
            options.to_file(tmp_path / f"{number}.toml")
            assert TrainingOptions.from_file(tmp_path / f"{number}.toml", method) == options
        return [path, *given]

    assert (epochs(), epochs(max_steps=50), epochs(max_steps=50, max_epochs=3)) == (default, None, 3)
    for options in ways(empty):
        assert (epochs(options), epochs(options, max_steps=50), epochs(options, max_epochs=3)) == (default, None, 3)
        assert epochs(options, max_epochs=None) == default
    for options in ways(steps, max_steps=50):
        assert (epochs(options), epochs(options, max_epochs=3), epochs(options, max_steps=None)) == (None, 3, default)
    for options in ways(both, max_steps=50, max_epochs=3):
        assert (epochs(options), epochs(options, max_epochs=None)) == (3, None)


def test_a_file_may_be_valid_with_the_keywords_only() -> None:
    """What the keywords override is not checked together with them, and an error of theirs has no line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.toml"
        path.write_text("sinks = ['loss-fil']\n")
        assert TrainingOptions.from_keywords({"sinks": []}, "train", path).sinks == []
        with pytest.raises(OptionError, match=r"^seed is -1; it must be"):
            TrainingOptions.from_keywords({"seed": -1, "sinks": []}, "train", path)
        with pytest.raises(OptionError, match=r"^train\(\) has no option 'sead' \(did you mean 'seed'\?\)"):
            TrainingOptions.from_keywords({"sead": 1}, "train", path)


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    """A missing file and a mapping are refused before anything is written."""
    with pytest.raises(OptionError, match=r"the options file no\.toml cannot be read: No such file"):
        train(tmp_path / "run", options="no.toml")
    with pytest.raises(OptionError, match=r"options is \{'seed': 1\}; it must be a TrainingOptions, or the path of"):
        train(tmp_path / "run", options={"seed": 1})
    with pytest.raises(OptionError, match="method is 'tune'; it must be 'train' or 'fine_tune'"):
        TrainingOptions.from_file("no.toml", "tune")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_the_example_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file is valid, and its snippets run."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    Path("train.toml").write_text(example.replace('"loss-file", "tensorboard"', ""))
    options = TrainingOptions.from_file("train.toml")
    assert (options.optimizer, options.max_grad_norm, options.sinks) == (AdamW, None, ())
    (row,) = re.findall(r"\| `(optimizer = {.*)` \|", PAGE)
    assert read(row).optimizer == {"critic": (RMSprop, {"lr": 5e-5}), "generator": Adam}
    assert options.optimizer_arguments == {"weight_decay": 0.01, "betas": (0.9, 0.98)}
    known: dict[str, Any] = {
        "trainer": ModelTrainer(linear(), loss=nn.CrossEntropyLoss()), "data": points(32), "dev": points(16),
    }  # fmt: skip
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet, known)
    assert known["result"].status == "finished"
