"""A training of Keras's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

INPUTS = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
LABELS = (INPUTS.sum(1) > 0).astype("int64")


def make_model() -> Any:
    """Return a classifier that always has the same weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="classifier")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


def train(model: Any, *callbacks: Any, **arguments: Any) -> dict[str, list[float]]:
    """Train for three epochs of five batches, and return Keras's own record."""
    arguments = {"epochs": 3, "batch_size": 4, "validation_data": (INPUTS, LABELS), "verbose": 0, **arguments}
    history: dict[str, list[float]] = model.fit(INPUTS, LABELS, callbacks=list(callbacks), **arguments).history
    return history
