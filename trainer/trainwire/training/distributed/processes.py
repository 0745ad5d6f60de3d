"""The processes that train one model together, as started by torchrun; usually there is only one."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import HashStore, ProcessGroup  # type: ignore[attr-defined]  # documented there
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from trainwire_protocol.environment import LaunchEnvironment
from trainwire_protocol.errors import OptionError, UsageError

Item = TypeVar("Item")


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
        """Return what the program's process group or else torchrun's variables say, unless `multi_gpu` is False.

        Raises:
            OptionError: if `multi_gpu` is True and torchrun did not start this process, or its variables are invalid.
        """
        if multi_gpu is False:
            return cls()
        if distributed.is_initialized():
            rank, local = distributed.get_rank(), os.environ.get("LOCAL_RANK", "")
            local_rank = int(local) if local.isdecimal() else rank % max(1, torch.cuda.device_count())
            return cls(rank, distributed.get_world_size(), local_rank=local_rank)
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

    def gather(self, value: int) -> list[int]:
        """Return the values of all processes, in the order of their ranks."""
        if not self.several:
            return [value]
        values = [torch.tensor(0) for _ in range(self.world_size)]
        distributed.all_gather(values, torch.tensor(int(value)), group=self.group)
        return [int(each) for each in values]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the values of all processes, of any kind that can be pickled, in the order of their ranks."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def while_all_have(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield items for as long as every process has another one; the processes wait for each other before each."""
        for item in items:
            if not self._all(True):
                return
            yield item
        self._all(False)

    def while_any_has(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield items, each with True, for as long as any process has another one.

        A process that has no more gets its last one again, with False: it takes part in what all processes must do
        equally often, such as the forward pass of a sharded model.

        Raises:
            UsageError: if this process has none, but another one has.
        """
        if not self.several:
            yield from ((item, True) for item in items)
            return
        iterator, last, failure = iter(items), list[Item](), None
        has_more = True
        while True:
            if has_more:
                try:
                    last = [next(iterator)]
                except StopIteration:
                    has_more = False
                except Exception as error:
                    if not last:
                        raise
                    has_more, failure = False, error  # raised once the others have finished
            if self._all(not has_more):
                break
            if not last:
                raise UsageError(
                    f"process {self.rank} has no batch, but others have: each process of a sharded model needs one"
                )
            yield last[0], has_more
        if failure is not None:
            raise failure

    def _all(self, value: bool) -> bool:
        values = torch.tensor(int(value))
        distributed.all_reduce(values, distributed.ReduceOp.MIN, group=self.group)
        return bool(values)

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

LAG: Final = 4
"""Steps between starting a reduction and reading its result, which has arrived by then. Waiting for it at once would
cost time in each step and, with NCCL, synchronize with the GPU; so the processes use a gloo group."""


class LaggingMaximum:
    """The maximum of each of some numbers over all processes: a reduction whose result is read `LAG` steps later."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._work: Any = None
        self._numbers = torch.zeros(0)
        self._age = 0

    @property
    def is_pending(self) -> bool:
        """Whether a reduction was started, and its result was not read."""
        return self._work is not None

    def after_step(self, numbers: Sequence[float]) -> list[float] | None:
        """Return the maximum of what every process passed `LAG` steps ago; None between two results."""
        if not self.is_pending:
            self.start(numbers)
        self._age += 1
        return self.result() if self._age > LAG else None

    def start(self, numbers: Sequence[float]) -> None:
        """Start a reduction; none may be pending."""
        self._numbers, self._age = torch.tensor(numbers, dtype=torch.float64), 0
        maximum = distributed.ReduceOp.MAX
        self._work = distributed.all_reduce(self._numbers, maximum, group=self._group, async_op=True)

    def result(self) -> list[float]:
        """Wait for the pending reduction, and return its result."""
        self._work.wait()
        self._work = None
        return self._numbers.tolist()


@contextmanager
def connected(processes: Processes, device: torch.device, *, even_alone: bool = False) -> Iterator[Processes]:
    """Initialize the process group, unless the program has done so, and yield the processes with a gloo group.

    Args:
        even_alone: Initialize it for one process too, as a sharded model needs.

    Raises:
        OptionError: if the processes cannot be connected.
    """
    if not processes.several and not even_alone:
        yield processes
        return
    is_ours = not distributed.is_initialized()
    if is_ours:
        _initialize(processes, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield replace(processes, group=distributed.new_group(backend="gloo"))
    except Exception as error:
        if is_ours and processes.several:
            _note_first_failure(processes, error)
        raise
    finally:
        if is_ours:
            distributed.destroy_process_group()


def _initialize(processes: Processes, backend: str) -> None:
    rank, size = processes.rank, processes.world_size
    try:
        if not processes.several:
            distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
            return
        store = _store(rank, size)
        # The keys of an earlier process group would be taken for those of this one.
        training = store.add(f"trainings/{rank}", 1)
        distributed.init_process_group(
            backend, store=PrefixStore(f"training-{training}", store), rank=rank, world_size=size
        )
    except (ValueError, RuntimeError) as error:  # a variable is missing, or a host cannot be reached
        reason = str(error).partition("\n")[0]
        raise OptionError(
            f"process {rank} of {size} cannot connect to the others: {reason}; start them with torchrun, or pass "
            "multi_gpu=False"
        ) from error


def _note_first_failure(processes: Processes, error: Exception) -> None:
    """Leave the error's message for the other processes, or add a note with that of the one that failed first.

    The others fail because they can no longer reach that one.
    """
    own = f"process {processes.rank} failed first: {type(error).__name__}: {error}"
    with suppress(RuntimeError):  # the store may be gone
        store = _store(processes.rank, processes.world_size)
        training = store.add(f"trainings/{processes.rank}", 0)
        first = store.compare_set(f"failure-{training}", "", own).decode(errors="replace")
        if first != own:
            error.add_note(first)


@functools.cache
def _store(rank: int, size: int) -> Store:
    """Connect to the store in which the processes find each other; later trainings of the process use it too."""
    store: Store = next(rendezvous("env://", rank, size))[0]
    store.set_timeout(default_pg_timeout)
    return store


def note_remedy(error: BaseException) -> None:
    """Add a note to an error of DistributedDataParallel that says which of its arguments to pass."""
    # torch has no classes for these errors.
    if isinstance(error, RuntimeError) and "find_unused_parameters=True" in str(error):
        error.add_note("pass ddp_arguments={'find_unused_parameters': True} to train")
    elif isinstance(error, RuntimeError) and "mark a variable ready only once" in str(error):
        error.add_note("pass ddp_arguments={'static_graph': True} to train, or checkpoint with use_reentrant=False")
