"""Tensors that plugins read without making the training thread wait for a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from trainwire.bus.gpu import Transfer, transfer

About = TypeVar("About")


class GpuReadings(Generic[About]):
    """Values on their way from the device, taken out in order once they have arrived: on a CPU that is at once."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[About, Transfer]] = deque()

    def add(self, about: About, packed: Tensor) -> None:
        """Begin to read a tensor of one dimension, which nobody changes from now on; `about` says what it is."""
        self._waiting.append((about, transfer(packed)))

    def take(self) -> Iterator[tuple[About, list[float]]]:
        """What has arrived."""
        while self._waiting and self._waiting[0][1].is_ready():
            about, arrived = self._waiting.popleft()
            yield about, arrived.numbers()

    def take_all(self) -> Iterator[tuple[About, list[float]]]:
        """Everything; a GPU is waited for here."""
        if any(not arriving.is_ready() for _, arriving in self._waiting):
            torch.cuda.synchronize()
        yield from self.take()
