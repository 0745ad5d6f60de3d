"""What plugins and signals want of the training: intentions that the loop acts on once a step is finished."""

from __future__ import annotations


class Control:
    """A run's intentions. Any thread may set one; the loop looks at them in one place.

    Attributes:
        stop_reason: Why the training is to stop, or None.
        interrupted: Whether a signal, not a plugin, wants it to stop.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.interrupted = False
        self._epoch_ends = False
        self._batch_is_skipped = False
        self._step_is_skipped = False

    @property
    def stopping(self) -> bool:
        """Whether the training is to stop after the current step."""
        return self.stop_reason is not None

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch is to end after the current step."""
        return self._epoch_ends or self.stop_reason is not None

    def stop(self, reason: str) -> None:
        """Finish the step, close the epoch without evaluating it, and end the training; the first reason counts."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def interrupt(self, reason: str) -> None:
        """Stop as for `stop`, and let the run's status be "interrupted"."""
        self.stop(reason)
        self.interrupted = True

    def end_epoch(self) -> None:
        """Finish the current step, evaluate, and go on with the next epoch."""
        self._epoch_ends = True

    def skip_batch(self) -> None:
        """Leave out the batch that `before_training_batch` announces."""
        self._batch_is_skipped = True

    def skip_step(self) -> None:
        """Leave out the update that `before_training_optimizer_step` announces; it counts as a step."""
        self._step_is_skipped = True

    def start_epoch(self) -> None:
        """Forget what was wanted of the epoch before."""
        self._epoch_ends = False

    def take_skip_batch(self) -> bool:
        """Whether the announced batch is to be left out; asking clears it."""
        skipped, self._batch_is_skipped = self._batch_is_skipped, False
        return skipped

    def take_skip_step(self) -> bool:
        """Whether the announced update is to be left out; asking clears it."""
        skipped, self._step_is_skipped = self._step_is_skipped, False
        return skipped
