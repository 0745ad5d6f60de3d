"""The processes that train one model together, as started by torchrun; usually there is only one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from trainwire_protocol.environment import LaunchEnvironment
from trainwire_protocol.errors import OptionError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's rank, the number of processes, and the operations that involve all of them."""

    rank: int = 0
    world_size: int = 1
    group: ProcessGroup | None = None
    """A gloo group for values on the CPU; exists inside `connected`."""
    local_rank: int = 0
    """The rank among the processes of this host."""

    @classmethod
    def from_environment(cls, multi_gpu: bool | None) -> Processes:
        """Return what torchrun's environment variables say, unless `multi_gpu` is False.

        Raises:
            OptionError: if `multi_gpu` is True and torchrun did not start this process.
        """
        if multi_gpu is False:
            return cls()
        launched = LaunchEnvironment.read()
        if launched.launcher != "torchrun":
            if multi_gpu:
                raise OptionError("multi_gpu is True: start the program with torchrun --nproc-per-node=N")
            return cls()
        return cls(launched.rank, launched.world_size, local_rank=launched.local_rank)

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes models."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Wait until every process has called this."""
        if self.several:
            distributed.barrier(group=self.group)

    def add_up(self, values: Tensor) -> Tensor:
        """Replace the values with their sum over all processes, in place."""
        if self.several:
            distributed.all_reduce(values)
        return values

    def average(self, values: Tensor) -> Tensor:
        """Replace the values with their mean over all processes, in place."""
        return self.add_up(values).div_(self.world_size)

    def copy_from_first(self, values: Tensor) -> None:
        """Replace the values with those of the first process, in place."""
        if self.several:
            distributed.broadcast(values, 0)

    def largest(self, value: int) -> int:
        """Return the largest value of all processes."""
        if not self.several:
            return value
        values = torch.tensor(value)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.group)
        return int(values)

    def device(self, requested: torch.device) -> torch.device:
        """Return the device to train on: in several processes, each one's own GPU of its host.

        Raises:
            OptionError: if the host has fewer GPUs than processes.
        """
        if not self.several or requested.type != "cuda":
            return requested
        if self.local_rank >= torch.cuda.device_count():
            raise OptionError(
                f"the process has local rank {self.local_rank}, but this host has {torch.cuda.device_count()} GPUs: "
                "start as many processes as there are GPUs"
            )
        return torch.device("cuda", self.local_rank)


SINGLE: Final = Processes()
"""A process that trains alone."""


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[Processes]:
    """Initialize the process group, unless the program has done so, and yield the processes with a gloo group."""
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
