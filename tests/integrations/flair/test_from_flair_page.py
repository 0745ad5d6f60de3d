"""`docs/from-flair.md` has everything that flair's trainer takes, and its example trains."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import flair.trainers.plugins
import pytest
import torch
from flair.trainers import ModelTrainer as FlairModelTrainer
from support.flair_training import make_trainer
from support.paths import DOCS
from support.run_reader import read_events

from trainwire.training.hooks.payloads import HOOKS
from trainwire.training.options.options import TrainingOptions
from trainwire.training.options.other_trainers import REPLACEMENTS

PAGE = (DOCS / "from-flair.md").read_text()
TABLES = [
    [[cell.strip() for cell in row.strip("|").split(" | ")] for row in block.splitlines()[2:]]
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE)
]
METHODS = {"train": FlairModelTrainer.train, "fine_tune": FlairModelTrainer.fine_tune}


def rows(table: int) -> dict[str, str]:
    """Return the right cells of a table, by the names in the left ones."""
    return {name: cells[1] for cells in TABLES[table] for name in re.findall(r"`(\w+)`", cells[0])}


def parameters(method: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of a method of flair's trainer."""
    return {name: value for name, value in inspect.signature(method).parameters.items() if name != "self"}


def test_the_page_has_all_arguments() -> None:
    """It has the arguments of `train`, `fine_tune` and `train_custom`, and no others."""
    arguments = [*map(parameters, (*METHODS.values(), FlairModelTrainer.train_custom))]
    assert rows(0).keys() == set().union(*arguments)


def test_each_argument_is_an_option_or_has_a_replacement() -> None:
    """What the page calls the same is an option, and everything else is explained by the message about it."""
    options = {option.name for option in fields(TrainingOptions)}
    for name, meaning in rows(0).items():
        assert name in options if meaning.startswith("the same") else name in options | REPLACEMENTS.keys() | {"kwargs"}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_the_same_has_the_same_default(method: str) -> None:
    """Options that the page calls the same have flair's default, unless it names another one."""
    theirs = parameters(FlairModelTrainer.train_custom) | parameters(METHODS[method])
    ours = TrainingOptions.from_keywords({}, method)
    for name, meaning in rows(0).items():
        if meaning.startswith("the same") and "default" not in meaning and name != "plugins":
            assert getattr(ours, name) == theirs[name].default


def test_the_page_has_all_plugins() -> None:
    """It has everything that flair.trainers.plugins offers."""
    assert rows(1).keys() == set(flair.trainers.plugins.__all__)


def test_the_page_has_all_hooks() -> None:
    """It has flair's hooks, each with a hook of Trainwire's."""
    assert rows(2).keys() == FlairModelTrainer.valid_events
    assert {re.findall(r"`(\w+)`", meaning)[0] for meaning in rows(2).values()} <= HOOKS.keys()


def test_the_example_trains_as_a_loop_in_plain_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of flair's model equal those of a hand-written loop."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    example = example.replace("max_epochs=2", "max_epochs=2, mini_batch_size=8, shuffle=False, learning_rate=0.2")
    model = make_trainer().model
    start = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.chdir(tmp_path)
    corpus = make_trainer().corpus
    exec(example, {"model": model, "corpus": corpus})
    events = read_events(Path("taggers/mine"))
    ours = [event.value for event in events if event.name == "train/batch_loss"]
    evaluated = [event.value for event in events if event.name == "dev/loss"]

    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses, dev_losses = [], []
    for _ in range(2):
        model.train()
        for first in range(0, len(corpus.train), 8):
            optimizer.zero_grad()
            loss, count = fresh_loss(model, [corpus.train[index] for index in range(first, first + 8)])
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append((loss / count).item())
        model.eval()
        with torch.no_grad():
            loss, count = fresh_loss(model, list(corpus.dev))
        dev_losses.append((loss / count).item())
    assert ours == losses
    assert evaluated == pytest.approx(dev_losses)


def fresh_loss(model: Any, sentences: list[Any]) -> tuple[torch.Tensor, int]:
    """Return the summed loss of sentences without embeddings of earlier steps, and what it is a sum over."""
    for sentence in sentences:
        sentence.clear_embeddings()
    loss, count = model.forward_loss(sentences)
    return loss, count
