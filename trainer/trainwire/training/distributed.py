"""The processes that train one model together, as torchrun starts them; mostly there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from trainwire_protocol.environment import LaunchEnvironment
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.step import Forward


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1
    group: ProcessGroup | None = None
    """For what is not about tensors of the model: it works on the CPU. There is one inside `together`."""
    local_rank: int = 0
    """Its number among the processes of its host."""

    @classmethod
    def from_environment(cls, wanted: bool | None) -> Processes:
        """This process among those of torchrun, if they are to train together.

        Raises:
            OptionError: they are, but torchrun has not started this one.
        """
        if wanted is False:
            return cls()
        launched = LaunchEnvironment.read()
        if launched.launcher != "torchrun":
            if wanted:
                raise OptionError("multi_gpu is True: start the program with torchrun --nproc-per-node=N")
            return cls()
        return cls(launched.rank, launched.world_size, local_rank=launched.local_rank)

    @property
    def several(self) -> bool:
        """Whether there is another one."""
        return self.world_size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes models."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Wait until every process is here."""
        if self.several:
            distributed.barrier(group=self.group)

    def add_up(self, values: Tensor) -> Tensor:
        """The sum of what each process has, in place."""
        if self.several:
            distributed.all_reduce(values)
        return values

    def average(self, values: Tensor) -> Tensor:
        """The mean of what each process has, in place."""
        return self.add_up(values).div_(self.world_size)

    def copy_from_first(self, values: Tensor) -> None:
        """Give each process what the first one has, in place."""
        if self.several:
            distributed.broadcast(values, 0)

    def largest(self, value: int) -> int:
        """The largest of what each process has."""
        if not self.several:
            return value
        values = torch.tensor(value)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.group)
        return int(values)

    def device(self, wanted: torch.device) -> torch.device:
        """Where this process trains: of several GPUs of one host, its own."""
        if self.several and wanted.type == "cuda":
            return torch.device("cuda", self.local_rank)
        return wanted


@contextmanager
def together(processes: Processes, device: torch.device) -> Iterator[Processes]:
    """Connect the processes, unless the program has done so; gives them with a group of their own."""
    if not processes.several:
        yield processes
        return
    is_ours = not distributed.is_initialized()
    if is_ours:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield replace(processes, group=distributed.new_group(backend="gloo"))
    finally:
        if is_ours:
            distributed.destroy_process_group()


SINGLE: Final = Processes()
"""The only one."""


class TrainingForward:
    """`ModelTrainer.forward` as the step calls it; with several processes, inside torch's DistributedDataParallel."""

    def __init__(self, model: nn.Module, forward: Callable[[Any], Forward], *, several: bool) -> None:
        self.alone = forward
        """Calls `forward` in this process alone."""
        self._forward: Callable[[Any], Forward] = forward
        self._parallel: DistributedDataParallel | None = None
        if several:
            # All of `forward` is inside, so that it may call the model as it likes.
            self._forward = self._parallel = DistributedDataParallel(_ForwardModule(model, forward))

    def __call__(self, batch: Any) -> Forward:
        """The loss of a batch, with what the metrics compare."""
        return self._forward(batch)

    def without_sharing(self) -> AbstractContextManager[Any]:
        """Where gradients are only added up, since more of the same update follow."""
        return self._parallel.no_sync() if self._parallel else nullcontext()


class _ForwardModule(nn.Module):
    """A trainer's `forward` as a module with the model's parameters."""

    def __init__(self, model: nn.Module, forward: Callable[[Any], Forward]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Any) -> Forward:
        return self._forward(batch)
