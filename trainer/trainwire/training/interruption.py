"""Reading that a signal interrupts: that of an evaluation, for example, in one process or in several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor, distributed

from trainwire.training.control import LAG, Control
from trainwire_protocol.errors import InterruptedReadingError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from trainwire.training.run import TrainingRun

LOADER_ERRORS: Final = (RuntimeError, OSError, EOFError)
"""What a loader raises if one of its workers has ended."""

Item = TypeVar("Item")


def until_interrupted(run: TrainingRun, items: Iterable[Item]) -> Iterator[Item]:
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

    A round is a reduction that is started before an item, and whose result is read `LAG` items later. A process that
    has read all its items takes part in further rounds until every process has.
    """

    def __init__(self, control: Control, group: ProcessGroup | None) -> None:
        self._control, self._group = control, group
        self._work: Any = None
        self._numbers: Tensor = torch.zeros(0)
        self._age = 0

    def before_item(self) -> None:
        """Raise InterruptedReadingError if a signal has arrived."""
        if self._group is None:
            self._check(self._control.is_signalled)
            return
        if self._work is None:
            self._start(is_unfinished=True)
        self._age += 1
        if self._age > LAG:
            self._read()

    def finish(self, *, is_unfinished: bool) -> None:
        """Wait until every process has read its items; raise InterruptedReadingError if a signal has arrived before.

        Args:
            is_unfinished: Whether this process cannot read all of them, because the signal ended its loader.
        """
        if self._group is None:
            return
        is_any_unfinished = True
        while is_any_unfinished:
            if self._work is None:
                self._start(is_unfinished=is_unfinished)
            is_any_unfinished = self._read()

    def _start(self, *, is_unfinished: bool) -> None:
        self._numbers, self._age = torch.tensor([int(self._control.is_signalled), int(is_unfinished)]), 0
        maximum = distributed.ReduceOp.MAX
        self._work = distributed.all_reduce(self._numbers, maximum, group=self._group, async_op=True)

    def _read(self) -> bool:
        """Wait for the result of the round, and return whether a process has not read all its items."""
        self._work.wait()
        self._work = None
        is_signalled, is_unfinished = map(bool, self._numbers.tolist())
        self._check(is_signalled and is_unfinished)
        return is_unfinished

    @staticmethod
    def _check(is_interrupted: bool) -> None:
        if is_interrupted:
            raise InterruptedReadingError("a signal arrived before all was read")
