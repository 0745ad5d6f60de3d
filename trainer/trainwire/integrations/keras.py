"""A callback for Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import parse_folder

require("keras", "3.5", extra="keras")

import keras  # noqa: E402  # `require` explains why it cannot be imported


class TrainwireCallback(keras.callbacks.Callback):
    """Publishes what Keras logs: `model.fit(..., callbacks=[TrainwireCallback("runs/mine")])`.

    The metrics of an epoch are `train/<name>`, `val/<name>` and `learning_rate`, and the step is the number of batches
    that were trained. The settings of the training and its epochs are recorded too. `evaluate` records
    `test/<name>`. The first `fit` begins the run anew, unless `append` is True; what follows adds to it.

    Keras does not tell its callbacks of an exception: the run then ends when the process does, or when the next call
    begins.

    Args:
        run_folder: The run's folder.
        update_freq: Number of batches between two records of `train/batch_<name>`, the means since the beginning of
            the epoch. Default: only epochs are recorded.
        append: Whether to add to an earlier run in the folder.

    Raises:
        MissingExtraError: if Keras is not installed or too old; raised when this module is imported.
        OptionError: if an argument is invalid.
    """

    def __init__(
        self, run_folder: str | PathLike[str], update_freq: int | None = None, *, append: bool = False
    ) -> None:
        super().__init__()
        if update_freq is not None and (type(update_freq) is not int or update_freq < 1):
            raise OptionError(f"update_freq is {update_freq!r:.60}; it must be a number of batches, or None")
        self.run_folder: Path = parse_folder(run_folder, "run_folder")
        self.update_freq = update_freq
        self._appends = append
        self._bus: EventBus | None = None
        self._is_training = False
        self._batches = 0
        """Number of batches that were trained."""
        self._first_batch = 0
        """That number at the beginning of the epoch."""

    @property
    def bus(self) -> EventBus | None:
        """The bus while it is open, for images, tables and all else that a bus records."""
        return self._bus if self._bus and self._bus.is_open else None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        """Open the bus, and record the hyperparameters.

        Raises:
            RunInUseError: if another process records in this folder.
        """
        if self.bus:
            self.bus.close(status="failed", reason="the training before this one ended without on_train_end")
        bus, self._is_training = self._open(), True
        optimizer = self.model.optimizer
        settings = {name: value for name, value in (self.params or {}).items() if name != "verbose"}
        bus.hparams({"model": self.model.name, "optimizer": optimizer and optimizer.get_config(), **settings})

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        """Record the beginning of an epoch; Keras counts them from 0."""
        self._first_batch = self._batches
        if self.bus:
            self.bus.start_epoch(epoch + 1, (self.params or {}).get("epochs"))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the batch, of which there may be several for each call; publish the metrics every `update_freq`."""
        before, self._batches = self._batches, self._first_batch + batch + 1
        if self.bus and logs and self.update_freq and before // self.update_freq != self._batches // self.update_freq:
            self.bus.log({f"train/batch_{name}": value for name, value in logs.items()}, step=self._batches)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Publish the metrics of an epoch, and record its end."""
        if self.bus is None:
            return
        metrics = {_rename(name): value for name, value in (logs or {}).items()}
        rate = getattr(self.model.optimizer, "learning_rate", None)
        if rate is not None:
            metrics.setdefault("learning_rate", float(keras.ops.convert_to_numpy(rate)))
        self.bus.log(metrics, step=self._batches)
        self.bus.finish_epoch(epoch + 1)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        """Close the bus."""
        if self.bus:
            self.bus.close(reason="stopped by a callback" if self.model.stop_training else None)
        self._is_training = False

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        """Open the bus for an evaluation that is not part of a training."""
        if self.bus is None:
            self._open()
            self._is_training = False

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Publish the metrics of an evaluation that is not part of a training, and close the bus."""
        if self.bus and not self._is_training:
            self.bus.log({f"test/{name}": value for name, value in (logs or {}).items()})
            self.bus.close()

    def _open(self) -> EventBus:
        self._bus = open_bus(self.run_folder, append=self._appends)
        self._appends = True
        return self._bus

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings, without the bus, which stays in this process."""
        return {**self.__dict__, "_bus": None, "_model": None, "_is_training": False}


def _rename(name: str) -> str:
    """Return the name of a metric, with the split before it; the learning rate belongs to no split."""
    if name == "learning_rate":
        return name
    return f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"
