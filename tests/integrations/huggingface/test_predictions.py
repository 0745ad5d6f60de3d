"""Trained models of Hugging Face's are evaluated, and generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.huggingface_models import LENGTH, Texts, bert, encoding, gpt2
from torch import Tensor

from trainwire import ModelTrainer


def without_labels(texts: Texts) -> list[dict[str, Tensor]]:
    """Return the samples as they are when a model is used."""
    samples = [texts[index] for index in range(len(texts))]
    return [{name: sample[name] for name in ("input_ids", "attention_mask")} for sample in samples]


def test_predictions() -> None:
    """The logits are predicted, whether a batch has labels or not."""
    texts, model = Texts(10, 1), bert()
    with torch.no_grad():
        expected = model(**texts.batches(10)[0]).logits
    for data in (texts, without_labels(texts)):
        torch.testing.assert_close(ModelTrainer(model).predict(data, mini_batch_size=4), expected)


class Generator(ModelTrainer):
    """Predicts how texts go on."""

    def predict_batch(self, batch: Any) -> Tensor:
        tokens: Tensor = self.model.generate(**batch, max_new_tokens=3, do_sample=False)
        return tokens


def test_generated_texts(tmp_path: Path) -> None:
    """A language model that was trained generates from batches as a tokenizer returns them."""
    model = gpt2()
    trainer = Generator(model)
    data = Texts(16, 0, of_tokens=True)
    trainer.train(tmp_path, train=data, collate_fn=encoding, max_epochs=1, seed=1, sinks=())
    prompts = without_labels(Texts(6, 1, of_tokens=True))
    expected = model.eval().generate(**encoding(prompts), max_new_tokens=3, do_sample=False)
    assert torch.equal(trainer.predict(prompts, mini_batch_size=6, collate_fn=encoding), expected)
    assert expected.shape == (6, LENGTH + 3)
