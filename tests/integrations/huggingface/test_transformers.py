"""Models of Hugging Face's train without an override, as in a loop in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.huggingface_models import Texts, bert, encoding, gpt2
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy
from transformers import BertForSequenceClassification, GPT2LMHeadModel

from trainwire import ModelTrainer, Plugin, Result
from trainwire_protocol.errors import UsageError

BATCH = 4

KINDS: dict[str, tuple[Callable[[], nn.Module], bool]] = {"bert": (bert, False), "gpt2": (gpt2, True)}
"""The models, and whether they have a label for each token."""


def train(trainer: ModelTrainer, folder: Path, *plugins: Plugin, of_tokens: bool = False, **options: Any) -> Result:
    """Train for two epochs of six batches, the last of which is smaller."""
    defaults: dict[str, Any] = {
        "train": Texts(22, 0, of_tokens=of_tokens), "dev": Texts(10, 1, of_tokens=of_tokens), "mini_batch_size": BATCH,
        "max_epochs": 2, "optimizer": torch.optim.AdamW, "learning_rate": 1e-2, "max_grad_norm": 1.0, "seed": 1,
        "attach_default_scheduler": False, "sinks": (),
    }  # fmt: skip
    return trainer.train(folder, plugins=plugins, **{**defaults, **options})


def values(folder: Path, name: str) -> list[float]:
    """Return all values of a metric."""
    return [event.value for event in read_events(folder) if event.name == name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("collate", [None, encoding], ids=["dict", "BatchEncoding"])
def test_a_training_equals_a_loop_in_plain_pytorch(tmp_path: Path, kind: str, collate: Any) -> None:
    """The losses of all steps, the weights and the mean losses of the evaluations equal those of a loop."""
    make, of_tokens = KINDS[kind]
    model = make()
    result = train(ModelTrainer(model), tmp_path, of_tokens=of_tokens, shuffle=False, collate_fn=collate,
                   use_final_model_for_eval=True)  # fmt: skip

    plain = make()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    losses, dev_losses, train_losses = [], [], []
    for _ in range(2):
        plain.train()
        weights = []
        for batch in Texts(22, 0, of_tokens=of_tokens).batches(BATCH):
            optimizer.zero_grad()
            loss = plain(**batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            weights.append(predicted(batch["labels"]))
        epoch = zip(losses[-len(weights) :], weights, strict=True)
        train_losses.append(sum(loss * weight for loss, weight in epoch) / sum(weights))
        dev_losses.append(mean_loss(plain, Texts(10, 1, of_tokens=of_tokens)))
    assert values(tmp_path, "train/batch_loss") == losses
    assert [epoch["dev/loss"] for epoch in result.history] == pytest.approx(dev_losses)
    assert [epoch["train/loss"] for epoch in result.history] == pytest.approx(train_losses)


def predicted(labels: Tensor) -> int:
    """Return the number of labels that a model's loss is a mean over: of a text, a language model predicts all but
    the first token."""
    return int((labels if labels.dim() == 1 else labels[:, 1:]).ne(-100).sum())


@torch.no_grad()
def mean_loss(model: nn.Module, texts: Texts) -> float:
    """Return the mean loss of all labels of a split at once."""
    model.eval()
    (batch,) = texts.batches(len(texts))
    labels = batch.pop("labels")
    logits = model(**batch).logits
    if labels.dim() > 1:  # each token predicts the next one
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return cross_entropy(logits, labels, ignore_index=-100).item()


def test_metrics_are_computed_from_logits_and_labels(tmp_path: Path) -> None:
    """The accuracy of a classifier is that of its logits."""
    model = bert()
    result = train(ModelTrainer(model, metrics=[MulticlassAccuracy(2, average="micro")]), tmp_path)
    (batch,) = Texts(10, 1).batches(10)
    model.eval()
    correct = model(**batch).logits.argmax(-1).eq(batch["labels"])
    best = max(epoch["dev/MulticlassAccuracy"] for epoch in result.history)
    assert best == pytest.approx(correct.float().mean().item())


@pytest.mark.parametrize("step", [2, 6, 9], ids=["within-an-epoch", "at-the-end-of-one", "in-the-next"])
def test_a_resumed_training_is_exact(tmp_path: Path, step: int) -> None:
    """A training with dropout that was interrupted ends with the weights of one that was not."""
    whole, resumed = bert(dropout=0.2), bert(dropout=0.2)
    train(ModelTrainer(whole), tmp_path / "whole")
    train(ModelTrainer(resumed), tmp_path / "resumed", Interrupt(step))
    again = bert(dropout=0.2)
    result = train(ModelTrainer(again), tmp_path / "resumed", resume=True)
    assert result.status == "finished"
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_chunks_are_weighted_by_their_tokens(tmp_path: Path) -> None:
    """A batch that is passed in chunks gives the weights of the whole batch."""
    whole, chunked = gpt2(), gpt2()
    train(ModelTrainer(whole), tmp_path / "whole", of_tokens=True, shuffle=False)
    train(ModelTrainer(chunked), tmp_path / "chunked", of_tokens=True, shuffle=False, mini_batch_chunk_size=1)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(chunked.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "kind", "of_tokens"),
    [(bert, BertForSequenceClassification, False), (gpt2, GPT2LMHeadModel, True)],
    ids=["bert", "gpt2"],
)
def test_weights_are_saved_and_loaded(
    tmp_path: Path, make: Callable[[], Any], kind: type[Any], of_tokens: bool
) -> None:
    """best-model.pt loads into a new model, and what `save_pretrained` writes then is the trained model."""
    model = make()
    train(ModelTrainer(model), tmp_path / "run", of_tokens=of_tokens)
    loaded = make()
    loaded.load_state_dict(torch.load(tmp_path / "run/best-model.pt", weights_only=True))
    loaded.save_pretrained(tmp_path / "pretrained")
    (batch,) = Texts(10, 1, of_tokens=of_tokens).batches(10)
    with torch.no_grad():
        logits = [each.eval()(**batch).logits for each in (model, kind.from_pretrained(tmp_path / "pretrained"))]
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], make()(**batch).logits)


def test_batches_without_labels(tmp_path: Path) -> None:
    """If the model computes no loss, that is an error before the weights change, which names the keys of the batch."""
    texts, model = Texts(8, 0), bert()
    texts.columns["answers"] = texts.columns.pop("labels")
    with pytest.raises(UsageError, match=r"there is no loss: .* the keys input_ids, attention_mask, answers"):
        train(ModelTrainer(model), tmp_path, train=texts)
    assert all(torch.equal(value, bert().state_dict()[name]) for name, value in model.state_dict().items())
