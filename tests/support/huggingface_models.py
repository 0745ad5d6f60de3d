"""Small models of Hugging Face's, made from their configurations, and data that they learn from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchEncoding, BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

WORDS = 30
LENGTH = 8


def bert(dropout: float = 0.0) -> BertForSequenceClassification:
    """Return a classifier of texts that always has the same weights, in evaluation mode as `from_pretrained` does."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, num_labels=2,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def gpt2() -> GPT2LMHeadModel:
    """Return a language model that always has the same weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=2 * LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


class Texts(Dataset[dict[str, Tensor]]):
    """Random texts of different lengths, padded to one.

    Args:
        of_tokens: The labels are the tokens, with -100 for the padding; otherwise one for each text.
    """

    def __init__(self, count: int, seed: int, *, of_tokens: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(1, WORDS, (count, LENGTH), generator=generator)
        mask = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (count, 1), generator=generator)
        labels = tokens.masked_fill(~mask, -100) if of_tokens else (tokens[:, 0] > WORDS // 2).long()
        self.columns = {"input_ids": tokens * mask, "attention_mask": mask.long(), "labels": labels}

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def batches(self, size: int) -> list[dict[str, Tensor]]:
        """Return the batches of an epoch that is not shuffled."""
        parts = {name: column.split(size) for name, column in self.columns.items()}
        return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]


def encoding(samples: list[dict[str, Tensor]]) -> BatchEncoding:
    """Return samples as the batch that a tokenizer's `pad` returns."""
    columns: dict[str, Any] = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    return BatchEncoding(columns)
