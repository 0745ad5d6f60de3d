"""What plugins, signals and commands want of the training: intentions that the loop acts on once a step is finished."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import distributed

from trainwire.training.optimizers import Scheduler
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from trainwire.training.run import TrainingRun


@dataclass(slots=True)
class Requests:
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
    def of_numbers(cls, numbers: Sequence[float]) -> Requests:
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
        self._wished = Requests()
        self._decided = Requests()
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

    def decide(self, agree: Callable[[Requests], Requests | None]) -> Requests:
        """For the loop: let count from now on what was wanted so far, as far as `agree` says that all want it.

        The result is what is to be done at once; it is asked for once.

        Raises:
            UsageError: the processes have not left out the same batches and steps.
        """
        agreed = agree(self._wished)
        if agreed is None:
            return Requests()
        if agreed.skipped != agreed.fewest_skipped:
            raise UsageError("skip_batch or skip_step was called in one process and not in another: call it in each")
        self._decided = agreed
        self._forget(agreed)
        if agreed.stop and self.stop_reason is None:
            self.stop_reason, self.interrupted = self._reason, agreed.interrupt
        return agreed

    def _forget(self, done: Requests) -> None:
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


def apply_command(run: TrainingRun, command: Command) -> None:
    """Turn a command into an intention, or refuse it; either is said on the wire."""
    about = {"id": command.id, "verb": command.verb}
    try:
        action = _ACTIONS.get(command.verb)
        if action is None:
            raise UsageError(f"there is no command {command.verb!r:.60}; the commands are {', '.join(_ACTIONS)}")
        action(run, command.arguments)
    except UsageError as error:
        run.publish("command/rejected", {**about, "reason": str(error)})
    else:
        run.publish("command/applied", about)


def _stop(run: TrainingRun, arguments: Mapping[str, Any]) -> None:
    run.control.stop(str(arguments.get("reason", "stopped by a command"))[:1000])


def _checkpoint(run: TrainingRun, _: Mapping[str, Any]) -> None:
    if run.checkpointer is None:
        raise UsageError("nothing here saves checkpoints: attach the plugin Checkpoints")
    run.control.checkpoint()


def _evaluate(run: TrainingRun, _: Mapping[str, Any]) -> None:
    if not run.watched_splits:
        raise UsageError("there is no split to evaluate")
    run.control.evaluate()


def _pause(run: TrainingRun, _: Mapping[str, Any]) -> None:
    run.control.pause()


def _resume(run: TrainingRun, _: Mapping[str, Any]) -> None:
    run.control.resume()


def _set(run: TrainingRun, arguments: Mapping[str, Any]) -> None:
    if set(arguments) != {"learning_rate"}:
        raise UsageError("what can be set is learning_rate, and nothing else")
    rate = arguments["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise UsageError(f"learning_rate is {rate!r:.60}: it has to be a number above 0")
    for plugin in run.plugins:
        if isinstance(plugin, Scheduler) and plugin.sets_each_step:
            raise UsageError(f"{type(plugin).__name__} sets the learning rate at each step")
    run.control.set_learning_rate(float(rate))


_ACTIONS: Final[dict[str, Callable[[TrainingRun, Mapping[str, Any]], None]]] = {
    "stop": _stop, "checkpoint": _checkpoint, "evaluate": _evaluate, "pause": _pause, "resume": _resume, "set": _set,
}  # fmt: skip


LAG: Final = 4
"""Steps between asking and knowing. By then the answer is there: waiting for it at once would cost time each step,
and with NCCL a synchronisation of the GPU, so the processes talk in a gloo group of their own."""


class Agreement:
    """Finds out what any of the processes wants; with one process, what it wants itself, at once.

    Each process has to ask after each of its steps.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self._group = group
        self._work: Any = None
        self._numbers = torch.zeros(0)
        self._age = 0

    def after_step(self, wishes: Requests) -> Requests | None:
        """What was wanted anywhere `LAG` steps ago; None between two answers."""
        if self._group is None:
            return Requests.of_numbers(wishes.numbers())
        if self._work is None:
            self._ask(wishes)
        self._age += 1
        return self._answer() if self._age > LAG else None

    def now(self, wishes: Requests) -> Requests:
        """What is wanted anywhere: every process waits for the others here, as at the end of an epoch."""
        if self._group is None:
            return Requests.of_numbers(wishes.numbers())
        if self._work is not None:
            self._answer()  # whoever wanted that wants it still
        self._ask(wishes)
        return self._answer()

    def _ask(self, wishes: Requests) -> None:
        self._numbers, self._age = torch.tensor(wishes.numbers(), dtype=torch.float64), 0
        maximum = distributed.ReduceOp.MAX
        self._work = distributed.all_reduce(self._numbers, maximum, group=self._group, async_op=True)

    def _answer(self) -> Requests:
        self._work.wait()
        self._work = None
        return Requests.of_numbers(self._numbers.tolist())
