"""Batches of various structures: counted, split and moved."""

from __future__ import annotations

import logging
from collections import UserDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from support.tiny_training import linear, make_trainer, train
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, default_collate

from trainwire import Forward, ModelTrainer
from trainwire.training.data.batches import BatchStructure, to_device
from trainwire_protocol.errors import UsageError

META = torch.device("meta")


class Pair(NamedTuple):
    image: Any
    label: Any


@dataclass(frozen=True)
class Frozen:
    inputs: Any
    name: str = "batch"
    total: Any = field(init=False, default=None)


@attrs.define
class Slotted:
    inputs: Any
    mask: Any = None


class Encoding(UserDict[str, Any]):
    """A map with a method of its own, such as that of a tokenizer."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Encoding:
        self.data = {key: value.to(device, non_blocking=non_blocking) for key, value in self.data.items()}
        return self


class Graphs:
    """Graphs in one batch, as torch-geometric has them: the nodes of all of them are in one tensor."""

    conversions = 0

    def __init__(self, graphs: list[Tensor]) -> None:
        self.nodes, self.sizes = torch.cat(graphs), [len(graph) for graph in graphs]

    @property
    def num_graphs(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_data_list(cls, graphs: list[Tensor]) -> Graphs:
        return cls(graphs)

    def to_data_list(self) -> list[Tensor]:
        self.conversions += 1
        return list(self.nodes.split(self.sizes))


class Sentence:
    """An object that has a length of its own, which is not the number of samples."""

    def __init__(self, text: str = "a b c") -> None:
        self.words = text.split()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> str:
        return self.words[index]


def count_samples(batch: Any) -> int | None:
    return BatchStructure().count(batch)


def split_samples(batch: Any, samples: int, size: int) -> list[Any]:
    return BatchStructure().split(batch, samples, size)


def images(*widths: int) -> list[Tensor]:
    return [torch.rand(3, 4, width) for width in widths]


def boxes(*counts: int) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.rand(count, 4), "label": torch.tensor(count)} for count in counts]


def packed(*lengths: int) -> PackedSequence:
    return pack_sequence([torch.full((length, 2), float(length)) for length in lengths], enforce_sorted=False)


def nested(*lengths: int, layout: torch.layout = torch.jagged) -> Tensor:
    return torch.nested.nested_tensor([torch.rand(length, 2) for length in lengths], layout=layout)


COUNTED: list[tuple[str, Any, int | None]] = [
    ("tensor", torch.zeros(7, 2), 7),
    ("inputs and target", [torch.zeros(7, 2), torch.zeros(7)], 7),
    ("time first", [torch.zeros(5, 7, 2), torch.zeros(7), torch.zeros(7)], 7),
    ("inputs in a tuple", [[torch.zeros(8, 3), torch.zeros(8, 5)], torch.zeros(8)], 8),
    ("two of a kind", [{"ids": torch.zeros(8, 3)}, {"ids": torch.zeros(8, 5)}], 8),
    ("map", {"scale": torch.tensor(1.0), "rows": torch.zeros(4), "kind": "test"}, 4),
    ("map of a class of its own", Encoding(ids=torch.zeros(4, 9), mask=torch.zeros(4, 9)), 4),
    ("names beside tensors", [torch.zeros(3, 2), ["a", "b", "c"]], 3),
    ("images of different widths", (tuple(images(4, 5, 6, 4)), tuple(boxes(1, 2, 1, 1))), 4),
    ("images of one width", (tuple(images(4, 4)), tuple(boxes(1, 1))), 2),
    ("vectors of different lengths", [torch.zeros(4), torch.zeros(6), torch.zeros(5)], 3),
    ("ragged lists", [[torch.zeros(4), torch.zeros(2)], [torch.zeros(6)], [torch.zeros(1)]], 3),
    ("lists of words", [["a", "b"], ["c"], ["d", "e", "f"]], 3),
    ("images with labels", [(image, 5) for image in images(4, 5, 6, 4)], 4),
    ("images with tensors", [(image, torch.tensor(1)) for image in images(4, 4)], 2),
    ("maps", boxes(1, 2, 3, 1, 1), 5),
    ("token ids", {"ids": [[1, 2], [3, 4], [5, 6]], "mask": [[1, 1], [1, 0], [1, 1]]}, 3),
    ("images with numbers", [images(4, 4), (1, 2)], 2),
    ("strings", ["a", "bb", "ccc"], 3),
    ("numbers", [1.5, 2.5], 2),
    ("sentences", [Sentence(), Sentence("a")], 2),
    ("sentences and labels", ([Sentence(), Sentence("a")], torch.zeros(2)), 2),
    ("dataclasses", [Frozen(torch.zeros(3)), Frozen(torch.zeros(3))], 2),
    ("dataclass", Frozen(torch.zeros(4, 2)), 4),
    ("attrs", Slotted(torch.zeros(4, 2), torch.zeros(4)), 4),
    ("namespace", SimpleNamespace(x=torch.zeros(4, 2), y=torch.zeros(4)), 4),
    ("packed", packed(3, 1, 2), 3),
    ("packed and target", (packed(3, 1, 2), torch.zeros(3)), 3),
    ("two packed", (packed(3, 1, 2), packed(1, 1, 1)), 3),
    ("nested", nested(3, 1, 2), 3),
    ("graphs", Graphs([torch.zeros(5), torch.zeros(2)]), 2),
    ("graphs and targets", [Graphs([torch.zeros(5), torch.zeros(2)]), torch.zeros(2)], 2),
    ("array", np.zeros((4, 2)), 4),
    ("plain object", type("Batch", (), {})(), None),
    ("string", "text", None),
    ("number", torch.tensor(1.0), None),
    ("nothing", [], None),
]


@pytest.mark.parametrize(("batch", "samples"), [pytest.param(*case, id=name) for name, *case in COUNTED])
def test_the_samples_of_a_batch_are_counted(batch: Any, samples: int | None) -> None:
    """Rows of tensors and items of lists are distinguished from columns, such as inputs and target."""
    assert count_samples(batch) == samples


@pytest.mark.parametrize(
    "batch", [pytest.param(batch, id=name) for name, batch, samples in COUNTED if samples and name != "time first"]
)
def test_chunks_contain_each_sample_once(batch: Any) -> None:
    """Every structure that is counted is split into chunks of the right sizes, all of the same type."""
    structure = BatchStructure()
    samples = structure.count(batch)
    assert samples is not None
    chunks = structure.split(batch, samples, 2)
    assert [structure.count(chunk) for chunk in chunks] == [2] * (samples // 2) + [1] * (samples % 2)
    assert {type(chunk) for chunk in chunks} == {type(batch)}


def test_samples_of_equal_sizes_are_counted_like_those_before() -> None:
    """A list whose tensors have equal sizes by chance holds samples if an earlier one did."""
    structure = BatchStructure()
    assert structure.count([torch.zeros(5), torch.zeros(4)]) == 2
    assert structure.count([torch.zeros(5)]) == 1
    assert [len(chunk) for chunk in structure.split([torch.zeros(5), torch.zeros(5), torch.zeros(5)], 3, 2)] == [2, 1]
    assert BatchStructure().count([torch.zeros(5)]) == 5  # as a TensorDataset of one tensor is collated


def test_the_batch_size_of_the_loader_tells_images_from_columns() -> None:
    """A list with as many images as a batch has samples is a list of samples, although each has three channels."""
    structure = BatchStructure(4)
    assert structure.count(images(4, 5, 6, 4)) == 4
    assert [len(chunk) for chunk in structure.split(images(4, 4, 4, 4), 4, 3)] == [3, 1]
    assert structure.count(images(4, 5)) == 2
    structure = BatchStructure(2)
    assert structure.count([torch.zeros(2, 9, 4), torch.zeros(2, 7, 4)]) == 2
    assert structure.count([torch.zeros(1, 9, 4), torch.zeros(1, 7, 4)]) == 1


def test_parts_without_rows_are_in_every_chunk() -> None:
    """Single values and tensors of another length are the same in each chunk."""
    batch = {"pair": Pair(torch.arange(3), ["a", "b", "c"]), "scale": torch.tensor(2.0), "kind": "abc", "old": [1, 2]}
    first, second = split_samples(batch, 3, 2)
    assert (first["pair"].image.tolist(), second["pair"].image.tolist()) == ([0, 1], [2])
    assert (first["pair"].label, second["pair"].label) == (["a", "b"], ["c"])
    assert (second["scale"].item(), second["kind"], second["old"]) == (2.0, "abc", [1, 2])


def test_as_many_images_as_channels_are_split_by_image() -> None:
    """Three images with three channels are a list of samples if the targets beside them are one."""
    first, second = split_samples((tuple(images(4, 4, 4)), tuple(boxes(1, 1, 1))), 3, 2)
    assert [image.shape for image in first[0] + second[0]] == [(3, 4, 4)] * 3
    first, second = split_samples([[torch.zeros(2, 3), torch.zeros(2, 5)], torch.zeros(2)], 2, 1)
    assert [part.shape for part in first[0]] == [(1, 3), (1, 5)]


def test_packed_and_nested_sequences_keep_their_samples() -> None:
    """The chunks of a packed, a nested and a sparse tensor hold the sequences and rows that the whole one holds."""
    lengths = [3, 1, 2]
    chunks = split_samples(packed(*lengths), 3, 2)
    found = [pad_packed_sequence(chunk, batch_first=True) for chunk in chunks]
    assert [length for _, each in found for length in each.tolist()] == lengths
    assert [sequence[0, 0].item() for padded, _ in found for sequence in padded] == lengths
    whole = nested(*lengths)
    rows = [row for chunk in split_samples(whole, 3, 2) for row in chunk.unbind()]
    assert all(torch.equal(row, old) for row, old in zip(rows, whole.unbind(), strict=True))
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(torch.cat([chunk.to_dense() for chunk in split_samples(sparse, 3, 2)]), torch.eye(3))


def test_graphs_are_separated_once_for_all_chunks() -> None:
    """Each chunk holds its graphs, and the batch was converted to a list only once."""
    batch = {"graphs": Graphs([torch.full((size,), float(size)) for size in (3, 1, 2)]), "target": torch.arange(3)}
    chunks = split_samples(batch, 3, 1)
    assert [chunk["graphs"].nodes.tolist() for chunk in chunks] == [[3.0] * 3, [1.0], [2.0] * 2]
    assert batch["graphs"].conversions == 1  # type: ignore[union-attr]  # these are the graphs


def test_all_tensors_of_a_batch_are_moved() -> None:
    """Tensors are moved within containers and dataclasses, also frozen ones; strings and numbers are unchanged."""
    tensor = torch.zeros(3, 2)
    batch = {
        "list": [tensor, "text"], "tuple": (tensor, 5), "pair": Pair(tensor, None), "frozen": Frozen(tensor),
        "slotted": Slotted(tensor), "default": defaultdict(list, {"a": tensor}), "space": SimpleNamespace(x=tensor),
    }  # fmt: skip
    moved = to_device(batch, META)
    tensors = [
        moved["list"][0], moved["tuple"][0], moved["pair"].image, moved["frozen"].inputs, moved["slotted"].inputs,
        moved["default"]["a"], moved["space"].x,
    ]  # fmt: skip
    assert {each.device for each in tensors} == {META}
    assert (moved["list"][1], moved["tuple"][1], moved["pair"].label, moved["frozen"].name) == (
        "text",
        5,
        None,
        "batch",
    )
    assert {name: type(part) for name, part in moved.items()} == {name: type(part) for name, part in batch.items()}
    assert moved["default"]["new"] == []
    assert batch["frozen"].inputs is tensor  # type: ignore[attr-defined]  # the batch itself is unchanged


def test_a_batch_that_is_on_the_device_is_not_copied() -> None:
    """It is the same object, so that lists and maps of any class are kept."""

    class Names(list[Any]):
        origin = "file"

    names = Names([torch.zeros(2), "a"])
    names.origin = "memory"
    batch = [torch.zeros(3), {"a": Frozen(torch.zeros(3))}, names]
    assert to_device(batch, torch.device("cpu")) is batch
    moved = to_device(names, META)
    assert (type(moved), moved.origin, moved[0].device) == (Names, "memory", META)


class Movable:
    def __init__(self) -> None:
        self.tensor, self.given = torch.zeros(2), {}  # type: ignore[var-annotated]  # the test compares it


class Returning(Movable):
    def to(self, device: torch.device) -> Movable:
        moved = Movable()
        moved.tensor = self.tensor.to(device)
        return moved


class InPlace(Movable):
    def to(self, device: torch.device, pin_memory: bool = False) -> None:
        self.tensor, self.given = self.tensor.to(device), {"pin_memory": pin_memory}


class Forwarding(Movable):
    def to(self, *args: Any, **kwargs: Any) -> Movable:
        self.tensor, self.given = self.tensor.to(*args, **kwargs), kwargs
        return self


class ByKeyword(Movable):
    def to(self, *, device: torch.device, non_blocking: bool) -> Movable:
        self.tensor, self.given = self.tensor.to(device), {"non_blocking": non_blocking}
        return self


class Nested(Movable):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InPlace()

    def to(self, *args: Any, **kwargs: Any) -> None:
        self.inner.to(*args, **kwargs)
        self.tensor = self.inner.tensor


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Returning, {}), (InPlace, {"pin_memory": False}), (Forwarding, {"non_blocking": True}),
     (ByKeyword, {"non_blocking": True}), (Nested, {})],
)  # fmt: skip
def test_objects_move_themselves(kind: type[Movable], given: dict[str, Any]) -> None:
    """A method `to` is called with the arguments that it takes, and may return nothing if it moves in place."""
    moved = to_device({"a": [kind()]}, META)["a"][0]
    assert (moved.tensor.device, moved.given) == (META, given)


class Rows:
    """A batch of a class of its own, which says nothing about its samples."""

    def __init__(self, rows: list[tuple[Tensor, Tensor]]) -> None:
        self.rows = {"all": rows}

    def __len__(self) -> int:
        raise TypeError("unsized")


class RowTrainer(ModelTrainer):
    def forward(self, batch: Rows) -> Forward:
        inputs, target = default_collate(batch.rows["all"])
        return Forward(nn.functional.mse_loss(self.model(inputs), target), weight=len(inputs))


class CountingRowTrainer(RowTrainer):
    def samples_in_batch(self, batch: Rows) -> int:
        return len(batch.rows["all"])

    def batch_to_device(self, batch: Rows, device: torch.device) -> Rows:
        return Rows([(inputs.to(device), target.to(device)) for inputs, target in batch.rows["all"]])


class SplittingRowTrainer(CountingRowTrainer):
    def split_batch(self, batch: Rows, size: int) -> list[Rows]:
        rows = batch.rows["all"]
        return [Rows(rows[start : start + size]) for start in range(0, len(rows), size)]


def row_loader() -> DataLoader[Any]:
    torch.manual_seed(0)
    rows: Any = [(torch.randn(4), torch.randn(2)) for _ in range(7)]
    return DataLoader(rows, 4, collate_fn=Rows)


def test_a_trainer_defines_its_batches(tmp_path: Path) -> None:
    """Overridden methods count, split and move the batches: the result is that of whole batches."""

    def weights(chunk: int | None) -> tuple[Tensor, list[int]]:
        trainer, samples = SplittingRowTrainer(linear()), []
        trainer.on("after_training_batch")(lambda batch: samples.append(batch.samples))
        train(tmp_path / str(chunk), trainer=trainer, train=row_loader(), mini_batch_chunk_size=chunk, max_epochs=1)
        return trainer.model.weight.detach(), samples  # type: ignore[operator,return-value]  # a linear layer

    (whole, counted), (chunked, again) = weights(None), weights(3)
    torch.testing.assert_close(whole, chunked)
    assert counted == again == [4, 3]


def test_an_unknown_number_of_samples_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each batch then counts as one sample; the warning names the method to override."""
    with caplog.at_level(logging.WARNING, "trainwire"):
        train(tmp_path, trainer=RowTrainer(linear()), train=row_loader(), max_epochs=2)
    found = [record.message for record in caplog.records if "how many samples" in record.message]
    assert len(found) == 1
    assert "a Rows, has; each counts as one: override ModelTrainer.samples_in_batch" in found[0]


def test_a_number_of_samples_that_is_none_is_refused(tmp_path: Path) -> None:
    """An override of `samples_in_batch` returns a whole number."""

    class Uncounted(RowTrainer):
        def samples_in_batch(self, batch: Rows) -> int:
            return None  # type: ignore[return-value]  # what the test is about

    with pytest.raises(UsageError, match="samples_in_batch returned None: return the number of samples, an int"):
        train(tmp_path, trainer=Uncounted(linear()), train=row_loader())


class Wrong(SplittingRowTrainer):
    def split_batch(self, batch: Rows, size: int) -> list[Rows]:
        return super().split_batch(batch, size)[:1]


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (RowTrainer, "unknown how many samples a batch, a Rows, has: override ModelTrainer.samples_in_batch and split"),
        (CountingRowTrainer, "a Rows in a batch cannot be split into chunks: override ModelTrainer.split_batch"),
        (Wrong, r"is 3, so a batch of 4 samples has 2 chunks, but ModelTrainer.split_batch returned 1: each but"),
    ],
)
def test_a_chunk_that_cannot_be_made_is_refused(tmp_path: Path, trainer: type[ModelTrainer], message: str) -> None:
    """The error is raised before the weights change, and names the option and the method to override."""
    model = linear()
    with pytest.raises(UsageError, match=f"mini_batch_chunk_size.*{message}"):
        train(tmp_path, trainer=trainer(model), train=row_loader(), mini_batch_chunk_size=3)
    assert torch.equal(model.weight, linear().weight)


def test_a_part_that_cannot_be_split_is_refused() -> None:
    """An object within a batch that has as many samples as the batch, but cannot be split, is not passed on whole."""
    batch = [torch.zeros(2), type("Batch", (), {"num_graphs": 2})()]
    with pytest.raises(UsageError, match="a Batch in a batch cannot be split"):
        split_samples(batch, 2, 1)


def test_the_default_methods_can_be_called() -> None:
    """They are public, for an override that handles some batches itself."""
    trainer = make_trainer()
    batch = [torch.zeros(3, 4), torch.zeros(3)]
    assert trainer.samples_in_batch(batch) == 3
    assert [len(inputs) for inputs, _ in trainer.split_batch(batch, 2)] == [2, 1]
    assert trainer.batch_to_device(batch, META)[0].device == META
