"""The plugin that records the speed of the training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gpu_waits import fail_on_gpu_wait
from support.run_reader import read_events
from support.tiny_training import points, train
from torch.utils.data import DataLoader

from trainwire import Plugin, hook
from trainwire.plugins.throughput import Throughput, percentile
from trainwire.training.hooks.payloads import AfterEvaluation, BeforeEvaluation, BeforeTrainingOptimizerStep
from trainwire_protocol.errors import OptionError


class Clock:
    """A clock that is advanced by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(Plugin):
    """Takes n seconds for the nth step, and 200 for an evaluation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        self.clock.now += step.step

    @hook("before_evaluation", "after_evaluation")
    def evaluate(self, evaluation: BeforeEvaluation | AfterEvaluation) -> None:
        self.clock.now += 100


class SlowLoader(DataLoader[object]):
    """Takes two seconds for each batch."""

    clock: Clock

    def __iter__(self) -> Iterator[object]:  # type: ignore[override]  # torch's is narrower
        for batch in super().__iter__():
            self.clock.now += 2
            yield batch


def recorded(folder: Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, event.name.removeprefix("throughput/"), event.value)
        for event in read_events(folder)
        if event.name.startswith("throughput/")
    ]


def test_rate_data_share_and_percentiles_are_recorded(tmp_path: Path) -> None:
    """Every four steps are a record, even across epochs; evaluations are excluded."""
    clock = Clock()
    loader = SlowLoader(points(15), 5)
    loader.clock = clock
    plugin = fail_on_gpu_wait(Throughput(every=4, clock=clock))
    train(tmp_path, plugin, Slow(clock), train=loader, dev=points(4), max_epochs=3)
    seconds = [1 + 2 + 3 + 4 + 8, 5 + 6 + 7 + 8 + 8]
    assert recorded(tmp_path) == [
        (4, "samples_per_second", 20 / seconds[0]), (4, "data_share", 8 / seconds[0]),
        (4, "step_seconds/p50", 2), (4, "step_seconds/p90", 4), (4, "step_seconds/p99", 4),
        (8, "samples_per_second", 20 / seconds[1]), (8, "data_share", 8 / seconds[1]),
        (8, "step_seconds/p50", 6), (8, "step_seconds/p90", 8), (8, "step_seconds/p99", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "expected"), [(50, 50), (90, 90), (99, 99), (1, 1), (100, 100)])
def test_a_percentile_is_one_of_the_values(share: int, expected: float) -> None:
    """A percentile is chosen by nearest rank; all percentiles of a single value are that value."""
    assert percentile(range(100, 0, -1), share) == expected
    assert percentile([7.0], share) == 7.0


def test_an_interval_below_one_is_refused() -> None:
    """An interval of 0 steps raises OptionError."""
    with pytest.raises(OptionError, match="every is 0"):
        Throughput(every=0)
