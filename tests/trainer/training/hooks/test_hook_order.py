"""`docs/add-a-plugin.md` matches the order and the payloads of the hooks."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import DOCS
from support.tiny_training import Recorder, corpus, linear, make_trainer, train
from torch import nn

from trainwire import ModelTrainer, Plugin
from trainwire.training.forward import Forward
from trainwire.training.hooks.payloads import (
    HOOKS,
    AfterEvaluation,
    BeforeEvaluation,
    BeforeTrainingBatch,
    MetricRecorded,
    Payload,
)

PAGE = (DOCS / "add-a-plugin.md").read_text()


def tables() -> list[list[list[str]]]:
    """Return the page's tables, each as a list of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


def expected_order(ending: str) -> list[str]:
    """Return the hooks in the order that the page's second table gives for an ending."""
    header, _, *rows = tables()[1]
    column = header.index(ending)
    order = {int(number): row[0] for row in rows for number in row[column].split(",") if number}
    assert sorted(order) == list(range(1, len(order) + 1))
    return [order[number] for number in sorted(order)]


def calls_of(recorder: Recorder) -> list[str]:
    """Return the recorder's calls in the notation of the page."""
    name_of = {kind: name for name, kind in HOOKS.items()}

    def written(payload: Payload) -> str:
        of_split = f" of {payload.split}" if isinstance(payload, (BeforeEvaluation, AfterEvaluation)) else ""
        return f"`{name_of[type(payload)]}`{of_split}"

    return [written(payload) for payload in recorder.calls if not isinstance(payload, MetricRecorded)]


def test_the_page_lists_each_hook_with_its_payload() -> None:
    """The first table lists the sixteen hooks in order, with the fields of their payloads."""
    rows = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in tables()[0][2:]}
    assert rows == {name: [field.name for field in dataclasses.fields(payload)] for name, payload in HOOKS.items()}


class FailingTrainer(ModelTrainer):
    def forward(self, batch: Any) -> Forward:
        raise ValueError("no such luck")


def nothing(trainer: ModelTrainer) -> None:
    """Let the training end normally."""


def stop(trainer: ModelTrainer) -> None:
    trainer.control.stop("enough")


def interrupt(trainer: ModelTrainer) -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_twice(trainer: ModelTrainer) -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("ending", "make", "at_first_batch", "error"),
    [
        ("normal end", make_trainer, nothing, None),
        ("stop", make_trainer, stop, None),
        ("Ctrl-C", make_trainer, interrupt, None),
        ("Ctrl-C twice", make_trainer, interrupt_twice, KeyboardInterrupt),
        ("exception", lambda: FailingTrainer(linear()), nothing, ValueError),
    ],
)
def test_hooks_are_called_in_the_order_of_the_page(
    tmp_path: Path,
    ending: str,
    make: Callable[[], ModelTrainer],
    at_first_batch: Callable[[ModelTrainer], None],
    error: type[BaseException] | None,
) -> None:
    """For each ending of a training, the hooks are called in the order of the second table."""
    recorder, trainer = Recorder(), make()

    @trainer.on("before_training_batch")
    def end(batch: BeforeTrainingBatch) -> None:
        if batch.number == 1:
            at_first_batch(trainer)

    def run() -> None:
        train(tmp_path, recorder, trainer=trainer, corpus=corpus(train=32), max_epochs=1)

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert calls_of(recorder) == expected_order(ending)


def test_the_pages_plugin_works(tmp_path: Path) -> None:
    """The example plugin has at most fifteen lines of code, and does what the page says."""
    source = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    assert sum(1 for line in source.splitlines() if line.strip() and '"""' not in line) <= 15
    names: dict[str, Any] = {}
    exec(source, names)
    plugin: Plugin = names["GradientNoise"](0.5)
    result = train(tmp_path / "noisy", plugin)
    assert [epoch["gradient_noise"] for epoch in result.history] == [0.5, 0.25]

    quiet, noisy = linear(), linear()
    train(tmp_path / "a", trainer=make_trainer(quiet))
    train(tmp_path / "b", names["GradientNoise"](), trainer=make_trainer(noisy))
    assert not torch.equal(quiet.weight, noisy.weight)


def test_the_pages_function_works(tmp_path: Path) -> None:
    """The example function stops a training."""
    source = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[2]
    trainer = make_trainer(nn.Linear(4, 2))
    names: dict[str, Any] = {"trainer": trainer}
    exec("from trainwire.training.hooks.payloads import AfterTrainingEpoch\n" + source, names)
    assert train(tmp_path, trainer=trainer, max_epochs=100, learning_rate=1.0).reason == "perfect"
