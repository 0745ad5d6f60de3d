"""Publishes the metrics of flair's trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.bus.process_end import status_of
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import parse_folder

require("flair", "0.15", extra="flair")

import flair  # noqa: E402  # `require` explains why it cannot be imported
from flair.trainers.plugins import MetricRecord, TrainerPlugin, TrainingInterrupt  # noqa: E402
from flair.trainers.plugins.metric_records import RecordType  # noqa: E402

FOLDER: Final = "trainwire"
"""The default run folder, within the `base_path` of the training."""

_TYPES: Final = {
    RecordType.scalar_list: "scalars", RecordType.string: "text", RecordType.histogram: "histogram",
    RecordType.image: "image",
}  # fmt: skip
"""The event types of records that are not scalars."""


class TrainwirePlugin(TrainerPlugin):
    """Publishes everything that flair's trainer and its plugins record: `plugins=[TrainwirePlugin()]`.

    Each `metric_recorded` becomes an event with the record's name, value, step and time. flair counts batches in the
    metrics of batches, and epochs in those of epochs. The parameters of the training, its epochs, its messages, its end
    and its `test_score` are recorded too. The bus is open from `after_setup` until the model was tested.

    Args:
        run_folder: The run's folder. Default: `trainwire` in the `base_path` of the training. flair writes `loss.tsv`
            and `training.log` of its own to `base_path`: it can be the run's folder if `create_loss_file` and
            `create_file_logs` are False.

    Raises:
        MissingExtraError: if flair is not installed or too old; raised when this module is imported.
    """

    def __init__(self, run_folder: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.run_folder = None if run_folder is None else parse_folder(run_folder)
        self._bus: EventBus | None = None
        self._max_epochs = 0
        self._epoch: int | None = None
        """The epoch that was evaluated and is not finished: plugins record metrics of it until the next one begins."""
        self._best: tuple[str, float, int] | None = None
        self._end: tuple[str, str | None] = ("finished", None)
        self._tests = False

    @property
    def attach_to_all_processes(self) -> bool:
        """False: flair's metrics are those of all processes, and the first one records them."""
        return False

    def get_state(self) -> dict[str, Any]:
        """Return what flair writes to the model card."""
        return {**super().get_state(), "run_folder": None if self.run_folder is None else str(self.run_folder)}

    @TrainerPlugin.hook
    def after_setup(self, **parameters: Any) -> None:
        """Open the bus, for as long as flair trains and tests the model.

        Raises:
            OptionError: if flair writes its own `loss.tsv` or `training.log` to the run's folder.
            RunInUseError: if another process trains in this folder.
        """
        folder = self._choose_folder(parameters)
        self._max_epochs, self._epoch, self._best, self._end = parameters["max_epochs"], None, None, ("finished", None)
        self._tests = bool(self.corpus.test) and not parameters["train_with_test"]
        self._bus = open_bus(folder, hparams=_hyperparameters(self.model, parameters), rank=0, world_size=1)
        self.trainer.context_stack.push(self._close)
        handler = self._bus.logging_handler()
        logging.getLogger("flair").addHandler(handler)
        self._bus.on_close(lambda: logging.getLogger("flair").removeHandler(handler))

    @TrainerPlugin.hook
    def before_training_epoch(self, epoch: int, **_: Any) -> None:
        """Record the end of the epoch before, and the beginning of this one."""
        self._finish_epoch()
        if self._bus:
            self._bus.start_epoch(epoch, self._max_epochs)

    @TrainerPlugin.hook
    def metric_recorded(self, record: MetricRecord) -> None:
        """Publish the record."""
        if self._bus is None:
            return
        # flair records its main score as a string.
        is_number = record.is_scalar or (record.is_string and isinstance(record.value, (int, float)))
        kind = "scalar" if is_number else _TYPES[record.typ]
        self._bus.publish(str(record.name), record.value, kind, record.global_step, record.walltime)

    @TrainerPlugin.hook
    def after_evaluation(
        self, epoch: int, current_model_is_best: bool, validation_scores: tuple[float, ...], **_: Any
    ) -> None:
        """Keep the best score."""
        self._epoch = epoch
        if current_model_is_best:
            # Without a dev split, flair compares the epochs by their training loss.
            metric = "dev/score" if len(validation_scores) > 1 else "train/loss"
            self._best = (metric, float(validation_scores[0]), epoch)

    @TrainerPlugin.hook
    def after_training_loop(self, **_: Any) -> None:
        """Record the end of the last epoch."""
        self._finish_epoch()

    @TrainerPlugin.hook
    def training_interrupt(self, **_: Any) -> None:
        """Keep the reason why flair ends the training early: Ctrl-C, or a plugin."""
        self._finish_epoch()
        error = sys.exc_info()[1]
        self._end = ("finished", str(error)) if isinstance(error, TrainingInterrupt) else status_of(error)

    def _choose_folder(self, parameters: Mapping[str, Any]) -> Path:
        base_path = Path(parameters["base_path"])
        if self.run_folder is None:
            return base_path / FOLDER
        writes_files = parameters["create_loss_file"] or parameters["create_file_logs"]
        if writes_files and self.run_folder.resolve() == base_path.resolve():
            raise OptionError(
                f"flair writes loss.tsv and training.log to {base_path}, as the sinks of a run do: choose another "
                "folder for TrainwirePlugin, or train with create_loss_file=False and create_file_logs=False"
            )
        return self.run_folder

    def _finish_epoch(self) -> None:
        if self._bus and self._epoch is not None:
            self._bus.finish_epoch(self._epoch, best=self._best)
            self._epoch = None

    def _close(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close the bus and detach the plugin; called by flair's trainer, with the exception that ends it."""
        assert self._bus
        self._finish_epoch()
        if error is None and self._tests:
            self._bus.log({"test_score": self.trainer.return_values["test_score"]})
        status, reason = self._end if error is None else status_of(error)
        self._bus.close(status=status, reason=reason)
        self._bus = None
        self.detach()  # flair would keep it for the trainer's next training


def _hyperparameters(model: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the training, with objects such as dictionaries of labels as text."""
    values = {name: value for name, value in parameters.items() if name not in ("plugins", "kwargs")}
    plain = {name: value if isinstance(value, _PLAIN) else str(value) for name, value in values.items()}
    plugins = [str(plugin) for plugin in parameters["plugins"]]
    return {"model": type(model).__name__, "flair": flair.__version__, **plain, "plugins": plugins}


_PLAIN: Final = (type(None), bool, int, float, str, list, tuple, dict, type, PathLike)
