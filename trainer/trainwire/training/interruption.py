"""Reading that a signal interrupts: that of an evaluation, for example, in one process or in several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from trainwire.training.control import Control
from trainwire.training.distributed.processes import LaggingMaximum, Processes
from trainwire_protocol.errors import InterruptedReadingError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LOADER_ERRORS: Final = (RuntimeError, OSError, EOFError)
"""What a loader raises if one of its workers has ended."""

Item = TypeVar("Item")


class Interruptible(Protocol):
    """What can be interrupted, such as a training."""

    @property
    def control(self) -> Control:
        """Has noted whether a signal arrived."""

    @property
    def processes(self) -> Processes:
        """The processes that are interrupted together."""


def until_interrupted(run: Interruptible, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, such as the batches of an evaluation, until a signal arrives and there are more of them.

    Several processes end after the same round of agreement, even if they have different numbers of items.

    Raises:
        InterruptedReadingError: if a signal arrived, in any of the processes, before all items were read.
    """
    rounds = Rounds(run.control, run.processes.group)
    try:
        for item in items:
            rounds.before_item()
            yield item
    except LOADER_ERRORS as error:
        if not run.control.is_signalled:
            raise
        rounds.finish(is_unfinished=True)
        raise InterruptedReadingError("a worker of the loader was ended by the signal") from error
    rounds.finish(is_unfinished=False)


class Rounds:
    """Lets processes that read different numbers of items agree on whether a signal has arrived.

    A round is one reduction of a `LaggingMaximum`. A process that has read all its items takes part in further rounds
    until every process has.
    """

    def __init__(self, control: Control, group: ProcessGroup | None) -> None:
        self._control = control
        self._maximum = None if group is None else LaggingMaximum(group)

    def before_item(self) -> None:
        """Raise InterruptedReadingError if a signal has arrived."""
        if self._maximum is None:
            self._check(self._control.is_signalled)
        elif (result := self._maximum.after_step(self._numbers(is_unfinished=True))) is not None:
            self._read(result)

    def finish(self, *, is_unfinished: bool) -> None:
        """Wait until every process has read its items; raise InterruptedReadingError if a signal has arrived before.

        Args:
            is_unfinished: Whether this process cannot read all of them, because the signal ended its loader.
        """
        if self._maximum is None:
            return
        is_any_unfinished = True
        while is_any_unfinished:
            if not self._maximum.is_pending:
                self._maximum.start(self._numbers(is_unfinished=is_unfinished))
            is_any_unfinished = self._read(self._maximum.result())

    def _numbers(self, *, is_unfinished: bool) -> list[float]:
        return [float(self._control.is_signalled), float(is_unfinished)]

    def _read(self, result: Sequence[float]) -> bool:
        """Return whether a process has not read all its items, as the result of a round says."""
        is_signalled, is_unfinished = map(bool, result)
        self._check(is_signalled and is_unfinished)
        return is_unfinished

    @staticmethod
    def _check(is_interrupted: bool) -> None:
        if is_interrupted:
            raise InterruptedReadingError("a signal arrived before all was read")
