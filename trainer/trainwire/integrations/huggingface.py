"""A callback for the trainers of Hugging Face: `Trainer` of Transformers, and those of TRL."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import UsageError
from trainwire_protocol.journal.run_folder import parse_folder

require("transformers", "5", extra="huggingface")

from transformers.trainer_callback import ExportableState, TrainerCallback  # noqa: E402  # `require` explains it

FOLDER: Final = "trainwire"
"""The default run folder, within the `output_dir` of the training."""

JOURNAL_SECONDS: Final = 10.0
"""How long a checkpoint waits until the journal's disk has what was recorded before it."""

_PREFIXES: Final = {"eval_": "eval/", "test_": "test/"}


class TrainwireCallback(TrainerCallback, ExportableState):
    """Publishes what a trainer of Hugging Face's logs: `Trainer(..., callbacks=[TrainwireCallback()])`.

    The names and steps are those of the trainer's own TensorBoard: `train/loss`, `eval/loss`, at the number of updates.
    The arguments of the training, the model's configuration, epochs and checkpoints are recorded too. The first
    process records. The bus is open from the beginning of `train` until its end; an `evaluate` after that adds to the
    run. A training that resumes from a checkpoint continues from there, and supersedes what was recorded after it.

    The trainer does not tell its callbacks of an exception: the run then ends when the process does, or when the next
    training begins.

    Args:
        run_folder: The run's folder. Default: `trainwire` in the `output_dir` of the training; in a search for
            hyperparameters, a folder in it for each trial.

    Raises:
        MissingExtraError: if Transformers is not installed or too old; raised when this module is imported.
        OptionError: if `run_folder` is not a path.
    """

    def __init__(self, run_folder: str | PathLike[str] | None = None) -> None:
        self.run_folder = None if run_folder is None else parse_folder(run_folder, "run_folder")
        self.bus_state: dict[str, Any] | None = None
        """The position in the record that the last checkpoint has."""
        self._bus: EventBus | None = None
        self._is_training = False
        self._recorded: Path | None = None
        """The folder in which this callback has recorded."""
        self._epoch: int | None = None
        """The epoch that has begun and is not finished, counted from 1."""
        self._best: tuple[str, float, int] | None = None

    @property
    def bus(self) -> EventBus | None:
        """The bus while it is open, for images, tables and all else that a bus records; None in other processes."""
        return self._bus if self._bus and self._bus.is_open else None

    def state(self) -> dict[str, Any]:
        """Return what the trainer writes into a checkpoint."""
        self.bus_state = self.bus.state_dict() if self.bus else None
        folder = None if self.run_folder is None else str(self.run_folder)
        return {"args": {"run_folder": folder}, "attributes": {"bus_state": self.bus_state}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Open the bus, and record the hyperparameters.

        Raises:
            RunInUseError: if another process records in this folder.
        """
        name = type(self).__name__
        saved = state.stateful_callbacks.setdefault(name, {})  # the trainer expects it, also from older checkpoints
        if not state.is_world_process_zero:
            return
        if self.bus:
            self.bus.close(status="failed", reason="the training before this one ended without on_train_end")
        attributes = saved.get("attributes", {}) if isinstance(saved, Mapping) else {}
        self._bus = self._open(self._choose_folder(args, state), attributes.get("bus_state"), state.global_step)
        self._is_training, self._epoch, self._best = True, None, None
        model = kwargs.get("model")
        config = getattr(model, "config", None)
        hparams = {"model": type(model).__name__, **args.to_dict()}
        self._bus.hparams(hparams if config is None else {**hparams, "model_config": config.to_dict()})

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end of the epoch before, and the beginning of this one."""
        if self.bus and self._is_training:
            self._finish_epoch()
            self._epoch = int(state.epoch or 0) + 1
            self.bus.start_epoch(self._epoch, math.ceil(state.num_train_epochs) or None)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Publish what the trainer logs; the summary at its end is not part of the last epoch."""
        if not state.is_world_process_zero or not logs:
            return
        if self.bus is None:
            self._recorded = self._choose_folder(args, state)
            self._bus = open_bus(self._recorded, rank=0, world_size=1, append=True)
        assert self.bus
        if "train_runtime" in logs:
            self._finish_epoch()
        named = {_rename(name): value for name, value in logs.items()}
        self.bus.log({name: value for name, value in named.items() if not isinstance(value, str)}, state.global_step)
        for name, value in named.items():
            if isinstance(value, str):
                self.bus.text(name, value, state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the bus after an evaluation that is not part of a training."""
        if self.bus and not self._is_training:
            self.bus.close()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a checkpoint, and keep the best score."""
        if self.bus is None:
            return
        if self.bus_state is not None:
            self.bus.wait_until_journaled(self.bus_state, JOURNAL_SECONDS)
        if state.best_metric is not None and (self._best is None or self._best[1] != state.best_metric):
            metric = args.metric_for_best_model
            name = _rename(metric if metric.startswith(tuple(_PREFIXES)) else f"eval_{metric}")
            self._best = name, float(state.best_metric), self._epoch or 1
        path = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if path.is_dir():
            about = {"path": os.path.relpath(path, self.bus.folder), "kind": "resume", "epoch": self._epoch}
            self.bus.lifecycle("checkpoint/saved", step=state.global_step, **about)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end of the last epoch, and close the bus."""
        if self.bus:
            self._finish_epoch()
            early = control.should_training_stop and state.global_step < state.max_steps
            self.bus.close(reason=f"stopped by a callback at step {state.global_step}" if early else None)
        self._is_training = False

    def _choose_folder(self, args: Any, state: Any) -> Path:
        folder = Path(args.output_dir).absolute() / FOLDER if self.run_folder is None else self.run_folder
        return folder / str(state.trial_name) if state.is_hyper_param_search and state.trial_name else folder

    def _open(self, folder: Path, position: Mapping[str, Any] | None, step: int) -> EventBus:
        """Open a bus that continues from a position, or adds to a record of this callback's, or begins one."""
        is_added = self._recorded == folder or bool(step)
        self._recorded = folder
        if position is not None and step:
            try:
                return open_bus(folder, rank=0, world_size=1, state=position)
            except UsageError:  # the checkpoint was made with another folder
                is_added = True
        return open_bus(folder, rank=0, world_size=1, append=is_added)

    def _finish_epoch(self) -> None:
        """Record the end of an epoch; the trainer evaluates after `on_epoch_end`, so that it ends with what follows."""
        if self.bus and self._epoch is not None:
            self.bus.finish_epoch(self._epoch, best=self._best)
            self._epoch = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings, without the bus, which stays in this process."""
        return {**self.__dict__, "_bus": None, "_is_training": False}


def _rename(name: str) -> str:
    """Return the name under which the trainer's own TensorBoard shows a metric."""
    for prefix, group in _PREFIXES.items():
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return f"train/{name}"
