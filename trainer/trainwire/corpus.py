"""The three parts of a data set, and the loaders made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from trainwire.options import TrainingOptions
from trainwire_protocol.errors import OptionError

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


class EpochSampler(Sampler[int]):
    """Every index once, in an order that comes from the seed and the epoch alone.

    So an epoch can be repeated without those before it.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        return iter(torch.randperm(self.size, generator=generator).tolist())


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch: 64 bits, well mixed by the generator that takes it."""
    return (seed * 1_000_003 + epoch) % 2**63


class EpochLoader(DataLoader[Any]):
    """A loader whose order and whose workers' seeds come from a seed and the epoch alone."""

    def __init__(
        self, data: Dataset[Any], size: int, *, seed: int, shuffle: bool, workers: int, pin_memory: bool
    ) -> None:
        samples = length_of(data)
        shuffles = shuffle and samples is not None and not isinstance(data, IterableDataset)
        sampler = EpochSampler(samples, seed) if shuffles and samples is not None else None
        # A generator of its own: drawing the workers' seeds must not move the one that the model's dropout uses.
        generator = torch.Generator()
        super().__init__(
            data, size, sampler=sampler, num_workers=workers, generator=generator, pin_memory=pin_memory
        )  # fmt: skip
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        if isinstance(self.generator, torch.Generator):
            self.generator.manual_seed(epoch_seed(self.seed, epoch))


def training_loader(data: Data, options: TrainingOptions, seed: int, device: torch.device) -> DataLoader[Any]:
    """The loader of the training samples: the caller's own, or one that shuffles by seed and epoch."""
    if isinstance(data, DataLoader):
        return data
    return EpochLoader(
        data, options.mini_batch_size, seed=seed, shuffle=options.shuffle, workers=options.num_workers,
        pin_memory=device.type == "cuda",
    )  # fmt: skip


def evaluation_loader(data: Data, options: TrainingOptions, device: torch.device) -> DataLoader[Any]:
    """The loader of a dev or test split, in the order in which its samples are."""
    if isinstance(data, DataLoader):
        return data
    return EpochLoader(
        data, options.eval_batch_size or options.mini_batch_size, seed=0, shuffle=False, workers=options.num_workers,
        pin_memory=device.type == "cuda",
    )  # fmt: skip


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Tell the epoch to a loader, its data and its sampler, as far as they want to know it."""
    for part in (loader, loader.dataset, loader.sampler):
        setter = getattr(part, "set_epoch", None)
        if callable(setter):
            setter(epoch)
