"""How processes that train together come to do the same thing after the same step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import distributed

from trainwire.control import Wishes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

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

    def after_step(self, wishes: Wishes) -> Wishes | None:
        """What was wanted anywhere `LAG` steps ago; None between two answers."""
        if self._group is None:
            return Wishes.of_numbers(wishes.numbers())
        if self._work is None:
            self._ask(wishes)
        self._age += 1
        return self._answer() if self._age > LAG else None

    def now(self, wishes: Wishes) -> Wishes:
        """What is wanted anywhere: every process waits for the others here, as at the end of an epoch."""
        if self._group is None:
            return Wishes.of_numbers(wishes.numbers())
        if self._work is not None:
            self._answer()  # whoever wanted that wants it still
        self._ask(wishes)
        return self._answer()

    def _ask(self, wishes: Wishes) -> None:
        self._numbers, self._age = torch.tensor(wishes.numbers(), dtype=torch.float64), 0
        maximum = distributed.ReduceOp.MAX
        self._work = distributed.all_reduce(self._numbers, maximum, group=self._group, async_op=True)

    def _answer(self) -> Wishes:
        self._work.wait()
        self._work = None
        return Wishes.of_numbers(self._numbers.tolist())
