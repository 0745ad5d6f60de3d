"""Snapshots: the state of a training that a checkpoint saves, and resuming a training from it."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from trainwire.checkpointing.changes import apply_settings, asks_for_more, choose_again, report_changes
from trainwire.checkpointing.checkpoint import Checkpoint, Label, list_checkpoints
from trainwire.checkpointing.earlier_models import keep_aside
from trainwire.checkpointing.shards import divided_optimizer_state, divided_state, read_shards, split_shards
from trainwire.checkpointing.writer import Snapshot
from trainwire.training.data.loaders import divides_samples
from trainwire.training.distributed.processes import Processes
from trainwire.training.epoch_reader import generators_of, loader_state
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.model.groups import matches_of
from trainwire.training.model.models import BEST_MODEL, load_model_state, loss_path, model_state
from trainwire.training.model.optimizers import classes_of, learning_rates
from trainwire.training.options.options import TrainingOptions
from trainwire.training.plugin import Scheduler
from trainwire.training.run import TrainingRun
from trainwire.training.savable import as_before, savable
from trainwire.training.setup import TrainingSetup
from trainwire.training.state import LossParts, TrainingState, random_states, restore_random_states
from trainwire_protocol.errors import DamagedCheckpointError, OptionError, UsageError
from trainwire_protocol.journal.attempts import NOTHING, read_resumed_from
from trainwire_protocol.journal.run_folder import list_attempts

logger = logging.getLogger("trainwire")


def take_snapshot(run: TrainingRun) -> Snapshot:
    """Return a copy of everything that is needed to resume the training. Synchronizes with the GPU.

    Raises:
        UsageError: if something in it cannot be saved.
    """
    copy, shards = _state(run, copy=True), None
    if run.sharding is not None:
        copy, shards = split_shards(copy, is_first=run.processes.is_first)
    # Last, so that everything recorded before precedes the mark in the journal.
    return Snapshot(label_of(run), copy | {"bus": run.bus.state_dict()}, shards)


def check_snapshot(run: TrainingRun) -> None:
    """Check that snapshots can be saved, as far as that can be known now, without copying tensors.

    Raises:
        UsageError: if something in them cannot be saved; the message names it.
    """
    _state(run, copy=False)


def _state(run: TrainingRun, *, copy: bool) -> dict[str, Any]:
    progress, epoch, position = run.state.state_dict(), run.state.epoch, run.state.position
    if not position.is_resumed:  # otherwise nothing was read since the resumption, and it is unchanged
        progress["position"]["loader_state"] = loader_state(run)
    random = position.resumed_random or random_states(generators_of(run))
    progress["stopped"] = None if epoch.is_open or run.control.interrupted else run.control.stop_reason
    parts: dict[str, Any] = {"training": progress, "random": random, "modes": run.modes.state_dict()}
    parts |= {"options": run.options.as_hyperparameters(), "initial_groups": run.initial_groups}
    parts["matches"] = matches_of(run.options)
    if run.processes.is_first or run.sharding is not None:
        parts["model"] = model_state(run.model)
        parts["optimizers"] = {name: optimizer.state_dict() for name, optimizer in run.optimizers.items()}
        parts |= {"precision": run.precision.state_dict(), "parameters": run.parameters.state_dict()}
        parts["loss"] = {} if run.modules.loss is None else model_state(run.modules.loss)
    state = {
        name: savable(part, f"the state of the {name.replace('_', ' ')}", copy=copy) for name, part in parts.items()
    }
    return state | {"plugins": _plugin_states(run, copy=copy)}


def label_of(run: TrainingRun) -> Label:
    """Return the label of a snapshot that is taken now."""
    epoch, main = run.state.epoch, run.main_metric
    rank = main.rank(epoch.metrics) if main and main.mode and not epoch.is_open else None
    return Label(
        attempt=run.attempt, step=run.state.step, epoch=epoch.number, epoch_is_over=not epoch.is_open,
        rank=run.processes.rank, world_size=run.processes.world_size, seed=run.seed,
        mini_batch_size=run.options.mini_batch_size, optimizer=classes_of(run.optimizers),
        samples=run.split_sizes["train"], main_metric=str(main), score=rank[0] if rank else None,
        first_attempt=run.first_attempt,
    )  # fmt: skip


def keep_best_model(run: TrainingRun, folder: Path) -> None:
    """Link the current best model into a checkpoint's folder, as a better one may replace it in the run's folder."""
    if run.state.best_model:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _link_model(run, run.folder / run.state.best_model, folder / BEST_MODEL)
        except OSError as error:
            logger.warning("the best model could not be saved with the checkpoint: %s", error)


KEYS: Final = {"training", "random", "modes", "options", "initial_groups", "matches", "plugins", "bus"}
"""What each process saves."""

SHARED_KEYS: Final = {"model", "optimizers", "precision", "parameters", "loss"}
"""What the first process saves for all, and each one of a sharded model."""


def check_version(folder: Path, state: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Check that the state in a checkpoint has what this version saves.

    Raises:
        UsageError: if it was saved by a version that saves something else.
    """
    expected = TrainingState().state_dict()
    training = state.get("training", expected)
    pairs: list[tuple[Collection[str], Collection[str]]] = [
        (KEYS, state.keys() - SHARED_KEYS), (SHARED_KEYS, shared.keys() - KEYS), (expected, training),
        *((expected[name], training[name]) for name in ("epoch", "position") if name in training),
    ]  # fmt: skip
    missing = sorted({name for wanted, found in pairs for name in wanted if name not in found})
    unknown = sorted({name for wanted, found in pairs for name in found if name not in wanted})
    if missing or unknown:
        what = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
        raise UsageError(
            f"{folder} was saved by another version of Trainwire, which this one cannot resume: it "
            f"{' and '.join(what)}. Resume it with that version, or train from the beginning without resume=True"
        )


class LoadedCheckpoint(NamedTuple):
    """A checkpoint that was read, to resume a training from: a `Resumption`."""

    checkpoint: Checkpoint
    state: Mapping[str, Any]
    """The state that this process saved."""
    shared: Mapping[str, Any]
    """The state with the model and the optimizer: what the first process saved for all or, of a sharded model, the same
    as `state`, without the shards."""
    processes: Processes
    """Those of this training, of which there may be another number than there were."""

    @property
    def seed(self) -> int:
        """The seed of the order of the samples."""
        return self.checkpoint.label.seed

    @property
    def bus_state(self) -> Mapping[str, Any] | None:
        """The position in the journal at which the checkpoint was saved; None if this process has no journal yet."""
        state: Mapping[str, Any] = self.state["bus"]
        return state if self.processes.rank < self.checkpoint.label.world_size else None

    def check(self, setup: TrainingSetup) -> None:
        """Check that model, optimizer and samples are the same as in the training to resume.

        Raises:
            OptionError: if they differ; the message says how.
        """
        label, saved, model = self.checkpoint.label, self.shared["model"], model_state(setup.model)
        _check_same("the optimizer", classes_of(setup.optimizers), label.optimizer)
        _check_same("the matches of parameter_groups", matches_of(setup.options), self.state["matches"])
        _check_same("the number of training samples", setup.split_sizes["train"], label.samples)
        _check_shapes("model", model, saved)
        loss = setup.modules.loss
        _check_shapes("loss", {} if loss is None else model_state(loss), self.shared["loss"])
        report_changes(setup.options, self.state["options"])
        if str(setup.main_metric) != label.main_metric:
            logger.warning(
                "the main metric is now %s, and was %s: epochs are compared by the new one, also those before the "
                "checkpoint", setup.main_metric, label.main_metric,
            )  # fmt: skip
        self._report_end(setup)

    def _report_end(self, setup: TrainingSetup) -> None:
        """Report if the training has ended, so that nothing remains to be trained."""
        label, options, stopped = self.checkpoint.label, setup.options, self.state["training"]["stopped"]
        is_stopped = stopped is not None and not asks_for_more(options, self.state["options"])
        is_complete = label.epoch >= (options.max_epochs or math.inf) or label.step >= (options.max_steps or math.inf)
        if is_stopped or (is_complete and label.epoch_is_over):
            logger.warning(
                "the training in %s has ended at epoch %d, step %d%s: its result is returned, and nothing is trained; "
                "to go on, pass a larger max_epochs or max_steps",
                setup.folder, label.epoch, label.step, f" ({stopped})" if is_stopped else "",
            )  # fmt: skip

    def restore_progress(self, run: TrainingRun) -> None:
        """Restore the run's counters and its best model.

        A training that has ended is stopped again, unless more epochs or steps are requested.
        """
        state, before = run.state, self.state["options"]
        state.load_state_dict(self.state["training"], run.device)
        if state.epoch.is_open:
            state.epoch.batches = run.batches_in_epoch
        if run.processes.world_size != self.checkpoint.label.world_size:
            self._divide_again(run)
        state.epoch.max_epochs = run.planned_epochs
        run.first_attempt = self.checkpoint.label.first_attempt
        self._restore_best_model(run)
        if state.stopped is not None and not asks_for_more(run.options, before):
            run.control.stop(state.stopped)

    def _divide_again(self, run: TrainingRun) -> None:
        """Continue an epoch with another number of processes, at the step that begins at the same sample or before it.

        The mean loss of the epoch so far is that of all former processes.
        """
        epoch, position, done = run.state.epoch, run.state.position, run.state.epoch.batch
        before, now = self.checkpoint.label.world_size, run.processes.world_size
        logger.warning("resumed with %d processes, after a training with %d: it is not resumed bitwise", now, before)
        position.loader_state = None  # of one of the former processes
        if divides_samples(run.train_loader):
            position.is_divided_again = True
            position.batches = _divided_again(position.batches, run.train_loader, before, now)
            if epoch.is_open and run.options.batches_per_epoch is None:
                epoch.batch = _divided_again(epoch.batch, run.train_loader, before, now)
        if not epoch.is_open:
            return
        epoch.loss, epoch.parts = epoch.loss.without_values(), LossParts()
        for rank in range(before) if run.processes.is_first else ():
            saved, parts = self.checkpoint.read(rank)["training"]["epoch"], LossParts()
            epoch.loss.merge(saved["loss"], run.device)
            parts.load_state_dict(saved["parts"], run.device)
            epoch.parts.add_means(parts, finite_only=False)
        logger.warning(
            "epoch %d goes on after batch %d of now %s in each process; it was at batch %d", epoch.number, epoch.batch,
            epoch.batches, done,
        )  # fmt: skip

    def _restore_best_model(self, run: TrainingRun) -> None:
        state, saved = run.state, self.checkpoint.folder / BEST_MODEL
        if state.best_model and not saved.exists():
            logger.warning("%s is missing: the best model is chosen among the following epochs", saved)
            state.best_epoch = state.best_step = state.best_score = state.best_model = None
        if str(run.main_metric) != self.checkpoint.label.main_metric:
            choose_again(run)
        if run.processes.is_first and state.best_model:
            _link_model(run, saved, run.folder / state.best_model)
        elif run.processes.is_first:
            keep_aside(run, [BEST_MODEL], "that the resumed training does not use")
        run.processes.wait_for_all()

    def restore_parts(self, run: TrainingRun) -> None:
        """Restore model, optimizer, scaler, plugins and, at the end of an epoch, the random states.

        Within an epoch, the random states are restored when the next batch is read.
        """
        own, shared = self.state, self.shared
        if self.checkpoint.is_sharded:
            own = shared = read_shards(self.checkpoint.folder, own, run.sharding)
        load_model_state(run.model, shared["model"])
        run.modes.load_state_dict(own["modes"])
        if run.modules.loss is not None:
            load_model_state(run.modules.loss, shared["loss"])
        run.parameters.load_state_dict(shared["parameters"])
        initial_rates = {name: learning_rates(optimizer) for name, optimizer in run.optimizers.items()}
        for name, optimizer in run.optimizers.items():
            fresh = [dict(group) for group in optimizer.param_groups]
            saved = divided_optimizer_state(shared["optimizers"][name], optimizer)
            optimizer.load_state_dict(as_before(saved, optimizer.state_dict()))
            for group, made in zip(optimizer.param_groups, fresh, strict=False):
                group.update({key: value for key, value in made.items() if key not in group})  # of another schedule
        run.precision.load_state_dict(shared["precision"])
        _restore_plugins(run, own["plugins"], initial_rates, self.checkpoint.folder)
        apply_settings(run, shared["initial_groups"])
        if run.state.epoch.is_open:
            run.state.position.resumed_random = self.state["random"]
        else:
            restore_random_states(self.state["random"], generators_of(run))
        label = self.checkpoint.label
        logger.info("resumed from %s: epoch %d, step %d", self.checkpoint.folder.name, label.epoch, label.step)


def _divided_again(batches: int, loader: DataLoader[Any], before: int, now: int) -> int:
    """Return how many batches of each of `now` processes have only samples that were in those of `before` processes.

    The workers of a stream divide it too, so that only one batch from each of them makes up a part without gaps.
    """
    workers = max(1, loader.num_workers) if isinstance(loader.dataset, IterableDataset) else 1
    return batches // workers * before // now * workers


def _restore_plugins(
    run: TrainingRun, saved: Mapping[str, Any], initial_rates: Mapping[str, list[float]], folder: Path
) -> None:
    plugins = _named_plugins(run)
    for name, plugin in plugins.items():
        if name in saved:
            current = plugin.state_dict()
            try:
                plugin.load_state_dict(as_before(divided_state(saved[name], current), current))
            except KeyError as error:
                raise UsageError(
                    f"{folder} has a state of the plugin {name} without {error}: it was saved by another version of it"
                ) from error
            continue
        logger.warning("the checkpoint has no state of the plugin %s, which starts with its initial one", name)
        if isinstance(plugin, Scheduler):
            for optimizer, rates in initial_rates.items():
                if plugin.optimizer in (None, optimizer):
                    run.set_learning_rates(rates, f"{name} starts", optimizer)
    for name in saved.keys() - plugins.keys():
        if saved[name]:
            logger.warning("the state of the plugin %s in the checkpoint is not used: it is not attached", name)


def load_latest_checkpoint(folder: Path, options: TrainingOptions, processes: Processes) -> LoadedCheckpoint | None:
    """Return the latest checkpoint that can be read; log a warning and return None if there is none.

    Raises:
        OptionError: if the training was saved with another batch size.
        UsageError: if the checkpoint was saved by another version, or cannot be loaded.
    """
    is_damaged = False
    for checkpoint in list_checkpoints(folder):
        try:
            checkpoint.verify()
        except DamagedCheckpointError as error:
            logger.warning("%s; using the checkpoint before it, if there is one", error)
            is_damaged = True
            continue
        _check_same("mini_batch_size", options.mini_batch_size, checkpoint.label.mini_batch_size)
        _warn_of_later_attempts(folder, checkpoint)
        rank = processes.rank % checkpoint.label.world_size
        state = checkpoint.read(rank)
        shared = state if rank == 0 or checkpoint.is_sharded else checkpoint.read(0)
        check_version(checkpoint.folder, state, shared)
        return LoadedCheckpoint(checkpoint, state, shared, processes)
    other = "other " if is_damaged else ""
    logger.warning("there is no %scheckpoint in %s: the training starts from the beginning", other, folder)
    return None


def _check_same(name: str, now: object, before: object) -> None:
    if now != before:
        raise OptionError(f"{name} is {now}, but in the training to resume it was {before}")


def _check_shapes(module: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for name in sorted(now.keys() | before.keys()):
        shape, former = _shape(now.get(name)), _shape(before.get(name))
        if shape != former:
            raise OptionError(f"the {module}'s {name} is {shape}, but in the training to resume it was {former}")


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    return "missing" if value is None else "not a tensor"


def _warn_of_later_attempts(folder: Path, checkpoint: Checkpoint) -> None:
    """Warn if the training was started from the beginning since, and that attempt saved no checkpoint."""
    later = [attempt for attempt in list_attempts(folder, 0) if attempt.number > checkpoint.label.attempt]
    if later and read_resumed_from(later[-1]) == NOTHING:
        logger.warning(
            "attempt %d started from the beginning and saved no checkpoint: resuming from one of attempt %d",
            later[-1].number, checkpoint.label.attempt,
        )  # fmt: skip


def _plugin_states(run: TrainingRun, *, copy: bool) -> dict[str, Any]:
    """Return the state of each plugin; log and leave out invalid states of plugins that are not essential."""
    states = {}
    for name, plugin in _named_plugins(run).items():
        try:
            states[name] = savable(plugin.state_dict(), "its state", copy=copy)
        except Exception as error:
            if plugin.essential:
                raise UsageError(f"the state of the plugin {name} cannot be saved: {error}") from error
            logger.warning("the state of the plugin %s cannot be saved: %s", name, error)
    return states


def _named_plugins(run: TrainingRun) -> dict[str, BasePlugin[Any]]:
    """Return the plugins by class name; further ones of the same class have a number appended."""
    named: dict[str, BasePlugin[Any]] = {}
    for plugin in run.plugins:
        name = type(plugin).__name__
        number = sum(1 for known in named.values() if type(known) is type(plugin))
        named[f"{name}-{number + 1}" if number else name] = plugin
    return named


def _link_model(run: TrainingRun, source: Path, target: Path) -> None:
    _link(source, target)
    if run.modules.loss is not None:
        _link(loss_path(source), loss_path(target))


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy; replacing one of the names does not change the other."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
