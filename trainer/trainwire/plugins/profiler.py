"""Traces some steps with `torch.profiler`."""

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
    """Traces some steps on the CPU and the GPU with `torch.profiler`, and logs the path of the trace.

    The trace is `profile/steps-<first>-<last>-rank<r>.json.gz` in the run's folder; open it with
    https://ui.perfetto.dev or `chrome://tracing`. The profiler warms up in the step before the first one. The traced
    steps are slower, and the loop waits until the trace is written.

    Args:
        first: The first step to trace.
        steps: The number of steps to trace.
        memory: Whether to trace the allocation of memory.
        shapes: Whether to record the shapes of the operations' inputs.
        stacks: Whether to record the source location of each operation.

    Raises:
        OptionError: if `first` is below 2, which leaves no step for the warm-up, or `steps` is below 1.
    """

    essential = False

    def __init__(
        self, first: int = 10, steps: int = 3, *, memory: bool = False, shapes: bool = False, stacks: bool = False
    ) -> None:
        if first < 2 or steps < 1:
            raise OptionError(f"Profiler: first is {first} and steps is {steps}; they must be at least 2 and 1")
        self.first = first
        self.steps = steps
        self.memory = memory
        self.shapes = shapes
        self.stacks = stacks
        self._profile: profile | None = None

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        """Start the profiler in the step before the first one."""
        if self._profile is None and self.run.state.step + 1 == self.first - 1:
            self._profile = self._make_profile()
            self._profile.start()

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Advance the profiler, and stop it after the last step."""
        if self._profile is not None:
            self._profile.step()
            if batch.step >= self.first + self.steps - 1:
                self._stop()

    @hook("after_training_loop", "training_finally")
    def stop(self, ending: Payload) -> None:
        """Stop the profiler if the training ends before the last step."""
        self._stop()

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

    def _stop(self) -> None:
        if self._profile is not None:
            running, self._profile = self._profile, None
            running.stop()

    def _save(self, trace: profile) -> None:
        last = min(self.run.state.step, self.first + self.steps - 1)
        if last < self.first:  # the training ended during the warm-up
            return
        path = Path("profile", f"steps-{self.first}-{last}-rank{self.run.bus.rank}.json.gz")
        (self.run.folder / path).parent.mkdir(exist_ok=True)
        trace.export_chrome_trace(str(self.run.folder / path))
        logger.info("profiler: the trace of steps %d to %d is in %s", self.first, last, path)
