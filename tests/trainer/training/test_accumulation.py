"""Batches that are split into chunks, and the weights of their losses: compared with plain PyTorch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_waits import GpuWaitGuard
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, train
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainwire import Forward, ModelTrainer
from trainwire.training import accumulation, forward, step
from trainwire.training.model.losses import Weight
from trainwire.training.state import MeanLoss
from trainwire_protocol.errors import UsageError

LENGTHS = [6, 1, 0, 0, 5, 1, 2, 6]


def scalars(folder: Path) -> list[Any]:
    events = [event for event in read_events(folder) if event.type == "scalar"]
    return [(event.name, event.step, pytest.approx(event.value, rel=1e-5)) for event in events]


@pytest.mark.parametrize("size", [5, 8, 16, 100])
def test_chunks_give_the_same_training_as_whole_batches(tmp_path: Path, size: int) -> None:
    """Weights, losses and gradient norms equal those of whole batches, even if the last chunk is smaller."""
    whole, chunked = linear(), linear()
    train(tmp_path / "a", trainer=make_trainer(whole))
    train(tmp_path / "b", trainer=make_trainer(chunked), mini_batch_chunk_size=size)
    torch.testing.assert_close(whole.weight, chunked.weight)
    assert scalars(tmp_path / "a") == scalars(tmp_path / "b")


class Tagger(nn.Module):
    """Predicts a number for each token; of the two tables of vectors, one has sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.other = nn.Embedding(9, 4, sparse=True), nn.Embedding(9, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.table(tokens) + self.other(tokens)).squeeze(-1)
        return output


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, a number for each, and what is no padding; two sentences are empty."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(9, (8, 6), generator=generator), torch.randn((8, 6), generator=generator), mask


def masked_mean(model: nn.Module, tokens: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    return 0.01 * ((model(tokens) - values) ** 2 * mask).sum() / mask.sum()  # small enough for half precision


class MaskedTrainer(ModelTrainer):
    """Returns a mean over tokens, and their number."""

    def forward(self, batch: Any) -> Forward:
        return Forward(masked_mean(self.model, *batch), weight=batch[2].sum())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.to_dense() for name, each in model.named_parameters() if each.grad is not None}


def trained_gradients(folder: Path, trainer: ModelTrainer, data: TensorDataset, **options: Any) -> dict[str, Tensor]:
    """Return the gradients of the only step."""
    found: dict[str, Tensor] = {}
    trainer.on("before_training_optimizer_step")(lambda step: found.update(gradients(trainer.model), loss=step.loss))
    settings = {"max_epochs": 1, "max_grad_norm": None, "shuffle": False, "learning_rate": 1e-9, **options}
    train(folder, trainer=trainer, train=data, mini_batch_size=8, **settings)
    return {name: value.clone() for name, value in found.items()}


def plain_gradients() -> dict[str, Tensor]:
    model = Tagger()
    loss = masked_mean(model, *sentences())
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    return gradients(model) | {"loss": loss.detach()}


@pytest.mark.parametrize("size", [1, 2, 3, 7, None])
@pytest.mark.parametrize("use_amp", [False, "fp16"])
def test_the_gradient_is_that_of_the_mean_over_tokens(tmp_path: Path, size: int | None, use_amp: Any) -> None:
    """This holds for sparse gradients, with a gradient scaler, and if a chunk has no token, so that its loss is NaN."""
    found = trained_gradients(
        tmp_path, MaskedTrainer(Tagger()), TensorDataset(*sentences()), mini_batch_chunk_size=size, use_amp=use_amp
    )
    tolerance = {"rtol": 1e-2, "atol": 1e-5} if use_amp else {"rtol": 1e-4, "atol": 1e-8}
    for name, expected in plain_gradients().items():
        torch.testing.assert_close(found[name], expected, check_dtype=False, **tolerance)


def test_clipping_applies_to_the_whole_gradient(tmp_path: Path) -> None:
    """The norm before clipping is that of the whole batch."""
    found = trained_gradients(
        tmp_path, MaskedTrainer(Tagger()), TensorDataset(*sentences()), mini_batch_chunk_size=3, max_grad_norm=0.001
    )
    expected = {name: value for name, value in plain_gradients().items() if name != "loss"}
    norm = math.sqrt(sum(float(value.square().sum()) for value in expected.values()))
    recorded = [event.value for event in read_events(tmp_path) if event.name == "train/gradient_norm"]
    assert recorded == [pytest.approx(norm, rel=1e-4)]
    torch.testing.assert_close(found["head.weight"], expected["head.weight"] * 0.001 / norm, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [3, None])
def test_weights_on_a_gpu_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    """A weight that stays a tensor, as on a GPU, gives the same gradients without waiting for its value."""

    def keep(weight: Any) -> Weight:
        return weight.detach().reshape(()) if isinstance(weight, Tensor) else float(weight)

    def guarded(*arguments: Any) -> accumulation.BatchLoss | None:
        with GpuWaitGuard():
            return accumulation.backward(*arguments)

    monkeypatch.setattr(forward, "checked_weight", keep)
    monkeypatch.setattr(step, "backward", guarded)
    data = TensorDataset(*sentences(), torch.rand(8, 6))

    class Clamped(ModelTrainer):
        def forward(self, batch: Any) -> Forward:
            tokens, values, mask, _ = batch
            squares = 0.01 * (self.model(tokens) - values) ** 2 * mask
            return Forward(squares.sum() / mask.sum().clamp(min=1), weight=mask.sum())

    model = Tagger()
    model.table.sparse = False  # coalescing a sparse gradient waits
    found = trained_gradients(tmp_path, Clamped(model), data, mini_batch_chunk_size=size)
    for name, expected in plain_gradients().items():
        torch.testing.assert_close(found[name], expected, check_dtype=False, rtol=1e-4, atol=1e-6)


def tags() -> tuple[Tensor, Tensor]:
    """Return vectors of tokens, and a label for each, of which some are ignored."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(2, (8, 6), generator=generator).where(sentences()[2], -100)
    return torch.randn((8, 6, 4), generator=generator), labels


def flat_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


class FlatTrainer(ModelTrainer):
    """Calls torch's function itself, and says nothing about its weight."""

    def forward(self, batch: Any) -> Forward:
        output = self.model(batch[0])
        return Forward(flat_loss(output, batch[1]), output, batch[1])


class Transposed(nn.Linear):
    """Returns the classes in the second dimension, as torch's losses expect them."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).transpose(1, -1)


def transposed() -> Transposed:
    model = Transposed(4, 2)
    model.load_state_dict(linear().state_dict())
    return model


TRAINERS = [
    pytest.param(lambda: FlatTrainer(linear()), id="function in forward"),
    pytest.param(lambda: ModelTrainer(linear(), loss=flat_loss), id="function as loss"),
    pytest.param(lambda: ModelTrainer(transposed(), loss=nn.CrossEntropyLoss()), id="loss of torch"),
]


@pytest.mark.parametrize("make", TRAINERS)
def test_the_losses_of_torch_are_weighted_by_themselves(tmp_path: Path, make: Any) -> None:
    """Gradients of chunks and the mean losses of both splits are those of all labels that are not ignored."""
    inputs, labels = tags()
    model = linear()
    loss = flat_loss(model(inputs), labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    data = TensorDataset(inputs, labels)
    found = trained_gradients(tmp_path / "chunks", make(), data, mini_batch_chunk_size=3)
    torch.testing.assert_close(found["weight"], gradients(model)["weight"])
    torch.testing.assert_close(found["loss"], loss.detach(), check_dtype=False)
    for size in (8, 3, 1):
        result = train(
            tmp_path / str(size), trainer=make(), train=data, dev=data, mini_batch_size=size, eval_batch_size=size,
            max_epochs=1, learning_rate=1e-9,
        )  # fmt: skip
        for name in ("train/loss", "dev/loss"):
            assert result.history[0][name] == pytest.approx(loss.item(), rel=1e-5)


def test_elements_of_batches_of_different_shapes_count_equally(tmp_path: Path) -> None:
    """The mean of a mean squared error is over all elements, not over batches or samples."""
    torch.manual_seed(0)
    batches: Any = [[torch.randn(4, width, 4), torch.randn(4, width, 2)] for width in (1, 9)]
    model = linear()
    with torch.no_grad():
        squares = [((model(inputs) - target) ** 2).flatten() for inputs, target in batches]
    result = train(
        tmp_path, trainer=ModelTrainer(linear(), loss=nn.MSELoss()), max_epochs=1, learning_rate=1e-9,
        train=torch.utils.data.DataLoader(batches, None), dev=torch.utils.data.DataLoader(batches, None),
    )  # fmt: skip
    for name in ("train/loss", "dev/loss"):
        assert result.history[0][name] == pytest.approx(torch.cat(squares).mean().item(), rel=1e-5)


def test_a_weight_for_some_batches_only_is_refused(tmp_path: Path) -> None:
    """A mean over tokens of some batches and over samples of others would be neither."""

    class Sometimes(ModelTrainer):
        calls = 0

        def forward(self, batch: Any) -> Forward:
            self.calls += 1
            loss = functional.cross_entropy(self.model(batch[0]), batch[1])
            return Forward(loss, weight=None if self.calls == 2 else 4)

    with pytest.raises(UsageError, match="a weight for some batches and none for others: return one for each"):
        train(tmp_path, trainer=Sometimes(linear()))


def test_a_split_without_a_weight_has_no_loss(tmp_path: Path) -> None:
    """If every label is ignored, the evaluation says so."""
    inputs, labels = tags()
    nothing = TensorDataset(inputs, torch.full_like(labels, -100))
    with pytest.raises(UsageError, match="dev had no batches, or only batches of weight 0"):
        train(tmp_path, trainer=FlatTrainer(linear()), train=TensorDataset(inputs, labels), dev=nothing)


@pytest.mark.parametrize("finite_only", [False, True])
def test_a_mean_of_tensors_equals_one_of_numbers(*, finite_only: bool) -> None:
    """Weights that are tensors are added without reading them; a loss without a weight does not count."""
    losses = [(1.0, 3), (math.nan, 0), (5.0, 1), *([(math.nan, 2)] if finite_only else [])]
    tensors, numbers = MeanLoss(), MeanLoss()
    tensors.finite_only = numbers.finite_only = finite_only
    for loss, weight in losses:
        numbers.add(torch.tensor(loss), weight)
        with GpuWaitGuard():
            tensors.add(torch.tensor(loss), torch.tensor(weight))
    assert numbers.read() == tensors.read() == 2.0
    resumed = MeanLoss()
    resumed.load_state_dict(tensors.state_dict(), torch.device("cpu"))
    assert resumed.read() == 2.0
