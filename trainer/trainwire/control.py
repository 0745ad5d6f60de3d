"""What plugins, signals and commands want of the training: intentions that the loop acts on once a step is finished."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainwire_protocol.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody outside wants, as it came over the wire."""

    id: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Wishes:
    """What is wanted and not decided yet."""

    stop: bool = False
    interrupt: bool = False
    end_epoch: bool = False
    checkpoint: bool = False
    evaluate: bool = False
    pause: bool = False
    learning_rate: float = 0.0
    """What it is to be set to; 0: it stays."""
    skipped: int = 0
    """Batches and steps that this process has left out so far."""
    fewest_skipped: int = 0
    """In an answer: of several processes, those of the one that has left out the fewest."""

    def numbers(self) -> list[float]:
        """As numbers, of which processes that train together take the largest."""
        flags = (self.stop, self.interrupt, self.end_epoch, self.checkpoint, self.evaluate, self.pause)
        return [*map(float, flags), self.learning_rate, self.skipped, -self.skipped]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Wishes:
        """What `numbers` gave."""
        *flags, learning_rate, most, fewest = numbers
        wishes = cls(learning_rate=learning_rate, skipped=int(most), fewest_skipped=-int(fewest))
        wishes.stop, wishes.interrupt, wishes.end_epoch, wishes.checkpoint, wishes.evaluate, wishes.pause = map(
            bool, flags
        )
        return wishes


class Control:
    """A run's intentions. Any thread may set one; the loop decides on them in one place (`acting.py`).

    Attributes:
        stop_reason: Why the training stops, or None; decided.
        interrupted: Whether a signal, not a plugin, stops it; decided.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.interrupted = False
        self._reason = "another process asked for it"
        self._wished = Wishes()
        self._decided = Wishes()
        self._batch_is_skipped = self._step_is_skipped = False
        self._commands: deque[Command] = deque()
        self._changed = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the training stops after the current step."""
        return self.stop_reason is not None

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch ends after the current step."""
        return self._decided.end_epoch or self.stopping

    @property
    def is_signalled(self) -> bool:
        """Whether a signal has come, decided on or not."""
        return self._wished.interrupt

    def stop(self, reason: str) -> None:
        """Finish the step, close the epoch without evaluating it, and end the training; the first reason counts."""
        self._stop(reason)
        self._changed.set()

    def interrupt(self, reason: str) -> None:
        """Stop as for `stop`, save a checkpoint, and let the run's status be "interrupted"."""
        # For signal handlers, so no lock is taken: the thread that they interrupt may hold it.
        self._wished.interrupt = True
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        if not self._wished.stop:
            self._reason, self._wished.stop = reason, True

    def end_epoch(self) -> None:
        """Finish the current step, evaluate, and go on with the next epoch."""
        self._wished.end_epoch = True

    def checkpoint(self) -> None:
        """Save a checkpoint after the current step, or after the epoch if that is over."""
        self._wished.checkpoint = True

    def evaluate(self) -> None:
        """Evaluate after the current step."""
        self._wished.evaluate = True

    def set_learning_rate(self, rate: float) -> None:
        """Give all parameters this learning rate after the current step."""
        self._wished.learning_rate = rate

    def pause(self) -> None:
        """Wait after the current step until `resume` or `stop`."""
        self._wished.pause = True

    def resume(self) -> None:
        """Go on."""
        self._wished.pause = False
        self._changed.set()

    def skip_batch(self) -> None:
        """Leave out the batch that `before_training_batch` announces; with several processes, in each of them."""
        self._batch_is_skipped = True

    def skip_step(self) -> None:
        """Leave out the update that `before_training_optimizer_step` announces; it counts as a step.

        With several processes, in each of them.
        """
        self._step_is_skipped = True

    def send(self, command: Command) -> None:
        """Hand in a command from outside."""
        self._commands.append(command)
        self._changed.set()

    def take_commands(self) -> list[Command]:
        """For the loop: the commands that came since they were taken last."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def start_epoch(self) -> None:
        """For the loop: forget what was wanted of the epoch before."""
        self._wished.end_epoch = self._decided.end_epoch = False

    def decide(self, agree: Callable[[Wishes], Wishes | None]) -> Wishes:
        """For the loop: let count from now on what was wanted so far, as far as `agree` says that all want it.

        The result is what is to be done at once; it is asked for once.

        Raises:
            UsageError: the processes have not left out the same batches and steps.
        """
        agreed = agree(self._wished)
        if agreed is None:
            return Wishes()
        if agreed.skipped != agreed.fewest_skipped:
            raise UsageError("skip_batch or skip_step was called in one process and not in another: call it in each")
        self._decided = agreed
        self._forget(agreed)
        if agreed.stop and self.stop_reason is None:
            self.stop_reason, self.interrupted = self._reason, agreed.interrupt
        return agreed

    def _forget(self, done: Wishes) -> None:
        """No longer want what is done now; what came since it was agreed on is still to be asked for."""
        if done.checkpoint:
            self._wished.checkpoint = False
        if done.evaluate:
            self._wished.evaluate = False
        if done.learning_rate == self._wished.learning_rate:
            self._wished.learning_rate = 0.0

    def wait(self, timeout: float) -> None:
        """For the loop while it is paused: wait until something new is wanted."""
        self._changed.wait(timeout)
        self._changed.clear()

    def take_skip_batch(self) -> bool:
        """Whether the announced batch is to be left out; asking clears it."""
        skipped, self._batch_is_skipped = self._batch_is_skipped, False
        return self._counted(skipped)

    def take_skip_step(self) -> bool:
        """Whether the announced update is to be left out; asking clears it."""
        skipped, self._step_is_skipped = self._step_is_skipped, False
        return self._counted(skipped)

    def _counted(self, skipped: bool) -> bool:
        self._wished.skipped += skipped
        return skipped
