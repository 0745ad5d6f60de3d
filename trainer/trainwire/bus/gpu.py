"""Scalars on a GPU, read without making the GPU or the training thread wait.

The values are snapshotted on the current stream, so that an in-place update cannot change them, packed into one
tensor, and copied to pinned memory without blocking. A CUDA event tells when the copy has arrived.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

About = TypeVar("About")


class Transfer:
    """One copy of packed values on its way from a GPU."""

    def __init__(self, host: Any, arrived: Any, packed: Any = None) -> None:
        self._host = host
        self._arrived = arrived
        # Kept until the copy has arrived, lest its memory be given to another stream's tensor.
        self._packed = packed
        self._numbers: list[float] | None = None

    def is_ready(self) -> bool:
        """Whether the copy has arrived."""
        return self._numbers is not None or bool(self._arrived.query())

    def array(self) -> Any:
        """What was copied, as a NumPy array; only once it has arrived."""
        return self._host.numpy()

    def numbers(self) -> list[float]:
        """The values; only once the copy has arrived."""
        if self._numbers is None:
            self._numbers = self._host.tolist()
            self._host = self._packed = None
        assert self._numbers is not None
        return self._numbers


class Deferred:
    """One value of a transfer."""

    __slots__ = ("_index", "_transfer")

    def __init__(self, transfer: Transfer, index: int) -> None:
        self._transfer = transfer
        self._index = index

    def is_ready(self) -> bool:
        """Whether it can be read without waiting."""
        return self._transfer.is_ready()

    def resolve(self) -> float:
        """The value, as float64."""
        return self._transfer.numbers()[self._index]


def defer(tensors: Sequence[Any]) -> list[Deferred]:
    """Begin to copy tensors of one element each from their GPU; values of several GPUs make several copies.

    Raises:
        RuntimeError: a tensor has more than one element.
    """
    by_device: dict[Any, list[int]] = {}
    for position, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(position)
    deferred: dict[int, Deferred] = {}
    for positions in by_device.values():
        copied = transfer(_pack([tensors[position] for position in positions]))
        deferred |= {position: Deferred(copied, index) for index, position in enumerate(positions)}
    return [deferred[position] for position in range(len(tensors))]


def _pack(tensors: Sequence[Any]) -> Any:
    torch = sys.modules["torch"]
    with torch.no_grad(), torch.cuda.device(tensors[0].device):
        return torch.stack([tensor.detach().reshape(()).to(torch.float64) for tensor in tensors])


def transfer(packed: Any) -> Transfer:
    """Begin to copy a tensor that nobody else changes; on the CPU there is nothing to wait for."""
    if not packed.is_cuda:
        return Transfer(packed, _ARRIVED)
    torch = sys.modules["torch"]
    with torch.cuda.device(packed.device):
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    return Transfer(host, arrived, packed)


class _Arrived:
    def query(self) -> bool:
        return True


_ARRIVED: Final = _Arrived()


class GpuReadings(Generic[About]):
    """Tensors that plugins read in order, once they have arrived from their device; on a CPU, that is at once."""

    def __init__(self) -> None:
        self._pending: deque[tuple[About, Transfer]] = deque()

    def add(self, about: About, packed: Any) -> None:
        """Start to read a tensor of one dimension, which must not change from now on.

        Args:
            about: Returned together with the numbers.
        """
        self._pending.append((about, transfer(packed)))

    def take(self) -> Iterator[tuple[About, list[float]]]:
        """Yield what has arrived."""
        while self._pending and self._pending[0][1].is_ready():
            about, arrived = self._pending.popleft()
            yield about, arrived.numbers()

    def take_all(self) -> Iterator[tuple[About, list[float]]]:
        """Yield everything, after synchronizing with the GPU."""
        if any(not transfer.is_ready() for _, transfer in self._pending):
            sys.modules["torch"].cuda.synchronize()
        yield from self.take()
