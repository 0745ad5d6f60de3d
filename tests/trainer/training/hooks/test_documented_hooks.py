"""The hooks shown in the documentation survive every ending of a training."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import DOCS, ROOT
from support.tiny_training import corpus, make_trainer, train
from torch import nn

from trainwire import ModelTrainer, Plugin, hook
from trainwire.training.hooks.payloads import HOOKS, AfterTrainingBatch, AfterTrainingEpoch, EpochMetrics

PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
SNIPPETS = [
    (page.name, snippet)
    for page in PAGES
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if "@trainer.on(" in snippet or "@hook" in snippet
]


def attach(snippet: str, trainer: ModelTrainer) -> list[Plugin]:
    """Run a snippet with its trainer, and return instances of the plugins that it defines."""
    names = {
        "trainer": trainer,
        "nn": nn,
        "Plugin": Plugin,
        "hook": hook,
        **{kind.__name__: kind for kind in HOOKS.values()},
    }
    before = set(names)
    exec(snippet, names)
    made = [value for name, value in names.items() if name not in before]
    return [value() for value in made if isinstance(value, type) and issubclass(value, Plugin)]


def go_on() -> None:
    """Let the training end normally."""


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise ZeroDivisionError


def test_the_pages_show_hooks() -> None:
    """README and the page on plugins show hooks, so that the test below tests something."""
    assert {"README.md", "add-a-plugin.md"} <= {name for name, _ in SNIPPETS}


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (go_on, "finished"),
        ("stop", "finished"),
        (interrupt, "interrupted"),
        (interrupt_twice, KeyboardInterrupt),
        (fail, ZeroDivisionError),
    ],
)
@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_a_documented_hook_survives_every_ending(
    tmp_path: Path,
    page: str,
    snippet: str,
    action: Callable[[], None] | str,
    outcome: str | type[BaseException],
) -> None:
    """The training ends as it would without the hook: at its last epoch, by a stop, by Ctrl-C, or by an exception."""
    trainer = make_trainer()
    plugins = attach(snippet, trainer)

    @trainer.on("after_training_batch", once=4)
    def end(batch: AfterTrainingBatch) -> None:
        if callable(action):
            action()
        else:
            trainer.control.stop("enough")

    def run() -> str:
        return train(tmp_path, *plugins, trainer=trainer).status

    if isinstance(outcome, str):
        assert run() == outcome
    else:
        with pytest.raises(outcome):
            run()


def test_metrics_of_an_epoch_that_was_cut_short_are_nan(tmp_path: Path) -> None:
    """In a stopped epoch the metrics of evaluated splits read as NaN, for hooks and in the result's history."""
    trainer, seen = make_trainer(), []

    @trainer.on("after_training_batch", once=4)
    def stop(batch: AfterTrainingBatch) -> None:
        trainer.control.stop("enough")

    @trainer.on("after_training_epoch")
    def keep(epoch: AfterTrainingEpoch) -> None:
        seen.append((epoch.complete, epoch.metrics["dev/accuracy"], "dev/accuracy" in epoch.metrics))

    result = train(tmp_path, trainer=trainer, corpus=corpus())
    assert [(complete, math.isnan(value), present) for complete, value, present in seen] == [
        (True, False, True), (False, True, False),
    ]  # fmt: skip
    assert [math.isnan(metrics["dev/loss"]) for metrics in result.history] == [False, True]
    assert all(math.isfinite(metrics["train/loss"]) for metrics in result.history)


def test_an_unknown_metric_is_an_error_that_lists_the_names() -> None:
    """A name that no evaluation measures, or that a finished one did not, raises KeyError with the known names."""
    cut = EpochMetrics({"train/loss": 1.0}, ["dev"])
    whole = EpochMetrics({"train/loss": 1.0, "dev/loss": 2.0}, ["dev"])
    with pytest.raises(KeyError, match=r"accuracy: the metrics of this epoch are train/loss"):
        cut["accuracy"]
    with pytest.raises(KeyError, match=r"dev/accuracy: the metrics of this epoch are dev/loss, train/loss"):
        whole["dev/accuracy"]
    assert cut.get("dev/loss") is None
