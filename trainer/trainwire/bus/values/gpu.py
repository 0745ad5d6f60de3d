"""Scalars on a GPU, read without synchronization.

The tensors are stacked on the current stream, so that an in-place update cannot change them, and copied to pinned
memory without blocking. A CUDA event shows when the copy is complete.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

About = TypeVar("About")


class DeviceCopy:
    """The copy of a tensor from a GPU to the host, which may not be complete yet."""

    def __init__(self, host: Any, event: Any, source: Any = None) -> None:
        self._host = host
        self._event = event
        # Kept until the copy is complete; otherwise its memory could be reused for a tensor on another stream.
        self._source = source
        self._numbers: Any = None

    def is_ready(self) -> bool:
        """Return whether the copy is complete."""
        return self._numbers is not None or bool(self._event.query())

    def array(self) -> Any:
        """Return the copy as a NumPy array; it must be complete."""
        return self._host.numpy()

    @property
    def size(self) -> int:
        """Size of the copy, in bytes."""
        return int(self._host.nbytes)

    def numbers(self) -> Any:
        """Return the copy, which must be complete, as a list of its values, or as a number if it has no dimension."""
        if self._numbers is None:
            self._numbers = self._host.tolist()
            self._host = self._source = None
        return self._numbers


class PendingScalar:
    """One value of a copy."""

    __slots__ = ("_copy", "_index")

    def __init__(self, copy: DeviceCopy, index: int) -> None:
        self._copy = copy
        self._index = index

    def is_ready(self) -> bool:
        """Return whether the copy is complete."""
        return self._copy.is_ready()

    def resolve(self) -> float:
        """Return the value, as float64."""
        return float(self._copy.numbers()[self._index])


def copy_scalars(tensors: Sequence[Any]) -> list[PendingScalar]:
    """Begin to copy tensors of one element from their GPUs, with one copy for each GPU.

    Raises:
        RuntimeError: a tensor has more than one element.
    """
    by_device: dict[Any, list[int]] = {}
    for position, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(position)
    pending: dict[int, PendingScalar] = {}
    for positions in by_device.values():
        copy = copy_to_host(_pack([tensors[position] for position in positions]))
        pending |= {position: PendingScalar(copy, index) for index, position in enumerate(positions)}
    return [pending[position] for position in range(len(tensors))]


def _pack(tensors: Sequence[Any]) -> Any:
    """Return the elements of tensors on one GPU as one tensor of float64."""
    torch = sys.modules["torch"]
    with torch.no_grad(), torch.cuda.device(tensors[0].device):
        return torch.stack([tensor.detach().reshape(()).to(torch.float64) for tensor in tensors])


def copy_to_host(tensor: Any) -> DeviceCopy:
    """Begin to copy a tensor that nothing else changes; one on the CPU is used as it is."""
    if not tensor.is_cuda:
        return DeviceCopy(tensor, _COMPLETE)
    torch = sys.modules["torch"]
    with torch.cuda.device(tensor.device):
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    return DeviceCopy(host, event, tensor)


class _Complete:
    """Takes the place of a CUDA event for tensors on the CPU."""

    def query(self) -> bool:
        return True


_COMPLETE: Final = _Complete()


class GpuReadings(Generic[About]):
    """Reads tensors for plugins, in order, once they are copied from their device; those on the CPU at once."""

    def __init__(self) -> None:
        self._pending: deque[tuple[About, DeviceCopy]] = deque()

    def add(self, about: About, tensor: Any) -> None:
        """Begin to read a one-dimensional tensor, which must not change from now on.

        Args:
            about: any object, which is returned together with the numbers.
        """
        self._pending.append((about, copy_to_host(tensor)))

    def take(self) -> Iterator[tuple[About, list[float]]]:
        """Yield what is available, in order."""
        while self._pending and self._pending[0][1].is_ready():
            about, copy = self._pending.popleft()
            yield about, copy.numbers()

    def take_all(self) -> Iterator[tuple[About, list[float]]]:
        """Yield everything, after synchronizing with the GPU."""
        if any(not copy.is_ready() for _, copy in self._pending):
            sys.modules["torch"].cuda.synchronize()
        yield from self.take()
