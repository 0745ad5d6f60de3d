"""Models as they come: batches that are mappings, results that have a loss, and what is wrong with others."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, points
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from trainwire import ModelTrainer, Result
from trainwire.training.model.calls import Call, ModelCalls, is_mapping
from trainwire_protocol.errors import UsageError


class OfTokens(nn.Module):
    """Has the interface of a language model: it computes a loss from labels, of which those of -100 do not count.

    Args:
        is_causal: Whether each token is predicted from those before it.
        form: How the result is returned.
    """

    def __init__(self, *, is_causal: bool, form: str = "object") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(7, 4, generator=generator), freeze=False)
        self.head = nn.Linear(4, 7)
        nn.init.normal_(self.head.weight, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.is_causal, self.form = is_causal, form

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor | None = None) -> Any:
        logits = self.head(self.embedding(input_ids))
        loss = None
        if labels is not None:
            pair = (logits[:, :-1], labels[:, 1:]) if self.is_causal else (logits, labels)
            loss = cross_entropy(pair[0].flatten(0, 1), pair[1].flatten())
        if self.form == "object":
            return Output(loss, logits)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


@dataclass
class Output:
    """The result of a model."""

    loss: Tensor | None
    logits: Tensor


class Encoding(UserDict[str, Any]):
    """A mapping that is not a dict and can move itself, as tokenizers return it."""

    def to(self, device: torch.device) -> Encoding:
        return Encoding({key: value.to(device) for key, value in self.items()})


class Tensors:
    """A mapping only by its methods."""

    def __init__(self, **parts: Tensor) -> None:
        self.parts = parts

    def __getitem__(self, key: str) -> Tensor:
        return self.parts[key]

    def keys(self) -> Iterator[str]:
        return iter(self.parts)

    def items(self) -> Any:
        return self.parts.items()


def sentences(count: int = 12, seed: int = 0, kind: type[Any] = dict) -> list[Any]:
    """Return sentences of six tokens, of which between one and all six count."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, (count, 6), generator=generator)
    lengths = torch.randint(1, 7, (count, 1), generator=generator)
    labels = tokens.where(torch.arange(6) >= 6 - lengths, -100)  # padded on the left
    return [kind(input_ids=each, labels=own) for each, own in zip(tokens, labels, strict=True)]


def collated(samples: list[Any]) -> Any:
    return type(samples[0])(**{key: torch.stack([sample[key] for sample in samples]) for key in samples[0]})


def train(folder: Path, trainer: ModelTrainer, data: Any, **options: Any) -> Result:
    defaults: dict[str, Any] = {
        "mini_batch_size": 5, "max_epochs": 1, "sinks": (), "seed": 1, "max_grad_norm": None, "default_plugins": False,
        "attach_default_scheduler": False, "learning_rate": 0.1,
    }  # fmt: skip
    return trainer.train(folder, train=data, **{**defaults, **options})


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("form", ["object", "mapping"])
def test_the_loss_of_a_model_is_that_of_all_data_at_once(tmp_path: Path, *, is_causal: bool, form: str) -> None:
    """Evaluated in uneven batches, and trained in chunks, its loss is the mean over all labels that count."""
    model = OfTokens(is_causal=is_causal, form=form)
    data, dev = sentences(), sentences(11, 1)
    reference = OfTokens(is_causal=is_causal)
    expected = reference(**collated(data))
    expected.loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    result = train(
        tmp_path, ModelTrainer(model), data, dev=dev, mini_batch_size=12, mini_batch_chunk_size=5, eval_batch_size=4
    )
    assert result.history[0]["train/loss"] == pytest.approx(expected.loss.item(), rel=1e-6)
    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    assert result.history[0]["dev/loss"] == pytest.approx(reference(**collated(dev)).loss.item(), rel=1e-5)


def test_the_first_label_may_never_count(tmp_path: Path) -> None:
    """A causal model is recognized by its loss, also if the first batch has no labels that count."""
    data = [{**sample, "labels": torch.full((6,), -100)} for sample in sentences(4)] + sentences(8)
    model = OfTokens(is_causal=True)
    result = train(tmp_path, ModelTrainer(model), data, shuffle=False, mini_batch_size=4, learning_rate=1e-9)
    expected = OfTokens(is_causal=True)(**collated(data)).loss
    assert result.history[0]["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


class Sequences(OfTokens):
    """Returns a mean over sentences, each of which has the sum of its tokens' losses."""

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:  # type: ignore[override]  # it has no other arguments
        logits = self.head(self.embedding(input_ids))
        return {
            "loss": cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / len(labels),
            "logits": logits,
        }


def test_a_mean_over_sentences_is_weighted_by_their_number(tmp_path: Path) -> None:
    """A loss that is several times that of a token is a mean over samples."""
    data = sentences(12)
    result = train(tmp_path, ModelTrainer(Sequences(is_causal=False)), data, learning_rate=1e-9)
    expected = Sequences(is_causal=False)(**collated(data))["loss"]
    assert result.history[0]["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", [dict, Encoding, Tensors])
def test_a_mapping_is_passed_by_keyword(tmp_path: Path, kind: type[Any]) -> None:
    """With a loss of the trainer, `labels` are the target, `logits` the output, and the model gets the other keys."""

    class Tokens(OfTokens):
        def forward(self, input_ids: Tensor, **others: Any) -> Any:
            seen.append(set(others))
            return super().forward(input_ids)

    def mean(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output.flatten(0, 1), target.flatten())

    seen: list[set[str]] = []
    data: Any = DataLoader(sentences(kind=dict), 4, collate_fn=lambda samples: kind(**collated(samples)))  # type: ignore[arg-type,var-annotated]
    assert train(tmp_path, ModelTrainer(Tokens(is_causal=False), loss=mean), data).steps == 3
    assert seen == [set()] * 3


def test_labels_that_the_model_requires_are_passed_to_it() -> None:
    """They are the target of the trainer's loss too."""
    batch = {"input_ids": torch.zeros(2, 3), "labels": torch.ones(2, 3)}
    call = ModelCalls(Sequences(is_causal=False), has_loss=True).with_target(batch)
    assert call == Call((), batch, batch["labels"])


def test_a_batch_is_inputs_and_a_target() -> None:
    """With a loss of the trainer, the last item of a tuple is the target, and the others are the model's arguments."""
    calls = ModelCalls(linear(), has_loss=True)
    assert calls.with_target([1, 2, 3]) == Call((1, 2), {}, 3)
    for batch in (torch.zeros(3), (1,), pack_sequence([torch.zeros(2)])):
        with pytest.raises(UsageError, match=r"override ModelTrainer\.forward"):
            calls.with_target(batch)


class Pair(nn.Linear):
    """Takes inputs and, if they are known, targets, and returns a loss, as small models often do."""

    def forward(self, inputs: Tensor, target: Tensor | None = None) -> Any:  # type: ignore[override]  # it is larger
        logits = super().forward(inputs)
        return {"logits": logits} if target is None else {"logits": logits, "loss": cross_entropy(logits, target)}


def test_a_tuple_goes_to_a_model_that_has_a_loss(tmp_path: Path) -> None:
    """Without a loss of the trainer, all items are arguments, and the last one is the target of the metrics."""
    trainer = ModelTrainer(Pair(4, 2), metrics={"accuracy": MulticlassAccuracy(2)})
    result = train(tmp_path, trainer, points(20), dev=points(10))
    assert {"dev/loss", "dev/accuracy"} <= result.history[0].keys()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [((1,), (1,)), ((1, 2), (1,)), ([1, 2, 3], (1, 2)), ("text", ("text",))],
)
def test_a_target_is_left_out_of_predictions(batch: Any, expected: Any) -> None:
    """The last item is the target, if the model does not require as many arguments."""
    assert ModelCalls(Pair(4, 2), has_loss=True).without_target(batch).positional == expected
    assert ModelCalls(nn.Bilinear(1, 1, 1), has_loss=True).without_target((1, 2)).positional == (1, 2)


def test_keys_of_the_target_are_left_out_of_predictions() -> None:
    """Those that the model does not take, or that only the trainer's loss needs, may be present or not."""
    for has_loss in (False, True):
        calls = ModelCalls(linear(), has_loss=has_loss)
        for batch in ({"input": 1}, {"input": 1, "label": 2}):
            assert calls.without_target(batch).keywords == {"input": 1}
    both = {"input_ids": 1, "labels": 2}
    assert ModelCalls(OfTokens(is_causal=True), has_loss=False).without_target(both).keywords == both


@pytest.mark.parametrize(
    ("model", "loss", "batch", "message"),
    [
        (OfTokens(is_causal=True), None, {"input_ids": 1, "idx": 2},
         r"the keys idx, which OfTokens\.forward does not take: it takes input_ids, attention_mask, labels"),
        (OfTokens(is_causal=True), None, {"labels": 1}, r"no input_ids, which OfTokens\.forward requires"),
        (OfTokens(is_causal=True), None, {3: 1}, "the keys 3, which"),
        (linear(), cross_entropy, {"input": 1}, "has the keys input, of which none can be the target"),
        (linear(), cross_entropy, {"input": 1, "label": 2, "target": 3}, "of which several can be the target"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_one_clear_error(
    tmp_path: Path, model: nn.Module, loss: Any, batch: Any, message: str
) -> None:
    """It names the keys that the model takes, before the weights change; the data is read once."""
    read: list[int] = []

    class Data(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            read.append(1)
            yield {key: torch.zeros(2, 3).long() for key in batch}

    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(UsageError, match=message):
        train(tmp_path, ModelTrainer(model, loss=loss), DataLoader(Data(), None))
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert read == [1]
    assert read_events(tmp_path)[-1].name == "run/failed"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (linear(), points(8), "there is no loss: give loss=.* Linear is called with all of the batch, which fails"),
        (linear(), [torch.zeros(4)] * 8, "the model returned a Tensor without one"),
        (
            OfTokens(is_causal=True),
            [{"input_ids": torch.zeros(4).long()}] * 8,
            "a Output without one from the keys inp",
        ),
    ],
)
def test_a_missing_loss_is_reported_with_the_first_batch(
    tmp_path: Path, model: nn.Module, data: Any, message: str
) -> None:
    """The error says where a loss can come from."""
    with pytest.raises(UsageError, match=message):
        train(tmp_path, ModelTrainer(model), data)


def test_wrapped_models_are_called_by_their_own_arguments() -> None:
    """The arguments are those of the model inside a wrapper, and anything may be passed to one that takes all."""
    wrapped = nn.DataParallel(OfTokens(is_causal=True))
    with pytest.raises(UsageError, match="does not take: it takes input_ids"):
        ModelCalls(wrapped, has_loss=False).with_target({"input_ids": 1, "other": 2})
    assert not is_mapping(torch.zeros(1))
    assert not is_mapping("text")
