"""Records the speed of the training, and the share of time spent waiting for data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterTrainingBatch,
    BeforeTrainingBatch,
    BeforeTrainingEpoch,
)
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class Throughput(Plugin):
    """Records the speed of the training every `every` steps.

    - `throughput/samples_per_second`, including the time spent waiting for data
    - `throughput/data_share`, from 0 to 1: the share of the time spent waiting for the next batch
    - `throughput/step_seconds/p50`, `p90` and `p99`: percentiles of the time from the arrival of a batch to the end of
      its update, by nearest rank (definition 1 of Hyndman and Fan 1996, "Sample Quantiles in Statistical Packages")

    Evaluations are excluded. The GPU is not synchronized: the loop runs ahead of it until its queue is full, so the
    rate and the share are accurate over many steps, while the time of a single step is that of the processor.

    Args:
        every: The number of steps between records.
        clock: Returns the time in seconds.

    Raises:
        OptionError: if `every` is below 1.
    """

    essential = False

    def __init__(self, every: int = 100, clock: Callable[[], float] = time.perf_counter) -> None:
        if every < 1:
            raise OptionError(f"Throughput: every is {every}; it must be at least 1")
        self.every = every
        self._clock = clock
        self._last = 0.0
        self._reset()

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Start the first record."""
        self._reset()

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Exclude the time between epochs; a record may span two epochs."""
        self._elapsed()

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        """Add the time spent waiting for the batch."""
        self._waited += self._elapsed()

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Add the time of the step, and record after the last one."""
        self._steps.append(self._elapsed())
        self._samples += batch.samples
        if len(self._steps) == self.every:
            self._record()
            self._reset()

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Exclude the time of an evaluation between two steps."""
        self._elapsed()

    def _reset(self) -> None:
        self._steps: list[float] = []
        self._waited = 0.0
        self._samples = 0

    def _elapsed(self) -> float:
        """Return the seconds since the last call."""
        before, self._last = self._last, self._clock()
        return self._last - before

    def _record(self) -> None:
        seconds = max(1e-9, sum(self._steps) + self._waited)
        self.run.record(
            {
                "throughput/samples_per_second": self._samples / seconds,
                "throughput/data_share": self._waited / seconds,
                **{f"throughput/step_seconds/p{share}": percentile(self._steps, share) for share in (50, 90, 99)},
            }
        )


def percentile(values: Sequence[float], share: int) -> float:
    """Return the smallest value that is greater than or equal to at least `share` percent of the values."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]
