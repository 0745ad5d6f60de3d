"""A training of flair's that takes a moment: reviews of two words, classified by one-hot embeddings."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import flair
from flair.data import Corpus, Sentence
from flair.datasets import FlairDatapointDataset
from flair.embeddings import DocumentPoolEmbeddings, OneHotEmbeddings
from flair.models import TextClassifier
from flair.trainers import ModelTrainer

WORDS = {"good": ("good", "fine", "nice"), "bad": ("bad", "poor", "awful")}


def reviews(count: int, seed: int) -> FlairDatapointDataset[Sentence]:
    """Return reviews such as "fine food", labelled as good or bad."""
    generator = random.Random(seed)
    sentences = []
    for _ in range(count):
        mood = generator.choice(list(WORDS))
        sentence = Sentence(f"{generator.choice(WORDS[mood])} {generator.choice(['film', 'food', 'day'])}")
        sentence.add_label("mood", mood)
        sentences.append(sentence)
    return FlairDatapointDataset(sentences)


def make_trainer() -> ModelTrainer:
    """Return a trainer of flair's, with a model that always has the same weights."""
    flair.set_seed(1)
    corpus = Corpus(reviews(24, 0), reviews(8, 1), reviews(8, 2), sample_missing_splits=False)
    embeddings = DocumentPoolEmbeddings([OneHotEmbeddings.from_corpus(corpus, min_freq=1)])
    labels = corpus.make_label_dictionary("mood", add_unk=False)
    return ModelTrainer(TextClassifier(embeddings, label_type="mood", label_dictionary=labels), corpus)


def train(folder: Path, *plugins: Any, trainer: ModelTrainer | None = None, **arguments: Any) -> dict[str, Any]:
    """Train for two epochs of three batches by default."""
    arguments = {"mini_batch_size": 8, "max_epochs": 2, **arguments}
    result: dict[str, Any] = (trainer or make_trainer()).train(folder, plugins=list(plugins), **arguments)
    return result
