"""Data: the splits, and the samplers and loaders created from them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from trainwire.training.data.streams import DividedStream, divide
from trainwire.training.distributed.processes import SINGLE, Processes
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError

Data: TypeAlias = "Dataset[Any] | DataLoader[Any]"

OF_DATASETS: Final = ("sampler", "batch_sampler", "drop_last", "collate_fn")
"""The options that apply to Datasets only: a DataLoader has its own."""

SAMPLERS_OF_INDICES: Final = (
    DistributedSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler,
)  # fmt: skip
"""Torch's samplers that yield single indices, and not batches of them."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The splits of a data set: Datasets or DataLoaders.

    Raises:
        OptionError: if a split is neither, or is empty.
    """

    train: Data
    dev: Data | None = None
    """The data on which models are compared."""
    test: Data | None = None
    """The data on which the best model is tested."""

    def __post_init__(self) -> None:
        for name, data in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            if data is None and name != "train":
                continue
            check_data(name, data)

    def merged(self, *, dev: bool, test: bool) -> Corpus:
        """Return a corpus with the dev or test split, or both, merged into the training split.

        Raises:
            OptionError: if a split is missing, or is not a Dataset with a length.
        """
        if not dev and not test:
            return self
        merged = {"train": self.train, **({"dev": self.dev} if dev else {}), **({"test": self.test} if test else {})}
        parts: list[Dataset[Any]] = []
        for name, part in merged.items():
            if part is None or isinstance(part, DataLoader) or not is_indexed(part):
                raise OptionError(
                    f"{name} is {part!r}: train_with_dev and train_with_test require Datasets with a length"
                )
            parts.append(part)
        everything: Dataset[Any] = ConcatDataset(parts)
        return Corpus(everything, None if dev else self.dev, None if test else self.test)


def check_data(name: str, data: object) -> None:
    """Check that this can be read.

    Raises:
        OptionError: if it is neither a Dataset nor a DataLoader, or is empty. The message calls it `name`.
    """
    is_list = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, Mapping))
    if not is_list and not isinstance(data, (Dataset, DataLoader)):
        raise OptionError(f"{name} is {data!r}: give a Dataset or a DataLoader")
    if length_of(data) == 0:
        raise OptionError(f"{name} is empty: {_why_empty(data)}")


def _why_empty(data: object) -> str:
    samples = length_of(data.dataset) if isinstance(data, DataLoader) else 0
    if not samples or not isinstance(data, DataLoader):
        return "it has no samples"
    if data.drop_last or getattr(data.batch_sampler, "drop_last", False):
        size = data.batch_size or getattr(data.batch_sampler, "batch_size", None)
        return f"its loader drops batches of less than {size} samples (drop_last=True), and there are {samples} samples"
    return f"its sampler selects none of its {samples} samples"


def length_of(data: object) -> int | None:
    """Return the number of a DataLoader's batches or a Dataset's samples; None if it is unknown."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader of an IterableDataset without a length
        return None


def divides_samples(loader: DataLoader[Any]) -> bool:
    """Return whether the loader divides its samples evenly among processes that train together.

    A stream that does so by itself cannot be recognized.
    """
    if isinstance(loader.dataset, DividedStream):
        return True
    return any(isinstance(part, EpochSampler) or divides_itself(part) for part in samplers_of(loader))


def divides_itself(sampler: object) -> bool:
    """Return whether a sampler yields the share of one process, as torch's DistributedSampler does."""
    return isinstance(sampler, SharedSampler) or hasattr(sampler, "num_replicas")


def has_exact_length(loader: DataLoader[Any]) -> bool:
    """Return whether the loader yields as many batches as its length, which may otherwise be an estimate."""
    return not isinstance(loader.dataset, IterableDataset) and type(loader.batch_sampler) is BatchSampler


def samples_of(data: Data | None) -> int | None:
    """Return the number of samples of a Dataset or a DataLoader; None if it is unknown."""
    return length_of(data.dataset if isinstance(data, DataLoader) else data)


def is_indexed(data: object) -> bool:
    """Return whether this is a Dataset whose samples have an index and whose length is known."""
    return not isinstance(data, (DataLoader, IterableDataset)) and length_of(data) is not None


class EpochSampler(Sampler[int]):
    """Yields every index once, in an order that depends only on the seed and the epoch.

    An epoch can therefore be repeated without the epochs before it. Several processes divide the order among
    themselves: each takes every n-th index, and if the number of samples is not divisible, the first ones are used
    twice.
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
        """Set the epoch that is read next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.processes.world_size)

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle or (self.epoch == 1 and not self.shuffle_first):
            order = list(range(self.size))
        else:
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator).tolist()
        missing = len(self) * self.processes.world_size - self.size
        order += (order * missing)[:missing]
        return iter(order[self.processes.rank :: self.processes.world_size])


class SharedSampler(Sampler[Any]):
    """Divides the indices or batches of another sampler among several processes: each takes every n-th.

    The rest is dropped. The sampler must yield the same in every process.
    """

    def __init__(self, sampler: Iterable[Any], processes: Processes) -> None:
        self.sampler, self.processes = sampler, processes

    def __len__(self) -> int:
        return len(self.sampler) // self.processes.world_size  # type: ignore[arg-type]  # as for the sampler

    def __iter__(self) -> Iterator[Any]:
        size = self.processes.world_size
        group: list[Any] = []
        for item in self.sampler:
            group.append(item)
            if len(group) == size:
                yield group[self.processes.rank]
                group = []


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return a 63-bit seed, which differs for each epoch and rank."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + rank) % 2**63


def _ignore_sigterm(_: int) -> None:
    """Initialize a worker: a cluster sends SIGTERM to each process, but the last batches must still be read."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class EpochLoader(DataLoader[Any]):
    """A loader of a Dataset, whose workers' seeds depend only on a seed, the epoch and the rank.

    Args:
        batches: The arguments of DataLoader that determine the batches, such as `batch_size`.
    """

    def __init__(
        self, data: Dataset[Any], options: TrainingOptions, batches: Mapping[str, Any], *, seed: int, rank: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        # With its own generator, drawing the workers' seeds does not change the state of the one that dropout uses.
        generator = torch.Generator()
        super().__init__(
            data, num_workers=options.num_workers, collate_fn=options.collate_fn, generator=generator,
            pin_memory=device.type == "cuda", worker_init_fn=_ignore_sigterm, **batches,
        )  # fmt: skip
        self.seed, self.rank = seed, rank

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is read next."""
        if isinstance(self.generator, torch.Generator):
            self.generator.manual_seed(epoch_seed(self.seed, epoch, self.rank))


def training_loader(
    data: Data, options: TrainingOptions, seed: int, device: torch.device, processes: Processes = SINGLE
) -> DataLoader[Any]:
    """Return the loader of the training samples: the given one, or one that shuffles by seed and epoch.

    Raises:
        OptionError: if an option that applies to Datasets is given for a DataLoader, a sampler is invalid, or no batch
            remains.
    """
    if isinstance(data, DataLoader):
        given = [name for name in OF_DATASETS if getattr(options, name) not in (None, False)]
        if given:
            raise OptionError(
                f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} given, but train is a DataLoader, which "
                "has its own: omit one of them"
            )
        return divide(data, processes)
    batches: dict[str, Any]
    if options.batch_sampler is not None:
        batches = {"batch_sampler": _given_sampler("batch_sampler", options.batch_sampler, data, processes)}
    else:
        sampler = _sampler(data, options, seed, processes)
        batches = {"batch_size": options.mini_batch_size, "sampler": sampler, "drop_last": options.drop_last}
    loader = EpochLoader(data, options, batches, seed=seed, rank=processes.rank, device=device)
    if length_of(loader) == 0:
        raise OptionError(f"train is empty: {_why_empty(loader)}")
    return divide(loader, processes)


def _sampler(data: Dataset[Any], options: TrainingOptions, seed: int, processes: Processes) -> Iterable[int] | None:
    samples = length_of(data)
    if options.sampler is not None:
        return _given_sampler("sampler", options.sampler, data, processes)
    if samples is None or isinstance(data, IterableDataset):
        return None
    return EpochSampler(samples, seed, processes, shuffle=options.shuffle, first=options.shuffle_first_epoch)


def _given_sampler(option: str, given: Any, data: Dataset[Any], processes: Processes) -> Iterable[Any]:
    """Return the sampler that was given, or that the given function returns for the data: the share of this process.

    Raises:
        OptionError: if it is invalid, or would be different in each process.
    """
    if isinstance(data, IterableDataset):
        raise OptionError(f"{option} is given, but train is an IterableDataset, which has its own order: omit {option}")
    sampler = given if isinstance(given, Sampler) else given(data)
    is_of_batches = option == "batch_sampler"
    # A batch sampler need not be torch's, but a generator could be read only once.
    if not isinstance(sampler, Sampler) and not (is_of_batches and _is_iterated_anew(sampler)):
        raise OptionError(f"{option} returned {sampler!r}, which is not a torch sampler")
    if isinstance(sampler, SAMPLERS_OF_INDICES if is_of_batches else BatchSampler):
        name, other = type(sampler).__name__, "sampler" if is_of_batches else "batch_sampler"
        raise OptionError(f"{option} is a {name}: give it as {other}")
    parts = list(_samplers_in(sampler))
    if not processes.several or any(map(divides_itself, parts)):
        return sampler
    for part in parts:
        if getattr(part, "generator", part) is None:
            raise OptionError(
                f"{option}: the processes divide what the {type(part).__name__} selects, which must be the same in "
                "each of them: create it with generator=torch.Generator()"
            )
    return SharedSampler(sampler, processes)


def _is_iterated_anew(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (Iterator, str))


def evaluation_loader(
    data: Data, options: TrainingOptions, device: torch.device, processes: Processes = SINGLE
) -> DataLoader[Any]:
    """Return the loader of an evaluated split, which keeps the order of the samples.

    Several processes divide the samples among themselves, and use none twice.

    Raises:
        OptionError: if there are more processes than samples.
    """
    if isinstance(data, DataLoader):
        return divide(data, processes)
    samples = length_of(data)
    if processes.several and is_indexed(data) and samples is not None:
        if samples < processes.world_size:
            raise OptionError(
                f"a split has {samples} samples for {processes.world_size} processes: each needs at least one"
            )
        data = Subset(data, range(processes.rank, samples, processes.world_size))
    batches = {"batch_size": options.eval_batch_size or options.mini_batch_size}
    loader = EpochLoader(data, options, batches, seed=0, rank=processes.rank, device=device)
    return divide(loader, processes)


def sample_of(data: Data, size: float | int, seed: int) -> Dataset[Any]:
    """Return a random sample of a Dataset, which depends only on the seed.

    Args:
        size: A fraction (float) or a number of samples (int).

    Raises:
        OptionError: if it is not a Dataset with a length.
    """
    samples = length_of(data)
    if not is_indexed(data) or samples is None:
        raise OptionError("monitor_train_sample requires that train is a Dataset with a length")
    count = min(samples, max(1, round(samples * size) if isinstance(size, float) else size))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(epoch_seed(seed, 0)))
    return Subset(data, sorted(order[:count].tolist()))  # type: ignore[arg-type]  # not a DataLoader, as it is indexed


def samplers_of(loader: DataLoader[Any]) -> list[object]:
    """Return the samplers of a loader: its sampler, its batch sampler, and the samplers inside them."""
    found = [*_samplers_in(loader.sampler), *_samplers_in(loader.batch_sampler)]
    return list({id(each): each for each in found}.values())


def _samplers_in(sampler: object) -> Iterator[object]:
    """Yield a sampler, the one inside it, and so on."""
    seen: list[object] = []
    while sampler is not None and not any(sampler is each for each in seen):
        seen.append(sampler)
        yield sampler
        inner = getattr(sampler, "sampler", None)
        sampler = getattr(sampler, "batch_sampler", None) if inner is None else inner


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Call `set_epoch` of a loader, its data and its samplers, if they have one."""
    for part in (loader, loader.dataset, *samplers_of(loader)):
        setter = getattr(part, "set_epoch", None)
        if callable(setter):
            setter(epoch)
