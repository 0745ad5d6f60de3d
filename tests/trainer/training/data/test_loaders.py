"""Datasets and loaders, and the order of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.tiny_training import points
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from trainwire.training.data.loaders import (
    Corpus,
    divides_samples,
    evaluation_loader,
    length_of,
    samplers_of,
    samples_of,
    set_epoch,
    training_loader,
)
from trainwire.training.distributed.processes import SINGLE, Processes
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


class Pairs(Sampler[list[int]]):
    """Yields the indices in pairs, in another order in each epoch."""

    def __init__(self, data: Any) -> None:
        self.data, self.epoch = data, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data) // 2

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter([order[first : first + 2] for first in range(0, len(order) - 1, 2)])


def loader_of(data: Any, processes: Processes = SINGLE, **options: Any) -> DataLoader[Any]:
    return training_loader(data, TrainingOptions(**options), 0, CPU, processes)


def test_drop_last_omits_an_incomplete_training_batch() -> None:
    """Evaluation uses all samples."""
    options = {"mini_batch_size": 4, "drop_last": True}
    assert [len(batch) for batch in loader_of(list(range(10)), **options)] == [4, 4]
    evaluated: Any = list(range(10))
    assert [len(batch) for batch in evaluation_loader(evaluated, TrainingOptions(**options), CPU)] == [4, 4, 2]


def test_collate_fn_makes_the_batches_of_training_and_evaluation() -> None:
    """It is called with lists of samples."""
    options = TrainingOptions(mini_batch_size=4, shuffle=False, collate_fn=tuple)
    data: Any = list(range(6))
    expected = [(0, 1, 2, 3), (4, 5)]
    assert list(training_loader(data, options, 0, CPU)) == expected
    assert list(evaluation_loader(data, options, CPU)) == expected


@pytest.mark.parametrize("given", [Pairs, Pairs(range(7)), lambda data: list(Pairs(data))])
def test_a_batch_sampler_determines_the_batches(given: Any) -> None:
    """It may be an object or a function of the data; an object is given the epoch."""
    loader = loader_of(list(range(7)), batch_sampler=given)
    for epoch in (1, 2):
        set_epoch(loader, epoch)
        expected = Pairs(range(7))
        if not isinstance(loader.batch_sampler, list):
            expected.set_epoch(epoch)
        assert [batch.tolist() for batch in loader] == list(expected)
    assert length_of(loader) == 3


def test_several_processes_divide_the_batches_of_a_batch_sampler() -> None:
    """Each takes every n-th batch, and the rest is dropped."""
    loaders = [loader_of(list(range(10)), Processes(rank, 2), batch_sampler=Pairs) for rank in (0, 1)]
    expected = Pairs(range(10))
    expected.set_epoch(2)
    batches = list(expected)
    for rank, loader in enumerate(loaders):
        set_epoch(loader, 2)
        assert [batch.tolist() for batch in loader] == batches[rank:4:2]
        assert (length_of(loader), divides_samples(loader)) == (2, True)


def test_a_sampler_that_divides_itself_is_not_divided_again() -> None:
    """The share of torch's DistributedSampler is read in full, also inside a batch sampler."""
    data, processes = list(range(12)), Processes(1, 2)
    own: Any = DistributedSampler(data, 2, 1, shuffle=False)  # type: ignore[arg-type]  # a list will do
    for options in ({"sampler": own, "mini_batch_size": 3}, {"batch_sampler": BatchSampler(own, 3, drop_last=False)}):
        loader = loader_of(data, processes, **options)
        assert torch.cat(list(loader)).tolist() == [1, 3, 5, 7, 9, 11]
        assert divides_samples(loader)


def test_the_samplers_inside_others_are_found() -> None:
    """Their generators are part of a checkpoint, and they are given the epoch."""
    inner = RandomSampler(range(12), generator=torch.Generator())  # type: ignore[arg-type]  # it has a length
    batches = BatchSampler(inner, 3, drop_last=False)
    loader = loader_of(list(range(12)), Processes(1, 2), batch_sampler=batches)
    assert {id(inner), id(batches), id(loader.batch_sampler)} <= {id(each) for each in samplers_of(loader)}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            DataLoader(points(4)), {"collate_fn": tuple, "drop_last": True},
            "drop_last and collate_fn are given, but train is a DataLoader, which has its own: omit",
        ),
        (DataLoader(points(4)), {"batch_sampler": Pairs}, "batch_sampler is given, but train is a DataLoader"),
        (points(4), {"drop_last": True}, r"drops batches of less than 32 samples \(drop_last=True\), and there are 4"),
        (points(4), {"batch_sampler": Pairs, "sampler": SequentialSampler}, "batch_sampler and sampler are given"),
        (points(4), {"batch_sampler": Pairs, "drop_last": True}, "batch_sampler and drop_last are given"),
        (points(4), {"batch_sampler": SequentialSampler}, "batch_sampler is a SequentialSampler: give it as sampler"),
        (
            points(4), {"sampler": BatchSampler(SequentialSampler(points(4)), 2, drop_last=False)},
            "sampler is a BatchSampler: give it as batch_sampler",
        ),
        (points(4), {"batch_sampler": lambda data: iter([[0, 1]])}, "batch_sampler returned .*, which is not a torch"),
        (points(4), {"batch_sampler": 5}, "batch_sampler is 5; it must be a torch sampler of batches, or a function"),
        (points(4), {"collate_fn": 5}, "collate_fn is 5; it must be a function of a list of samples, or None"),
        (points(4), {"drop_last": 1}, "drop_last is 1; it must be True or False"),
        (Stream(), {"batch_sampler": Pairs}, "batch_sampler is given, but train is an IterableDataset"),
        (Stream(), {"sampler": SequentialSampler}, "sampler is given, but train is an IterableDataset"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_data_are_refused(data: Any, options: dict[str, Any], message: str) -> None:
    """The error says what to omit or to use instead."""
    with pytest.raises(OptionError, match=message):
        loader_of(data, **options)


def test_a_sampler_that_differs_between_processes_is_refused() -> None:
    """Without a generator of its own, it draws from torch's, which may differ."""
    with pytest.raises(
        OptionError, match="the RandomSampler selects, which must be the same in each of them: create it"
    ):
        loader_of(points(4), Processes(0, 2), batch_sampler=lambda data: BatchSampler(RandomSampler(data), 2, True))
    assert length_of(loader_of(points(4), batch_sampler=lambda data: BatchSampler(RandomSampler(data), 2, True))) == 2
