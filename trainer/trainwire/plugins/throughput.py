"""How fast the training is, and what it waits for."""

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
    """Records, every so many steps, how fast they were.

    - `throughput/samples_per_second`, the waiting for data included
    - `throughput/data_share`, from 0 to 1: the share of the time in which the loop waited for its next batch
    - `throughput/step_seconds/p50`, `p90` and `p99`: percentiles of the time from a batch's arrival to the end of its
      update, by nearest rank (definition 1 of Hyndman and Fan 1996, "Sample Quantiles in Statistical Packages")

    Evaluations do not count. A GPU is not waited for: while it works, the loop runs ahead until its queue is full, so
    that rate and share are right over many steps, and a single step's time is the processor's.

    Args:
        every: Steps that make one record.
        clock: Tells the time in seconds.

    Raises:
        OptionError: `every` is below 1.
    """

    essential = False

    def __init__(self, every: int = 100, clock: Callable[[], float] = time.perf_counter) -> None:
        if every < 1:
            raise OptionError(f"Throughput: every is {every}: it has to be at least 1")
        self.every = every
        self._clock = clock
        self._last = 0.0
        self._begin()

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        self._begin()

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:  # noqa: ARG002  # every hook has its payload
        """Go on with what the epoch before has left over, but leave out the time since then."""
        self._lap()

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:  # noqa: ARG002  # every hook has its payload
        """The batch was waited for until now."""
        self._waited += self._lap()

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """The step took until now."""
        self._steps.append(self._lap())
        self._samples += batch.samples
        if len(self._steps) == self.every:
            self._record()
            self._begin()

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:  # noqa: ARG002  # every hook has its payload
        """Go on after an evaluation between two steps."""
        self._lap()

    def _begin(self) -> None:
        self._steps: list[float] = []
        self._waited = 0.0
        self._samples = 0

    def _lap(self) -> float:
        """The seconds since the last call."""
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
    """The smallest of the values that at least `share` percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]
