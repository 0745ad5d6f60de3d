"""A logger for the trainers of Lightning: `Trainer` and `Fabric`."""

from __future__ import annotations

import os
import re
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.bus.process_end import status_of
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import parse_folder

require("lightning", "2.6", extra="lightning")

from lightning.fabric.loggers.logger import rank_zero_experiment  # noqa: E402  # `require` explains if it is missing
from lightning.fabric.utilities.rank_zero import rank_zero_only  # noqa: E402
from lightning.pytorch.loggers.logger import Logger  # noqa: E402

NAME: Final = "lightning_logs"
"""The default name, which is that of Lightning's own loggers."""


class TrainwireLogger(Logger):
    """Publishes what Lightning logs: `Trainer(logger=TrainwireLogger("runs"))`.

    The run's folder is `<save_dir>/<name>/version_<number>`, as with Lightning's own loggers, and `ModelCheckpoint`
    saves into it. The first process records. `fit`, `validate`, `test` and `predict` each end by closing the bus; the
    next call adds to the run. The epochs of `fit`, its hyperparameters and checkpoints are recorded too.

    Args:
        save_dir: The folder of all runs.
        name: The folder of an experiment, within `save_dir`. An empty name is left out.
        version: The folder of the run: a number, or a name. Default: the first number that is not in use. In the folder
            of an earlier run, the logger adds to that run.
        prefix: What the names of metrics begin with: `prefix-name`, as with other loggers of Lightning.

    Raises:
        MissingExtraError: if Lightning is not installed or too old; raised when this module is imported.
        OptionError: if an argument is invalid.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = NAME,
        version: int | str | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        if type(version) not in (int, str, type(None)) or version == "":
            raise OptionError(f"version is {version!r:.60}; pass a number, or the name of a folder")
        self._save_dir = str(parse_folder(save_dir, "save_dir"))
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self._bus: EventBus | None = None
        self._model: weakref.ref[Any] | None = None
        """The model, whose trainer says whether it is in an epoch of `fit`."""
        self._epoch: int | None = None
        """The epoch that has begun and is not finished, counted from 1."""
        self._checkpoints: dict[str, int] = {}
        """The checkpoints that were recorded, with the time of their last change."""

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self._name

    @property
    def version(self) -> int | str:
        """The number or name of the run."""
        if self._version is None:
            self._version = max((number + 1 for number in _versions_in(Path(self.root_dir))), default=0)
        return self._version

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The folder of all versions."""
        return str(Path(self._save_dir, self._name))

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return str(Path(self.root_dir, version))

    @property
    @rank_zero_experiment
    def experiment(self) -> EventBus:
        """The open bus, for images, texts, tables and all else that a bus records; in other processes a dummy.

        Raises:
            RunInUseError: if another process records in this folder.
        """
        if self._bus is None or not self._bus.is_open:
            self._bus = open_bus(self.log_dir, rank=0, world_size=1, append=True)
        return self._bus

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Publish metrics, with the step that Lightning passes."""
        self._follow_epochs()
        values = {f"{self._prefix}-{name}": value for name, value in metrics.items()} if self._prefix else metrics
        self.experiment.log(values, step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Mapping[str, Any] | None = None, step: int | None = None) -> None:
        """Publish hyperparameters: a mapping, or an object with fields; and metrics, if they are passed."""
        self.experiment.hparams(params)
        if metrics:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:  # noqa: ARG002  # Lightning's signature
        """Keep a reference to the model, which Lightning passes before it trains. No graph is recorded."""
        self._model = weakref.ref(model)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Record the checkpoints that `ModelCheckpoint` has saved and deleted."""
        best, last = checkpoint_callback.best_model_path, checkpoint_callback.last_model_path
        for path in filter(None, dict.fromkeys([*checkpoint_callback.best_k_models, best, last])):
            changed = _change_time(path)
            if changed is None or self._checkpoints.get(path) == changed:
                continue
            self._checkpoints[path] = changed
            about: dict[str, Any] = {"kind": "last" if path == last != best else "checkpoint", "epoch": self._epoch}
            if checkpoint_callback.monitor and path in checkpoint_callback.best_k_models:
                score = float(checkpoint_callback.best_k_models[path])
                kind = "best" if path == best else about["kind"]
                about |= {"kind": kind, "metric": checkpoint_callback.monitor, "score": score}
            self.experiment.lifecycle("checkpoint/saved", path=os.path.relpath(path, self.log_dir), **about)
        self._report_deleted()

    def _report_deleted(self) -> None:
        """Record which checkpoints do not exist any more: Lightning deletes some after it has saved another one."""
        for path in [path for path in self._checkpoints if _change_time(path) is None]:
            del self._checkpoints[path]
            self.experiment.lifecycle("checkpoint/deleted", path=os.path.relpath(path, self.log_dir))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the bus, with the exception that Lightning handles if the status is not `success`."""
        bus = self._bus
        if bus is None or not bus.is_open:
            return
        self._report_deleted()
        if self._epoch is not None:
            bus.finish_epoch(self._epoch)
            self._epoch = None
        self._bus = None
        error = None if status == "success" else sys.exc_info()[1]
        ended, reason = status_of(error)
        if status != "success" and ended == "finished":
            ended, reason = "failed", status
        bus.close(status=ended, reason=reason)

    def _follow_epochs(self) -> None:
        """Record that an epoch of `fit` has begun, and that the one before has ended.

        Lightning logs the means of an epoch after all its hooks, so that an epoch ends when the next one begins.
        """
        # The property `trainer` raises an error if there is no trainer.
        trainer = getattr(self._model and self._model(), "_trainer", None)
        if trainer is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        epoch = trainer.current_epoch + 1
        if epoch != self._epoch:
            if self._epoch is not None:
                self.experiment.finish_epoch(self._epoch)
            self._epoch = epoch
            limit = trainer.max_epochs
            self.experiment.start_epoch(epoch, limit if limit and limit > 0 else None)

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings, without the bus; an open one is closed, because the copy may record in its place."""
        if self._bus is not None:
            self._bus.close(reason="the logger was sent to another process")
        return {**self.__dict__, "_version": self.version, "_bus": None, "_model": None, "_epoch": None}


def _versions_in(folder: Path) -> Iterator[int]:
    """Yield the numbers of the versions in a folder."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and (number := re.fullmatch(r"version_(\d+)", entry.name)):
            yield int(number[1])


def _change_time(path: str) -> int | None:
    """Return when a checkpoint was changed; None if it does not exist."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
