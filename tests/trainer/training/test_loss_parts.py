"""Named parts of a loss: at each step, over an epoch, and in evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, points, train
from support.torchrun import torchrun
from torch.nn.functional import cross_entropy

from trainwire import Forward, ModelTrainer
from trainwire_protocol.errors import UsageError


class Parts(ModelTrainer):
    """Returns a mean over samples with a weight of its own, and a part that only batches with many ones have."""

    def forward(self, batch: Any) -> Forward:
        inputs, target = batch
        output = self.model(inputs)
        ce, size = cross_entropy(output, target), output.square().mean()
        parts: dict[str, Any] = {"ce": ce, "size": size}
        if target.sum() > len(target) / 2:
            parts["ones"] = 2
        return Forward(ce + 0.1 * size, output, target, weight=3 * len(target), parts=parts)


def plain(model: torch.nn.Module, sizes: list[int], data: Any) -> list[tuple[int, dict[str, float]]]:
    """Return the weight and the parts of batches of these sizes."""
    found, start = [], 0
    for size in sizes:
        batch = [column[start : start + size] for column in data.tensors]
        with torch.no_grad():
            result = Parts(model).forward(batch)
        found.append((size, {name: float(part) for name, part in result.parts.items()}))
        start += size
    return found


def mean(batches: list[tuple[int, dict[str, float]]], name: str) -> float:
    known = [(size, parts[name]) for size, parts in batches if name in parts]
    return sum(size * part for size, part in known) / sum(size for size, _ in known)


@pytest.mark.parametrize("chunk", [None, 4])
def test_parts_are_recorded_and_averaged(tmp_path: Path, chunk: int | None) -> None:
    """At each step they are means of the batch, after it means of the epoch and of dev, weighted as the loss is."""
    data, dev = points(21), points(13, 1)
    options: dict[str, Any] = {
        "shuffle": False, "mini_batch_size": 8, "eval_batch_size": 5, "max_epochs": 1, "learning_rate": 1e-12,
        "mini_batch_chunk_size": chunk,
    }  # fmt: skip
    result = train(tmp_path, trainer=Parts(linear()), train=data, dev=dev, **options)
    chunks = plain(linear(), [8, 8, 5] if chunk is None else [4, 4, 4, 4, 4, 1], data)
    evaluated = plain(linear(), [5, 5, 3], dev)
    assert 0 < sum("ones" in parts for _, parts in chunks) < len(chunks)
    for name in ("ce", "size", "ones"):
        assert result.history[0][f"train/{name}"] == pytest.approx(mean(chunks, name), rel=1e-6)
        assert result.history[0][f"dev/{name}"] == pytest.approx(mean(evaluated, name), rel=1e-6)
    events = read_events(tmp_path)
    steps = [chunks[:1], chunks[1:2], chunks[2:]] if chunk is None else [chunks[:2], chunks[2:4], chunks[4:]]
    for name in ("ce", "ones"):
        recorded = [event.value for event in events if event.name == f"train/batch_loss/{name}"]
        having = [each for each in steps if any(name in parts for _, parts in each)]
        assert recorded == pytest.approx([mean(each, name) for each in having], rel=1e-6)
    [finished] = [event for event in events if event.name == "epoch/finished"]
    assert {"train/ce", "dev/ce", "train/ones"} <= finished.value["metrics"].keys()  # the columns of loss.tsv


def test_parts_are_resumed(tmp_path: Path) -> None:
    """Interrupted in an epoch and resumed, the means are exactly those of a whole training."""
    options: dict[str, Any] = {"train": points(21), "dev": points(8), "mini_batch_size": 4, "resume": True}
    whole = train(tmp_path / "whole", trainer=Parts(linear()), **options)
    train(tmp_path / "parts", Interrupt(8), trainer=Parts(linear()), **options)
    resumed = train(tmp_path / "parts", trainer=Parts(linear()), **options)
    assert resumed.history == whole.history
    assert "train/ones" in whole.history[1]


def test_an_evaluation_outside_of_a_training_has_parts() -> None:
    """`evaluate` returns their means too."""
    data = points(13)
    scores = Parts(linear()).evaluate(data, mini_batch_size=5)
    batches = plain(linear(), [5, 5, 3], data)
    assert {name: scores[name] for name in ("ce", "size")} == pytest.approx(
        {name: mean(batches, name) for name in ("ce", "size")}
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": 1.0}, "cannot be named 'loss'"),
        ({"accuracy": 1.0}, "cannot be named 'accuracy'"),
        ({"": 1.0}, "cannot be named ''"),
        ({3: 1.0}, "cannot be named 3"),
        ({"ce": torch.ones(2)}, r"the part 'ce' of the loss is a tensor of shape \(2,\); it must be"),
        ({"ce": "1"}, "the part 'ce' of the loss is a str"),
        ([1.0], "the parts of the loss are a list"),
    ],
)
def test_invalid_parts_are_one_clear_error(tmp_path: Path, parts: Any, message: str) -> None:
    """It is raised for the first batch, before the weights change."""

    class Invalid(ModelTrainer):
        def forward(self, batch: Any) -> Forward:
            return super().forward(batch)._replace(parts=parts)

    model = linear()
    trainer = Invalid(model, loss=cross_entropy, metrics=make_trainer().metrics)
    with pytest.raises(UsageError, match=message):
        train(tmp_path, trainer=trainer, max_epochs=1)
    assert torch.equal(model.weight, linear().weight)


SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import linear, points, train
from torch.nn.functional import cross_entropy
from trainwire import Forward, ModelTrainer

rank = int(os.environ["RANK"])

class Parts(ModelTrainer):
    def forward(self, batch):
        loss = cross_entropy(self.model(batch[0]), batch[1])
        return Forward(loss, weight=len(batch[1]), parts={"rank": rank} | ({"second": 5} if rank else {}))

data = {"train": points(12), "dev": points(7)}
result = train(Path(sys.argv[1]), trainer=Parts(linear()), mini_batch_size=3, max_epochs=1, **data)
metrics = result.history[0]
found = [round(metrics[name], 6) for name in ("train/rank", "train/second", "dev/rank", "dev/second")]
sys.stdout.write(f"{rank} {found}\\n")
"""


def test_parts_are_averaged_over_processes(tmp_path: Path) -> None:
    """The means are those of all processes, also of a part that only one of them has."""
    output = torchrun(SCRIPT, tmp_path / "script")
    for rank in (0, 1):
        assert f"{rank} [0.5, 5.0, {round(3 / 7, 6)}, 5.0]" in output
