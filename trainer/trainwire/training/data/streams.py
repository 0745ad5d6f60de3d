"""Streams: iterable datasets, which several processes and workers read together, and which may have a position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainwire.training.distributed.processes import Processes


class DividedStream(IterableDataset[Any]):
    """A stream of which each process, and each worker of its loader, takes every n-th sample.

    All of them iterate over the whole stream, so it must yield the same samples in the same order in each: one that
    shuffles needs a seed of its own, such as the epoch, with which its `set_epoch` is called. A stream that can skip
    samples at less cost, such as one of many files, should divide itself, by torch's `get_worker_info` and the rank.

    Args:
        stream: An iterable that can be iterated again, such as an IterableDataset.

    Attributes:
        rank, world_size: The process's rank and the number of processes; set by `ModelTrainer.train`.
    """

    def __init__(self, stream: Iterable[Any]) -> None:
        self.stream = stream
        self.rank, self.world_size = 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Set the stream's epoch, if it has a `set_epoch`."""
        if callable(setter := getattr(self.stream, "set_epoch", None)):
            setter(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.rank + self.world_size * number
        return islice(self.stream, first, None, self.world_size * workers)


def divide(loader: DataLoader[Any], processes: Processes) -> DataLoader[Any]:
    """Tell the loader's dataset, if it is a `DividedStream`, which process reads it, and return the loader."""
    if isinstance(loader.dataset, DividedStream):
        loader.dataset.rank, loader.dataset.world_size = processes.rank, processes.world_size
    return loader


def repeated_readers(loader: DataLoader[Any], processes: Processes) -> int:
    """Return how many processes and workers may read the same samples of a stream; 1 if none, or it is no stream."""
    if not isinstance(loader.dataset, IterableDataset) or isinstance(loader.dataset, DividedStream):
        return 1
    return processes.world_size * max(1, loader.num_workers)


def part_with_position(loader: DataLoader[Any]) -> Any:
    """Return what saves and restores the position in the data; None if nothing does.

    That is the loader, such as torchdata's `StatefulDataLoader`, or its dataset, if it is a stream that is read in this
    process and not in workers.
    """
    is_read_here = isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0
    parts = [loader, loader.dataset] if is_read_here else [loader]
    return next((part for part in parts if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")), None)
