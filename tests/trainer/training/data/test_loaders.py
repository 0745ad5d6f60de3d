"""Datasets and loaders, and the order of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.tiny_training import points
from torch.utils.data import DataLoader, Dataset, IterableDataset

from trainwire.training.data.loaders import Corpus, evaluation_loader, length_of, samples_of, set_epoch, training_loader
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError

CPU = torch.device("cpu")


class Stream(IterableDataset[int]):
    """An iterable dataset without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class Numbers(Dataset[int]):
    """The numbers below `count`, each plus a random number from the worker's generator."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index + 1000 * int(torch.randint(1000, ()))


def indices(loader: DataLoader[Any], epoch: int) -> list[int]:
    set_epoch(loader, epoch)
    return torch.cat(list(loader)).tolist()


def test_the_order_of_an_epoch_depends_only_on_seed_and_epoch() -> None:
    """Epoch 3 has the same order whether or not the epochs before it were read; other epochs and seeds differ."""
    options = TrainingOptions(mini_batch_size=7)
    loader = training_loader(list(range(50)), options, seed=5, device=CPU)  # type: ignore[arg-type]  # a list will do
    orders = [indices(loader, epoch) for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    torch.manual_seed(0)
    again = training_loader(list(range(50)), options, seed=5, device=CPU)  # type: ignore[arg-type]
    assert indices(again, 3) == orders[2]
    assert indices(training_loader(list(range(50)), options, seed=6, device=CPU), 3) != orders[2]  # type: ignore[arg-type]


def test_workers_draw_the_same_random_numbers_in_an_epoch() -> None:
    """A worker's random numbers depend on seed and epoch, and the main process's generator is not used."""
    options = TrainingOptions(num_workers=1, mini_batch_size=4)
    before = torch.random.get_rng_state()
    first, again = (indices(training_loader(Numbers(8), options, 5, CPU), 2) for _ in range(2))
    assert first == again
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_shuffle_the_order_is_that_of_the_data() -> None:
    """`shuffle=False` keeps the order of the data; evaluation always does."""
    options = TrainingOptions(mini_batch_size=4, eval_batch_size=5, shuffle=False)
    data: Any = list(range(10))
    assert indices(training_loader(data, options, 0, CPU), 1) == data
    assert [len(batch) for batch in evaluation_loader(data, options, CPU)] == [5, 5]


def test_a_data_loader_is_used_unchanged() -> None:
    """A given DataLoader keeps its batches, and `set_epoch` of its sampler is called."""

    class Sampler(torch.utils.data.SequentialSampler):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = Sampler(range(6))
    loader: DataLoader[Any] = DataLoader(list(range(6)), batch_size=4, sampler=sampler)  # type: ignore[arg-type]
    assert training_loader(loader, TrainingOptions(), 0, CPU) is loader
    set_epoch(loader, 3)
    assert sampler.epoch == 3


def test_unknown_lengths_are_none() -> None:
    """A stream has no length, and neither does its loader."""
    assert length_of(Stream()) is None
    assert length_of(DataLoader(Stream())) is None
    assert samples_of(DataLoader(points(10), batch_size=4)) == 10
    assert length_of(DataLoader(points(10), batch_size=4)) == 3


@pytest.mark.parametrize("data", [None, "data.csv", {"a": 1}, 5, lambda: None])
def test_an_invalid_split_is_refused(data: Any) -> None:
    """A split is a Dataset, a DataLoader, or a list of samples."""
    with pytest.raises(OptionError, match=r"train is .*: give a Dataset or a DataLoader"):
        Corpus(data)


def test_an_empty_split_is_refused() -> None:
    """The error names the split."""
    with pytest.raises(OptionError, match="dev is empty"):
        Corpus(points(4), points(0))
