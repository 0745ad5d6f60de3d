"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from trainwire.checkpointing.checkpoint import Checkpoint, Label, list_checkpoints
from trainwire.training.epoch_reader import generators_of, loader_state
from trainwire.training.models import BEST_MODEL
from trainwire.training.random_states import random_states, restore_random_states
from trainwire.training.state import EpochState, MeanLoss, TrainingState
from trainwire_protocol.errors import DamagedCheckpointError, OptionError, UsageError
from trainwire_protocol.journal.attempts import NOTHING, read_resumed_from
from trainwire_protocol.journal.run_folder import list_attempts

if TYPE_CHECKING:
    from trainwire.training.distributed import Processes
    from trainwire.training.options import TrainingOptions
    from trainwire.training.run import TrainingRun

logger = logging.getLogger("trainwire")


class Resumption(NamedTuple):
    """The checkpoint that a training goes on from, read."""

    checkpoint: Checkpoint
    state: Mapping[str, Any]
    """What this process has saved."""
    shared: Mapping[str, Any]
    """What the first process has saved for all: the model and the optimizer."""

    @property
    def seed(self) -> int:
        """What the order of the samples comes from."""
        return self.checkpoint.label.seed


def take_snapshot(run: TrainingRun) -> dict[str, Any]:
    """Everything that a training goes on from, copied. A GPU is waited for."""
    state: dict[str, Any] = {
        "training": _training_state(run),
        "plugins": _plugin_states(run),
        "random": random_states(generators_of(run)),
    }
    if run.processes.is_first:
        state |= {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
        state["precision"] = run.precision.state_dict()
    copy: dict[str, Any] = _copied(state)
    # Last, so that whatever was recorded before is before the mark.
    return copy | {"bus": run.bus.state_dict()}


def label_of(run: TrainingRun) -> Label:
    """What is known of a snapshot that is taken now."""
    epoch, main = run.state.epoch, run.main_metric
    rank = main.rank(epoch.metrics) if main and not epoch.is_open else None
    return Label(
        attempt=run.attempt, step=run.state.step, epoch=epoch.number, epoch_is_over=not epoch.is_open,
        rank=run.processes.rank, world_size=run.processes.world_size, seed=run.seed,
        mini_batch_size=run.options.mini_batch_size, optimizer=type(run.optimizer).__name__,
        samples=run.split_sizes["train"], score=rank[0] if rank else None,
    )  # fmt: skip


def find_resumption(folder: Path, options: TrainingOptions, processes: Processes) -> Resumption | None:
    """The latest checkpoint that can be read; None, with a word, if there is none.

    Raises:
        OptionError: it is of a training that was not like this one.
    """
    for checkpoint in list_checkpoints(folder):
        try:
            state = checkpoint.read(processes.rank)
            shared = state if processes.is_first else checkpoint.read(0)
        except DamagedCheckpointError as error:
            logger.warning("%s; taking the checkpoint before it", error)
            continue
        _check_alike(checkpoint.label, options, processes)
        _warn_of_later_attempts(folder, checkpoint)
        return Resumption(checkpoint, state, shared)
    logger.warning("there is no checkpoint in %s to resume from: the training begins anew", folder)
    return None


def _check_alike(label: Label, options: TrainingOptions, processes: Processes) -> None:
    for name, saved, wanted in (
        ("mini_batch_size", label.mini_batch_size, options.mini_batch_size),
        ("the number of processes", label.world_size, processes.world_size),
    ):
        if saved != wanted:
            raise OptionError(f"{name} is {wanted}, but that of the training that is resumed was {saved}")


def check_fits(resumption: Resumption, run: TrainingRun) -> None:
    """Refuse to resume with another model, optimizer or set of samples.

    Raises:
        OptionError: says what is not as it was.
    """
    label, saved, model = resumption.checkpoint.label, resumption.shared["model"], run.model.state_dict()
    for name, before, now in (
        ("the optimizer", label.optimizer, type(run.optimizer).__name__),
        ("the number of training samples", label.samples, run.split_sizes["train"]),
    ):
        if before != now:
            raise OptionError(f"{name} is {now}, but that of the training that is resumed was {before}")
    for name in sorted(saved.keys() | model.keys()):
        shapes = [_shape(state.get(name)) for state in (model, saved)]
        if shapes[0] != shapes[1]:
            raise OptionError(
                f"the model's {name} is {shapes[0]}, but in the training that is resumed it was {shapes[1]}"
            )


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    return "not there" if value is None else "no tensor"


def _warn_of_later_attempts(folder: Path, checkpoint: Checkpoint) -> None:
    """Say that the training was begun anew since, as that left no checkpoint to go on from."""
    later = [attempt for attempt in list_attempts(folder, 0) if attempt.number > checkpoint.label.attempt]
    if later and read_resumed_from(later[-1]) == NOTHING:
        logger.warning(
            "the training was begun anew in attempt %d, which has left no checkpoint: going on from one of attempt %d",
            later[-1].number, checkpoint.label.attempt,
        )  # fmt: skip


def restore_state(run: TrainingRun, resumption: Resumption) -> None:
    """Bring back where the training stood: what it counts, and which model is the best one."""
    saved = dict(resumption.state["training"])
    epoch = dict(saved.pop("epoch"))
    loss = MeanLoss()
    loss.load_state_dict(epoch.pop("loss"), run.device)
    began = time.monotonic() - epoch.pop("seconds")
    run.state = TrainingState(epoch=EpochState(loss=loss, began=began, **epoch), **saved)
    run.state.epoch.max_epochs = run.options.max_epochs
    if run.state.best_model and run.processes.is_first:
        _link(resumption.checkpoint.folder / BEST_MODEL, run.folder / run.state.best_model)
    run.processes.wait_for_all()


def restore_parts(run: TrainingRun, resumption: Resumption) -> None:
    """Bring back model, optimizer, scaler and plugins; in mid-epoch the random states follow with the next batch."""
    run.model.load_state_dict(resumption.shared["model"])
    run.optimizer.load_state_dict(resumption.shared["optimizer"])
    run.precision.load_state_dict(resumption.shared["precision"])
    saved = resumption.state["plugins"]
    for name, plugin in _named_plugins(run).items():
        if name in saved:
            plugin.load_state_dict(saved[name])
        else:
            logger.warning("the checkpoint knows nothing of the plugin %s: it begins anew", name)
    if run.state.epoch.is_open:
        run.resumed_random = resumption.state["random"]
    else:
        restore_random_states(resumption.state["random"], generators_of(run))
    label = resumption.checkpoint.label
    logger.info("resumed from %s: epoch %d, step %d", resumption.checkpoint.folder.name, label.epoch, label.step)


def keep_best_model(run: TrainingRun, folder: Path) -> None:
    """Put the best model of now beside a checkpoint: the file in the run's folder may soon be a better one's."""
    if run.state.best_model:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _link(run.folder / run.state.best_model, folder / BEST_MODEL)
        except OSError as error:
            logger.warning("the best model could not be kept with the checkpoint: %s", error)


def _training_state(run: TrainingRun) -> dict[str, Any]:
    state = run.state
    epoch = {field.name: getattr(state.epoch, field.name) for field in fields(EpochState) if field.name != "began"}
    epoch |= {"seconds": state.epoch.seconds, "loss": state.epoch.loss.state_dict()}
    epoch["loader_state"] = loader_state(run.train_loader) if state.epoch.is_open else None
    return {field.name: getattr(state, field.name) for field in fields(TrainingState)} | {"epoch": epoch}


def _plugin_states(run: TrainingRun) -> dict[str, Any]:
    """The state of each plugin; one that is not essential, and has none that can be saved, is left out with a word."""
    states = {}
    for name, plugin in _named_plugins(run).items():
        try:
            states[name] = checked_state(plugin.state_dict())
        except Exception as error:
            if plugin.essential:
                raise UsageError(f"the state of the plugin {name} cannot be saved: {error}") from error
            logger.warning("the state of the plugin %s cannot be saved: %s", name, error)
    return states


def checked_state(value: Any) -> Any:
    """The value, with numbers as plain ones, if it is of what a checkpoint can hold.

    Raises:
        UsageError: something in it is neither None, a number, a string, bytes nor a tensor, nor a list or map of them.
    """
    if value is None or isinstance(value, (bool, str, bytes, Tensor)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {key: checked_state(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(checked_state(item) for item in value)
    raise UsageError(f"it holds a {type(value).__name__}; it can hold numbers, strings, tensors, and lists and maps")


def _named_plugins(run: TrainingRun) -> dict[str, Any]:
    """The plugins by their class, and further ones of a class by a number."""
    named: dict[str, Any] = {}
    for plugin in run.plugins:
        name = type(plugin).__name__
        number = sum(1 for known in named.values() if type(known) is type(plugin))
        named[f"{name}-{number + 1}" if number else name] = plugin
    return named


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value


def _link(source: Path, target: Path) -> None:
    """Let two names have one content, by a link or a copy; whoever replaces one leaves the other."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    aside.replace(target)
