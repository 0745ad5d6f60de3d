"""Updates with the gradients of several batches: compared with plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt, weights
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from support.torchrun import torchrun
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset

from trainwire import Forward, ModelTrainer
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.regular_logging import RegularLogging
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch
from trainwire_protocol.errors import OptionError

PLAIN: dict[str, Any] = {
    "shuffle": False, "max_epochs": 2, "learning_rate": 0.1, "max_grad_norm": None, "attach_default_scheduler": False,
}  # fmt: skip


class Masked(ModelTrainer):
    """Returns the mean over the samples that a mask selects, and their number."""

    def forward(self, batch: Any) -> Forward:
        inputs, label = batch
        return Forward(masked_loss(self.model, inputs, label), weight=mask_of(inputs).sum())


def mask_of(inputs: Tensor) -> Tensor:
    return inputs[:, 2] > 0.3


def masked_loss(model: nn.Module, inputs: Tensor, label: Tensor) -> Tensor:
    losses = functional.cross_entropy(model(inputs), label, reduction="none")
    return (losses * mask_of(inputs)).sum() / mask_of(inputs).sum()


def weighted_loss(model: nn.Module, inputs: Tensor, label: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), label, torch.tensor([1.0, 3.0]))


def mean_loss(model: nn.Module, inputs: Tensor, label: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), label, label_smoothing=0.1)


def own_mean(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, label_smoothing=0.1)


def plain_weights(loss: Any, count: int, size: int, epochs: int = 2) -> Tensor:
    """Return the weights after epochs of batches of `size` points in plain PyTorch."""
    model, (inputs, labels) = linear(), points(count).tensors
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(epochs):
        for rows in torch.arange(count).split(size):
            optimizer.zero_grad()
            loss(model, inputs[rows], labels[rows]).backward()
            optimizer.step()
    return model.weight.detach()


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda model: Masked(model), masked_loss),
        (lambda model: make_trainer(model, loss=nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]))), weighted_loss),
        (lambda model: make_trainer(model, loss=own_mean), mean_loss),
    ],
)
def test_batches_equal_one_of_all_their_samples(tmp_path: Path, make: Any, loss: Any, chunk: int | None) -> None:
    """54 samples in batches of 8 make three updates of 24, 24 and 6 samples, whatever the loss is a mean over."""
    model = linear()
    result = train(
        tmp_path, trainer=make(model), train=points(54), mini_batch_size=8, accumulate_batches=3,
        mini_batch_chunk_size=chunk, **PLAIN,
    )  # fmt: skip
    assert result.steps == 6
    torch.testing.assert_close(model.weight.detach(), plain_weights(loss, 54, 24))


def test_hooks_have_the_numbers_of_batches_and_of_updates(tmp_path: Path) -> None:
    """A batch is announced by its number, and an update by that of its last batch, with the samples of all."""
    recorder, planned = Recorder(), list[int | None]()
    trainer = make_trainer()
    trainer.on("after_setup")(lambda setup: planned.append(trainer.run.planned_steps))
    schedule = LinearSchedule(0.0)
    result = train(tmp_path, recorder, schedule, trainer=trainer, train=points(40), mini_batch_size=8,
                   accumulate_batches=2)  # fmt: skip
    assert (result.steps, planned) == (6, [6])
    assert [batch.number for batch in recorder.of(BeforeTrainingBatch)] == [1, 2, 3, 4, 5] * 2
    updates = recorder.of(AfterTrainingBatch)
    assert [(update.number, update.batches, update.samples) for update in updates] == [
        (2, 5, 16),
        (4, 5, 16),
        (5, 5, 8),
    ] * 2
    assert [update.step for update in updates] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in read_events(tmp_path) if event.name == "train/batch_loss"] == [1, 2, 3, 4, 5, 6]
    assert result.history[-1]["learning_rate"] == 0.0


def test_progress_is_logged_whenever_enough_batches_were_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also if no update ends with the batch after which a line is due."""
    logging = RegularLogging(lines_per_epoch=2)
    train(tmp_path, logging, train=points(80), mini_batch_size=8, accumulate_batches=4, max_epochs=1)
    lines = [record.getMessage() for record in caplog.records if ": batch " in record.getMessage()]
    assert [line.partition(",")[0] for line in lines] == ["epoch 1: batch 8/10", "epoch 1: batch 10/10"]


def test_a_batch_of_an_update_can_be_skipped(tmp_path: Path) -> None:
    """The update is made with the others; a group that is skipped as a whole makes none."""
    model, trainer = linear(), make_trainer(kept := linear())

    @trainer.on("before_training_batch")
    def skip(batch: BeforeTrainingBatch) -> None:
        if batch.number in (2, 3, 4):
            trainer.control.skip_batch()

    options = {**PLAIN, "max_epochs": 1, "mini_batch_size": 8}
    assert train(tmp_path / "skipped", trainer=trainer, train=points(48), accumulate_batches=2, **options).steps == 2
    rest = Subset(points(48), [*range(8), *range(32, 48)])
    train(tmp_path / "rest", trainer=make_trainer(model), train=Subset(rest, range(8)), **options)
    train(
        tmp_path / "rest2",
        trainer=make_trainer(model),
        train=Subset(rest, range(8, 24)),
        accumulate_batches=2,
        **options,
    )
    torch.testing.assert_close(model.weight, kept.weight)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"batches_per_epoch": 4, "mini_batch_chunk_size": 5}])
def test_a_training_is_resumed_between_updates(tmp_path: Path, step: int, options: dict[str, Any]) -> None:
    """It ends with the same weights; a group may go beyond the end of the data if epochs do."""
    options = {"train": points(40), "mini_batch_size": 8, "accumulate_batches": 3, **options}
    whole = weights(tmp_path / "whole", (), **options)
    assert torch.equal(weights(tmp_path / "parts", (Interrupt(step),), (), **options), whole)


@pytest.mark.parametrize("value", [0, 2.5, None, True])
def test_invalid_numbers_of_batches_are_refused(tmp_path: Path, value: Any) -> None:
    """Before the first batch."""
    with pytest.raises(OptionError, match=r"accumulate_batches is .*; it must be an integer of at least 1"):
        train(tmp_path, accumulate_batches=value)


RANKS = """
import os, sys
from pathlib import Path
import torch
from torch import nn
sys.path[:0] = sys.argv[2:4]
from support.tiny_training import linear, make_trainer, points, train
from test_accumulated_batches import PLAIN, Masked, masked_loss, mean_loss, own_mean, plain_weights

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.set_num_threads(1)

class Experts(nn.Module):
    "Each batch uses one of two layers."
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([linear(), linear()])
    def forward(self, inputs):
        return self.layers[int(len(inputs) < 8)](inputs)

def report(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")

options = {**PLAIN, "train": points(56), "mini_batch_size": 4, "accumulate_batches": 3}
kinds = (("masked", Masked, masked_loss), ("mean", lambda model: make_trainer(model, loss=own_mean), mean_loss))
for name, make, loss in kinds:
    model = linear()
    result = train(folder / name, trainer=make(model), **options)
    report(name, result.steps, torch.allclose(model.weight, plain_weights(loss, 56, 24), atol=1e-6))

plain, model = Experts(), Experts()
optimizer, (inputs, labels) = torch.optim.SGD(plain.parameters(), 0.1), points(36).tensors
for _ in range(2):
    optimizer.zero_grad()
    for rank_read in (0, 1):
        for rows, classes in zip(inputs[rank_read::2].split(8), labels[rank_read::2].split(8)):
            (nn.functional.cross_entropy(plain(rows), classes, reduction="sum") / 36).backward()
    optimizer.step()
trainer = make_trainer(model)
result = train(folder / "experts", trainer=trainer, **{**options, "train": points(36), "mini_batch_size": 8})
weights = zip(model.parameters(), plain.parameters(), strict=True)
report("experts", result.steps, all(torch.allclose(found, expected, atol=1e-6) for found, expected in weights))

model = linear()
steps = {"dev": points(10, 1), "evaluate_each_k_steps": 1, "use_final_model_for_eval": True}
result = train(folder / "steps", trainer=make_trainer(model, loss=own_mean), **options, **steps)
scores = [(each.step, each.ends_epoch, round(each["dev/loss"], 5)) for each in result.history]
report("steps", torch.allclose(model.weight, plain_weights(mean_loss, 56, 24), atol=1e-6), scores)

model = linear()
result = train(folder / "stream", trainer=make_trainer(model), **{**options, "batches_per_epoch": 5})
report("epochs", result.steps, result.epochs, model.weight.sum().item())
"""


@pytest.mark.timeout(180)
def test_two_processes_average_the_gradients_of_all_batches(tmp_path: Path) -> None:
    """The weights are those of plain PyTorch with all batches of an update at once, and equal in both processes."""
    lines = torchrun(RANKS, tmp_path, Path(__file__).parent).splitlines()
    for line in ("masked 6 True", "mean 6 True", "experts 2 True"):
        assert lines.count(line) == 2, lines
    evaluated = [line for line in lines if line.startswith("steps True [(1, False,")]
    assert len(evaluated) == 2, lines
    assert evaluated[0] == evaluated[1]
    assert evaluated[0].count("True") == 3
    epochs = [line for line in lines if line.startswith("epochs 4 2")]
    assert len(epochs) == 2
    assert epochs[0] == epochs[1]
