"""A trace of a few steps."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch, Payload
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class Profiler(Plugin):
    """Traces some steps with `torch.profiler`, and says in the log where the trace is.

    The trace, of processor and GPU, is `profile/steps-<first>-<last>-rank<r>.json.gz` in the run's folder, for
    https://ui.perfetto.dev or `chrome://tracing`. The step before the first one warms the profiler up. The steps that
    are traced are slower, and the loop waits until the trace is written.

    Args:
        first: The first step to trace.
        steps: How many to trace.
        memory: Whether to trace what memory is taken and given back.
        shapes: Whether to note the shapes of what operations are given.
        stacks: Whether to note where in the source operations are called.

    Raises:
        OptionError: `first` is below 2, as there is no step before it, or `steps` below 1.
    """

    essential = False

    def __init__(
        self, first: int = 10, steps: int = 3, *, memory: bool = False, shapes: bool = False, stacks: bool = False
    ) -> None:
        if first < 2 or steps < 1:
            raise OptionError(f"Profiler: first is {first} and steps is {steps}: they have to be at least 2 and 1")
        self.first = first
        self.steps = steps
        self.memory = memory
        self.shapes = shapes
        self.stacks = stacks
        self._profile: profile | None = None

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:  # noqa: ARG002  # every hook has its payload
        """Start, a step before the first one."""
        if self._profile is None and self.run.state.step + 1 == self.first - 1:
            self._profile = self._make_profile()
            self._profile.start()

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Count the step, and end after the last one."""
        if self._profile is not None:
            self._profile.step()
            if batch.step >= self.first + self.steps - 1:
                self._end()

    @hook("after_training_loop", "training_finally")
    def end(self, ending: Payload) -> None:  # noqa: ARG002  # every hook has its payload
        """End, if the training does so earlier."""
        self._end()

    def _make_profile(self) -> profile:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        return profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=self.steps, repeat=1),
            on_trace_ready=self._save,
            profile_memory=self.memory,
            record_shapes=self.shapes,
            with_stack=self.stacks,
        )

    def _end(self) -> None:
        if self._profile is not None:
            ending, self._profile = self._profile, None
            ending.stop()

    def _save(self, traced: profile) -> None:
        last = min(self.run.state.step, self.first + self.steps - 1)
        if last < self.first:  # it ended while the profiler was warming up
            return
        path = Path("profile", f"steps-{self.first}-{last}-rank{self.run.bus.rank}.json.gz")
        (self.run.folder / path).parent.mkdir(exist_ok=True)
        traced.export_chrome_trace(str(self.run.folder / path))
        logger.info("profiler: steps %d to %d are traced in %s", self.first, last, path)
