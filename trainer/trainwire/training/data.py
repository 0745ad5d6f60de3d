"""The three parts of a data set, and the loaders made from them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler, Subset

from trainwire.training.distributed import SINGLE, Processes
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training data, with data to choose a model by and data to test it on: Datasets or DataLoaders.

    Raises:
        OptionError: a part is neither, or is empty.
    """

    train: Data
    dev: Data | None = None
    test: Data | None = None

    def merged(self, *, dev: bool, test: bool) -> Corpus:
        """A corpus that trains on the dev or the test split too, and has them no more.

        Raises:
            OptionError: a split is missing, or is no Dataset of known length.
        """
        if not dev and not test:
            return self
        wanted = {"train": self.train, **({"dev": self.dev} if dev else {}), **({"test": self.test} if test else {})}
        parts: list[Dataset[Any]] = []
        for name, part in wanted.items():
            if part is None or isinstance(part, DataLoader) or not is_indexed(part):
                raise OptionError(f"{name} is {part!r}: train_with_dev and train_with_test need Datasets with a length")
            parts.append(part)
        everything: Dataset[Any] = ConcatDataset(parts)
        return Corpus(everything, None if dev else self.dev, None if test else self.test)

    def __post_init__(self) -> None:
        _check("train", self.train)
        for name, data in (("dev", self.dev), ("test", self.test)):
            if data is not None:
                _check(name, data)


def _check(name: str, data: object) -> None:
    is_list = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, Mapping))
    if not is_list and not isinstance(data, (Dataset, DataLoader)):
        raise OptionError(f"{name} is {data!r}: give a Dataset or a DataLoader")
    if length_of(data) == 0:
        raise OptionError(f"{name} is empty: it has no sample")


def length_of(data: object) -> int | None:
    """How many items there are: batches of a DataLoader, samples of a Dataset; None if that is not known."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader of an IterableDataset that has no length
        return None


def samples_of(data: Data | None) -> int | None:
    """How many samples there are; None if that is not known."""
    return length_of(data.dataset if isinstance(data, DataLoader) else data)


def is_indexed(data: object) -> bool:
    """Whether it is a Dataset whose samples can be had by their index."""
    return not isinstance(data, (DataLoader, IterableDataset)) and length_of(data) is not None


class EpochSampler(Sampler[int]):
    """Every index once, in an order that comes from the seed and the epoch alone.

    So an epoch can be repeated without those before it. Several processes share the order: each takes every n-th, and
    all have as many, for which the first ones come twice if need be.
    """

    def __init__(
        self, size: int, seed: int, processes: Processes = SINGLE, *, shuffle: bool = True, first: bool = True
    ) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.shuffle, self.shuffle_first = shuffle, first
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.processes.world_size)

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        missing = len(self) * self.processes.world_size - self.size
        order += (order * missing)[:missing]
        return iter(order[self.processes.rank :: self.processes.world_size])

    def _order(self) -> list[int]:
        if not self.shuffle or (self.epoch == 1 and not self.shuffle_first):
            return list(range(self.size))
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        order: list[int] = torch.randperm(self.size, generator=generator).tolist()
        return order


class SharedSampler(Sampler[int]):
    """What another sampler chooses, of which each of several processes takes every n-th, all as many.

    The processes have to draw the same: their random states are their own, so the sampler needs a generator or a seed.
    """

    def __init__(self, sampler: Sampler[int], processes: Processes) -> None:
        self.sampler, self.processes = sampler, processes
        self.generator = getattr(sampler, "generator", None)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler, if it wants to know."""
        if callable(setter := getattr(self.sampler, "set_epoch", None)):
            setter(epoch)

    def __len__(self) -> int:
        return len(self.sampler) // self.processes.world_size  # type: ignore[arg-type]  # without one, as without this

    def __iter__(self) -> Iterator[int]:
        size = self.processes.world_size
        group: list[int] = []
        for index in self.sampler:
            group.append(index)
            if len(group) == size:
                yield group[self.processes.rank]
                group = []


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of its own for each epoch and rank: 64 bits, well mixed by the generator that takes it."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + rank) % 2**63


def _ignore_sigterm(_: int) -> None:
    """For a worker: a cluster sends SIGTERM to each process, and the last batches are still to be read."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class EpochLoader(DataLoader[Any]):
    """A loader whose workers' seeds come from a seed, the epoch and the rank alone."""

    def __init__(
        self, data: Dataset[Any], size: int, sampler: Sampler[int] | None, options: TrainingOptions, *, seed: int,
        rank: int, device: torch.device,
    ) -> None:  # fmt: skip
        # A generator of its own: drawing the workers' seeds must not move the one that the model's dropout uses.
        generator = torch.Generator()
        super().__init__(
            data, size, sampler=sampler, num_workers=options.num_workers, generator=generator,
            pin_memory=device.type == "cuda", worker_init_fn=_ignore_sigterm,
        )  # fmt: skip
        self.seed, self.rank = seed, rank

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        if isinstance(self.generator, torch.Generator):
            self.generator.manual_seed(epoch_seed(self.seed, epoch, self.rank))


def training_loader(
    data: Data, options: TrainingOptions, seed: int, device: torch.device, processes: Processes = SINGLE
) -> DataLoader[Any]:
    """The loader of the training samples: the caller's own, or one that shuffles by seed and epoch.

    Raises:
        OptionError: a sampler is given for a DataLoader, or what was given makes none.
    """
    if isinstance(data, DataLoader):
        if options.sampler is not None:
            raise OptionError("sampler is given, but train is a DataLoader, which has one: leave one of them out")
        return data
    sampler = _sampler(data, options, seed, processes)
    return EpochLoader(
        data, options.mini_batch_size, sampler, options, seed=seed, rank=processes.rank, device=device
    )  # fmt: skip


def _sampler(data: Dataset[Any], options: TrainingOptions, seed: int, processes: Processes) -> Sampler[int] | None:
    given, samples = options.sampler, length_of(data)
    if given is not None and not isinstance(given, Sampler):
        given = given(data)
        if not isinstance(given, Sampler):
            raise OptionError(f"sampler has returned {given!r}, which is no sampler")
    if given is not None and processes.several:
        return SharedSampler(given, processes)
    if given is not None or samples is None or isinstance(data, IterableDataset):
        return given
    return EpochSampler(samples, seed, processes, shuffle=options.shuffle, first=options.shuffle_first_epoch)


def evaluation_loader(
    data: Data, options: TrainingOptions, device: torch.device, processes: Processes = SINGLE
) -> DataLoader[Any]:
    """The loader of a split that is evaluated, in the order in which its samples are; of several processes each has
    its share, and none comes twice.

    Raises:
        OptionError: there are more processes than samples.
    """
    if isinstance(data, DataLoader):
        return data
    samples = length_of(data)
    if processes.several and is_indexed(data) and samples is not None:
        if samples < processes.world_size:
            raise OptionError(f"a split has {samples} samples for {processes.world_size} processes: give each one")
        data = Subset(data, range(processes.rank, samples, processes.world_size))
    size = options.eval_batch_size or options.mini_batch_size
    return EpochLoader(data, size, None, options, seed=0, rank=processes.rank, device=device)


def sample_of(data: Data, wanted: float | int, seed: int) -> Dataset[Any]:
    """Some samples, the same for a seed: a share of all, or so many.

    Raises:
        OptionError: the samples cannot be had by their index.
    """
    samples = length_of(data)
    if not is_indexed(data) or samples is None:
        raise OptionError("monitor_train_sample needs a Dataset with a length as train")
    count = min(samples, max(1, round(samples * wanted) if isinstance(wanted, float) else wanted))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(epoch_seed(seed, 0)))
    return Subset(data, sorted(order[:count].tolist()))  # type: ignore[arg-type]  # no DataLoader, or it had no index


def samplers_of(loader: DataLoader[Any]) -> list[object]:
    """What chooses the samples of a loader: its sampler, and that of batches with the one inside."""
    return [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Tell the epoch to a loader, its data and its samplers, as far as they want to know it."""
    for part in (loader, loader.dataset, *samplers_of(loader)):
        setter = getattr(part, "set_epoch", None)
        if callable(setter):
            setter(epoch)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device; what is no tensor stays as it is."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(item, device) for item in batch)
    return batch


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor with a dimension, or 1."""
    return next((len(tensor) for tensor in _tensors(batch) if tensor.dim()), 1)


def split_batch(batch: Any, size: int) -> list[Any]:
    """A batch in parts of at most `size` samples: its tensors, and lists as long as these, are split."""
    samples = samples_in(batch)
    if samples <= size:
        return [batch]
    return [_part(batch, slice(start, start + size), samples) for start in range(0, samples, size)]


def _part(batch: Any, part: slice, samples: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[part] if batch.dim() and len(batch) == samples else batch
    if isinstance(batch, Mapping):
        return {key: _part(value, part, samples) for key, value in batch.items()}
    if not isinstance(batch, (list, tuple)):
        return batch
    if not any(True for _ in _tensors(batch)) and len(batch) == samples:
        return batch[part]
    parts = [_part(item, part, samples) for item in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def inputs_and_target(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """A batch taken apart: what the model is called with, and what its output is compared to.

    Raises:
        UsageError: it is no sequence of at least two.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        raise UsageError(
            f"a batch is a {type(batch).__name__}, not inputs followed by a target: override ModelTrainer.forward"
        )
    return tuple(batch[:-1]), batch[-1]


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(item)
