"""Requests to the training by plugins, signals and commands, and how several processes agree on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trainwire.training.distributed.processes import LaggingMaximum
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ELSEWHERE: Final = "requested by another process"
"""The reason why a training stops if this process knows no other."""


@dataclass(slots=True)
class Requests:
    """What is requested of the training."""

    stop: bool = False
    interrupt: bool = False
    end_epoch: bool = False
    checkpoint: bool = False
    evaluate: bool = False
    pause: bool = False
    learning_rate: float = 0.0
    """The learning rate to set; 0 for no change."""
    skipped: int = 0
    """Batches and steps that this process has skipped so far; in a result, the maximum over all processes."""
    fewest_skipped: int = 0
    """In a result, the minimum over all processes."""
    omitted: int = 0
    """A checksum of the updates for which `forward_for` has returned None so far; in a result, the maximum."""
    least_omitted: int = 0
    """In a result, the minimum over all processes."""

    def numbers(self) -> list[float]:
        """Return the requests as numbers, of which processes that train together take the maximum."""
        flags = (self.stop, self.interrupt, self.end_epoch, self.checkpoint, self.evaluate, self.pause)
        counts = (self.skipped, -self.skipped, self.omitted, -self.omitted)
        return [*map(float, flags), self.learning_rate, *counts]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Requests:
        """Return the requests that `numbers` describes."""
        *flags, learning_rate, skipped, fewest_skipped, omitted, least_omitted = numbers
        stop, interrupt, end_epoch, checkpoint, evaluate, pause = map(bool, flags)
        return cls(
            stop, interrupt, end_epoch, checkpoint, evaluate, pause, learning_rate, int(skipped), -int(fewest_skipped),
            int(omitted), -int(least_omitted),
        )  # fmt: skip


class Control:
    """The requests to one training. Any thread may make one; the loop carries them out between two steps.

    Attributes:
        stop_reason: Why the training stops, once that is decided; else None.
        interrupted: Whether a signal stops it, once that is decided.
        signal: The name of the first signal that this process received, or None.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.interrupted = False
        self.signal: str | None = None
        self._reason = ELSEWHERE
        self._requested = Requests()
        self._decided = Requests()
        self._skips_batch = self._skips_step = False
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
        """Whether a signal was received, decided on or not."""
        return self.signal is not None

    def stop(self, reason: str) -> None:
        """Finish the step, close the epoch without evaluating it, and end the training.

        If this is called more than once, the first reason is kept.
        """
        self._stop(reason)
        self._changed.set()

    def interrupt(self, reason: str) -> None:
        """Stop, save a checkpoint, and set the run's status to "interrupted"; an evaluation is cut short."""
        # Called by signal handlers, so no lock is taken: the thread that they interrupt may hold it.
        self._requested.interrupt = True
        self.signal = self.signal or reason
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        if not self._requested.stop:
            self._reason, self._requested.stop = reason, True

    def end_epoch(self) -> None:
        """Finish the current step, evaluate, and continue with the next epoch."""
        self._requested.end_epoch = True

    def checkpoint(self) -> None:
        """Save a checkpoint after the current step, or at the end of the epoch if that is over."""
        self._requested.checkpoint = True

    def evaluate(self) -> None:
        """Evaluate after the current step."""
        self._requested.evaluate = True

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters after the current step."""
        self._requested.learning_rate = rate

    def pause(self) -> None:
        """Pause after the current step until `resume` or `stop` is called."""
        self._requested.pause = True

    def resume(self) -> None:
        """Continue after a pause."""
        self._requested.pause = False
        self._changed.set()

    def skip_batch(self) -> None:
        """Skip the batch announced by `before_training_batch`; with several processes, call it in each."""
        self._skips_batch = True

    def skip_step(self) -> None:
        """Skip the update announced by `before_training_optimizer_step`, which still counts as a step.

        With several processes, call it in each.
        """
        self._skips_step = True

    def send(self, command: Command) -> None:
        """Add a command, which the loop applies after the current step."""
        self._commands.append(command)
        self._changed.set()

    # The methods below are for the loop.

    def take_commands(self) -> list[Command]:
        """Return the commands added since the last call."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def start_epoch(self) -> None:
        """Discard a request to end the previous epoch."""
        self._requested.end_epoch = self._decided.end_epoch = False

    def decide(self, agree: Callable[[Requests], Requests | None]) -> Requests:
        """Put the requests that `agree` returns into effect, and return those to carry out now.

        Each request is returned once.

        Raises:
            UsageError: if the processes have not skipped the same batches and steps, or not made the same updates.
        """
        agreed = agree(self._requested)
        if agreed is None:
            return Requests()
        if agreed.skipped != agreed.fewest_skipped:
            raise UsageError("skip_batch or skip_step was called in one process and not in another: call it in each")
        if agreed.omitted != agreed.least_omitted:
            raise UsageError(
                "forward_for returned None for an optimizer in one process and not in another: return None in all of "
                "them, or in none"
            )
        self._decided = agreed
        # Clear what is carried out now; requests made after the agreement stay.
        if agreed.checkpoint:
            self._requested.checkpoint = False
        if agreed.evaluate:
            self._requested.evaluate = False
        if agreed.learning_rate == self._requested.learning_rate:
            self._requested.learning_rate = 0.0
        if agreed.interrupt and not self.interrupted:
            self.stop_reason, self.interrupted = self.signal or ELSEWHERE, True
        elif agreed.stop and self.stop_reason is None:
            self.stop_reason = self._reason
        return agreed

    def wait(self, timeout: float) -> None:
        """Wait until something new is requested, at most `timeout` seconds."""
        self._changed.wait(timeout)
        self._changed.clear()

    def take_skip_batch(self) -> bool:
        """Return whether to skip the announced batch, and clear the request."""
        skipped, self._skips_batch = self._skips_batch, False
        self._requested.skipped += skipped
        return skipped

    def omit_update(self, step: int, optimizer: int) -> None:
        """Note that an optimizer, of this number, makes no update in a step: the same ones in all processes."""
        self._requested.omitted = hash((self._requested.omitted, step, optimizer)) % 2**32

    def take_skip_step(self) -> bool:
        """Return whether to skip the announced update, and clear the request."""
        skipped, self._skips_step = self._skips_step, False
        self._requested.skipped += skipped
        return skipped


class Agreement:
    """Combines the requests of all processes; a single process gets its own back at once.

    Every process must call `after_step` after each of its steps.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self._maximum = None if group is None else LaggingMaximum(group)

    def after_step(self, requests: Requests) -> Requests | None:
        """Return what any process requested `LAG` steps ago; None between two results."""
        if self._maximum is None:
            return Requests.of_numbers(requests.numbers())
        numbers = self._maximum.after_step(requests.numbers())
        return None if numbers is None else Requests.of_numbers(numbers)

    def now(self, requests: Requests) -> Requests:
        """Return what any process requests now; every process waits here for the others."""
        if self._maximum is None:
            return Requests.of_numbers(requests.numbers())
        if self._maximum.is_pending:
            self._maximum.result()  # what was requested then is still requested
        self._maximum.start(requests.numbers())
        return Requests.of_numbers(self._maximum.result())
