"""The progress of a training: its epoch, its speed and the estimated remaining time."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 30.0
"""The speed is the mean over this time."""

SAMPLE_SECONDS: Final = 0.5
"""Shortest interval between two samples of the speed."""


class TrainingProgress:
    """Follows the steps and epochs of one rank by its events. Walltimes are in seconds since the epoch."""

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.max_epochs: int | None = None
        self._batches: int | None = None
        self._first_step_of_epoch = 0
        self._steps_per_epoch: int | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(WINDOW_SECONDS / SAMPLE_SECONDS) + 1)
        self._origin: tuple[float, float] | None = None
        """Walltime and fraction from which the remaining time is estimated."""
        self._walltime = 0.0
        self._step = 0

    def begin_attempt(self, step: int, walltime: float) -> None:
        """Record that a process has begun to train; the speed of earlier processes no longer counts."""
        self._samples.clear()
        self._origin = None
        self.advance(step, walltime)

    def advance(self, step: int, walltime: float) -> None:
        """Record that the training has reached a step."""
        self._step, self._walltime = step, walltime
        if self._samples and step < self._samples[-1][1]:
            self._samples.clear()
        if not self._samples or walltime - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((walltime, step))
        while walltime - self._samples[0][0] > WINDOW_SECONDS and len(self._samples) > 1:
            self._samples.popleft()

    def begin_epoch(self, epoch: int, max_epochs: int | None, batches: int | None) -> None:
        """Record that an epoch has begun at the current step, or continues if it is the current one."""
        if epoch != self.epoch or self._step < self._first_step_of_epoch:
            self._first_step_of_epoch = self._step
        self.epoch, self.max_epochs, self._batches = epoch, max_epochs, batches
        if self._origin is None and self.fraction is not None:
            self._origin = (self._walltime, self.fraction)

    def end_epoch(self, *, is_complete: bool) -> None:
        """Record that the epoch is over; the next one is assumed to have as many steps."""
        if is_complete:
            self._steps_per_epoch = self._step - self._first_step_of_epoch or None

    @property
    def steps_per_second(self) -> float | None:
        """Mean speed over the last 30 s; None if it is unknown."""
        if not self._samples:
            return None
        walltime, step = self._samples[0]
        seconds = self._walltime - walltime
        return (self._step - step) / seconds if seconds > 0 and self._step > step else None

    @property
    def fraction(self) -> float | None:
        """The fraction of all epochs that is done, from 0 to 1; None if the number of epochs is unknown."""
        if self.epoch is None or not self.max_epochs:
            return None
        steps = self._steps_per_epoch or self._batches
        of_epoch = min(1.0, max(0.0, (self._step - self._first_step_of_epoch) / steps)) if steps else 0.0
        return min(1.0, max(0.0, (self.epoch - 1 + of_epoch) / self.max_epochs))

    @property
    def seconds_left(self) -> float | None:
        """Estimated time for the remaining epochs, from those that this process has trained; None if unknown."""
        if self._origin is None or self.fraction is None:
            return None
        walltime, fraction = self._origin
        done, seconds = self.fraction - fraction, self._walltime - walltime
        return seconds * (1 - self.fraction) / done if done > 0 and seconds > 0 else None
