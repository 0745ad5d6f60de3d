"""What plugins, signals and commands want of the training: intentions that the loop acts on once a step is finished."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody outside wants, as it came over the wire."""

    id: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Control:
    """A run's intentions. Any thread may set one; the loop decides on them in one place (`acting.py`).

    Attributes:
        stop_reason: Why the training stops, or None; decided.
        interrupted: Whether a signal, not a plugin, stops it; decided.
        is_signalled: Whether a signal has come, decided on or not.
        paused: Whether the training is to wait.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.interrupted = self.is_signalled = self.paused = False
        self._wished_reason: str | None = None
        self._epoch_ends = self._wished_end_of_epoch = False
        self._batch_is_skipped = self._step_is_skipped = False
        self._wants_checkpoint = self._wants_evaluation = False
        self._commands: deque[Command] = deque()
        self._changed = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the training stops after the current step."""
        return self.stop_reason is not None

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch ends after the current step."""
        return self._epoch_ends or self.stopping

    def stop(self, reason: str) -> None:
        """Finish the step, close the epoch without evaluating it, and end the training; the first reason counts."""
        if self._wished_reason is None:
            self._wished_reason = reason
        self._changed.set()

    def interrupt(self, reason: str) -> None:
        """Stop as for `stop`, save a checkpoint, and let the run's status be "interrupted"."""
        self.is_signalled = True
        self.stop(reason)

    def end_epoch(self) -> None:
        """Finish the current step, evaluate, and go on with the next epoch."""
        self._wished_end_of_epoch = True

    def skip_batch(self) -> None:
        """Leave out the batch that `before_training_batch` announces; with several processes, in all of them."""
        self._batch_is_skipped = True

    def skip_step(self) -> None:
        """Leave out the update that `before_training_optimizer_step` announces; it counts as a step."""
        self._step_is_skipped = True

    def checkpoint(self) -> None:
        """Save a checkpoint after the current step, or after the epoch if that is over."""
        self._wants_checkpoint = True

    def evaluate(self) -> None:
        """Evaluate after the current step."""
        self._wants_evaluation = True

    def pause(self) -> None:
        """Wait after the current step until `resume` or `stop`."""
        self.paused = True

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._changed.set()

    def send(self, command: Command) -> None:
        """Hand in a command from outside."""
        self._commands.append(command)
        self._changed.set()

    def wait(self, timeout: float) -> None:
        """Wait until something new is wanted; for the loop, while it is paused."""
        self._changed.wait(timeout)
        self._changed.clear()

    def start_epoch(self) -> None:
        """Forget what was wanted of the epoch before."""
        self._epoch_ends = self._wished_end_of_epoch = False

    def decide(self) -> None:
        """Let count from now on what was wanted so far. For the loop."""
        self._epoch_ends = self._wished_end_of_epoch
        if self.stop_reason is None:
            self.stop_reason = self._wished_reason
            self.interrupted = self.stopping and self.is_signalled

    def take_commands(self) -> list[Command]:
        """The commands that came since they were taken last."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def take_checkpoint(self) -> bool:
        """Whether a checkpoint is wanted; asking clears it."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted

    def take_evaluation(self) -> bool:
        """Whether an evaluation is wanted; asking clears it."""
        wanted, self._wants_evaluation = self._wants_evaluation, False
        return wanted

    def take_skip_batch(self) -> bool:
        """Whether the announced batch is to be left out; asking clears it."""
        skipped, self._batch_is_skipped = self._batch_is_skipped, False
        return skipped

    def take_skip_step(self) -> bool:
        """Whether the announced update is to be left out; asking clears it."""
        skipped, self._step_is_skipped = self._step_is_skipped, False
        return skipped
