"""How fast a training is, how far it has got, and when it will be done."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 30.0
"""The speed that is told is that of so long a time."""

SAMPLE_SECONDS: Final = 0.5
"""Steps closer together than this count as one sample."""


class Pace:
    """Follows the steps and epochs of one rank by the walltimes of its events, in seconds since the epoch."""

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.max_epochs: int | None = None
        self._batches: int | None = None
        self._epoch_begun_at = 0
        self._steps_per_epoch: int | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(WINDOW_SECONDS / SAMPLE_SECONDS) + 1)
        self._origin: tuple[float, float] | None = None
        self._now = 0.0
        self._step = 0

    def begin(self, step: int, walltime: float) -> None:
        """A process has begun to train: what took time before says nothing of now."""
        self._samples.clear()
        self._origin = None
        self.advance(step, walltime)

    def advance(self, step: int, walltime: float) -> None:
        """A step was reached."""
        self._step, self._now = step, walltime
        if self._samples and step < self._samples[-1][1]:
            self._samples.clear()
        if not self._samples or walltime - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((walltime, step))
        while walltime - self._samples[0][0] > WINDOW_SECONDS and len(self._samples) > 1:
            self._samples.popleft()

    def begin_epoch(self, epoch: int, max_epochs: int | None, batches: int | None) -> None:
        """An epoch has begun at the present step, or goes on if it is the present one and was interrupted."""
        if epoch != self.epoch or self._step < self._epoch_begun_at:
            self._epoch_begun_at = self._step
        self.epoch, self.max_epochs, self._batches = epoch, max_epochs, batches
        if self._origin is None and self.fraction is not None:
            self._origin = (self._now, self.fraction)

    def end_epoch(self, *, is_complete: bool) -> None:
        """The epoch is over; how many steps it had says how many the next will have."""
        if is_complete:
            self._steps_per_epoch = self._step - self._epoch_begun_at or None

    @property
    def steps_per_second(self) -> float | None:
        """Steps a second over the last half minute; None as long as there is too little to tell."""
        if not self._samples:
            return None
        walltime, step = self._samples[0]
        seconds = self._now - walltime
        return (self._step - step) / seconds if seconds > 0 and self._step > step else None

    @property
    def fraction(self) -> float | None:
        """The share of all epochs that is done, from 0 to 1; None if nobody said how many there will be."""
        if self.epoch is None or not self.max_epochs:
            return None
        steps = self._steps_per_epoch or self._batches
        within = min(1.0, max(0.0, (self._step - self._epoch_begun_at) / steps)) if steps else 0.0
        return min(1.0, max(0.0, (self.epoch - 1 + within) / self.max_epochs))

    @property
    def seconds_left(self) -> float | None:
        """How long the epochs that are left will take if they go as those that this process has done."""
        if self._origin is None or self.fraction is None:
            return None
        begun, was_done = self._origin
        done, seconds = self.fraction - was_done, self._now - begun
        return seconds * (1 - self.fraction) / done if done > 0 and seconds > 0 else None
