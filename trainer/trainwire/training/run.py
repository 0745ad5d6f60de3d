"""One training, from its start to its end: its parts, its state, and the recording of metrics and events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer

from trainwire.bus.bus import EventBus
from trainwire.training.control import Agreement, Control
from trainwire.training.data.loaders import has_exact_length, length_of
from trainwire.training.distributed.processes import Processes
from trainwire.training.distributed.sharding import without_shards
from trainwire.training.forward import Forward, TrainingForward
from trainwire.training.hooks.base_plugin import isolated
from trainwire.training.hooks.hooks import Hooks
from trainwire.training.hooks.payloads import (
    AfterTrainingForward,
    EpochMetrics,
    MetricRecorded,
    MetricValue,
    Result,
    Status,
)
from trainwire.training.metric_trial import try_metrics
from trainwire.training.metrics import read_metric
from trainwire.training.model.losses import checked_loss
from trainwire.training.model.models import load_model, loss_path, optimizer_path, save_atomically, save_model
from trainwire.training.model.modes import Modes
from trainwire.training.model.optimizers import learning_rates, one_or_each, optimizer_metrics
from trainwire.training.model.parameters import ParameterGroups
from trainwire.training.savable import savable
from trainwire.training.setup import TrainingSetup
from trainwire.training.state import EpochState, TrainingState
from trainwire_protocol.errors import UsageError


@runtime_checkable
class Checkpointer(Protocol):
    """A plugin that saves checkpoints."""

    def save_checkpoint(self) -> None:
        """Save a checkpoint of the run: called by the loop between two steps."""


@runtime_checkable
class Averager(Protocol):
    """A plugin that saves other weights than those that are trained, such as their average."""

    def saved_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model holds the weights to save."""


class Resumption(Protocol):
    """A checkpoint from which a training is resumed."""

    def restore_progress(self, run: TrainingRun) -> None:
        """Restore the run's counters and its best model."""

    def restore_parts(self, run: TrainingRun) -> None:
        """Restore model, optimizer, plugins and random states."""


class TrainingRun:
    """One training, as plugins see it.

    It has the setup's parts, of which `processes` is connected, and exists from before `after_setup` until after the
    last hook.
    """

    def __init__(self, setup: TrainingSetup, processes: Processes, bus: EventBus, control: Control) -> None:
        self.folder = setup.folder
        self.model = setup.model
        self.options = setup.options
        self.seed = setup.seed
        self.device = setup.device
        self.processes = processes
        self.sharding = setup.sharding
        """How the model is divided among the processes, if it is."""
        self.optimizers = setup.optimizers
        """The optimizers by name, in the order in which they make their updates; the only one has the name ""."""
        self.initial_groups = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for name, optimizer in setup.optimizers.items()
        }
        """The settings of each optimizer's parameter groups as they were given, before schedules change them."""
        self.precision = setup.precision
        self.metrics = setup.metrics
        self.main_metric = setup.main_metric
        self.train_loader = setup.train_loader
        self.evaluation_loaders = setup.evaluation_loaders
        self.monitored_splits = setup.monitored_splits
        self.split_sizes = setup.split_sizes
        self.plugins = setup.plugins
        self.bus = bus
        self.control = control
        self.agreement = Agreement(processes.group)
        """Combines the requests of all processes."""
        self.modules = setup.modules
        """The modules whose parameters are trained: the model, and the loss if it has parameters of its own."""
        self.parameters = ParameterGroups(setup.modules, setup.optimizers, setup.options, setup.is_decoder)
        self.batches = setup.batches
        self.modes = Modes(setup.model)
        self.state = TrainingState()
        self.hooks = Hooks(binding for plugin in setup.plugins for binding in isolated(plugin, self.publish))
        self._evaluates_as_trained = not setup.overrides_forward_for
        self.forward = TrainingForward(
            setup.modules, setup.forward, setup.forward_for, checked_loss(setup.loss), first=self._check_first,
            after=self._after_forward if self.hooks.listeners[AfterTrainingForward] else None,
            taken={*setup.metrics, *setup.optimizers},
            sharding=self.sharding, processes=processes,
        )  # fmt: skip
        savers = [plugin for plugin in setup.plugins if isinstance(plugin, Checkpointer)]
        self.checkpointer: Checkpointer | None = savers[-1] if savers else None
        """The plugin that saves checkpoints, if one is attached."""
        self.attempt = max(processes.gather(bus.attempt))
        """The number of this attempt at the run, counted from 0; the same in all processes."""
        length = length_of(setup.train_loader)
        lengths = processes.gather(-1 if length is None else length)
        self._fewest_batches = None if -1 in lengths else min(lengths)
        is_exact = all(processes.gather(has_exact_length(setup.train_loader)))
        self._has_exact_length = is_exact
        self.is_uneven = processes.several and (len(set(lengths)) > 1 or not is_exact)
        """Whether processes that train together may have different numbers of batches in an epoch."""
        self.first_attempt = self.attempt
        """The attempt in which the training started from the beginning: this one, unless the training is resumed."""
        self.status: Status = "finished"
        self.reason = ""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer.

        Raises:
            UsageError: if there are several.
        """
        return self.optimizer_named("")

    def optimizer_named(self, name: str) -> Optimizer:
        """Return the optimizer of this name, or the only one if the name is empty.

        Raises:
            UsageError: if there is no such optimizer, or the name is empty and there are several.
        """
        if name in self.optimizers:
            return self.optimizers[name]
        if not name and len(self.optimizers) == 1:
            return next(iter(self.optimizers.values()))
        missing = f"there is no optimizer {name!r}" if name else "there is more than one optimizer"
        raise UsageError(f"{missing}; `run.optimizers` has {', '.join(map(repr, self.optimizers))}")

    @property
    def batches_in_epoch(self) -> int | None:
        """Batches in the next epoch, of the process that has the fewest; None if the number is unknown."""
        if self.options.batches_per_epoch is not None:
            return self.options.batches_per_epoch
        return self._fewest_batches if self.processes.several else length_of(self.train_loader)

    @property
    def steps_in_epoch(self) -> int | None:
        """Updates in the next epoch; None if the number is unknown."""
        batches = self.batches_in_epoch
        return None if batches is None else -(-batches // self.options.accumulate_batches)

    @property
    def continues(self) -> bool:
        """Whether another epoch follows, or a resumed one is to be finished."""
        epoch = self.state.epoch
        last = self.options.max_epochs
        is_more = (last is None or epoch.number < last) and not self.is_at_max_steps
        return (epoch.is_open or is_more) and not self.control.stopping

    @property
    def planned_steps(self) -> int | None:
        """The number of updates if nothing stops the training; None if it is unknown."""
        steps, epochs = self.steps_in_epoch, self.options.max_epochs
        in_epochs = None if steps is None or epochs is None else steps * epochs
        known = [number for number in (in_epochs, self.options.max_steps) if number is not None]
        return min(known, default=None)

    @property
    def planned_epochs(self) -> int | None:
        """`max_epochs` or, without it, the number of epochs in which `max_steps` is reached; None if it is unknown."""
        steps, most = self.steps_in_epoch, self.options.max_steps
        if self.options.max_epochs is not None or not steps or most is None:
            return self.options.max_epochs
        return -(-most // steps)

    @property
    def is_at_max_steps(self) -> bool:
        """Whether the maximum number of updates was made."""
        return self.options.max_steps is not None and self.state.step >= self.options.max_steps

    @property
    def is_evaluation_due(self) -> bool:
        """Whether to evaluate now, within the epoch; at its end, it is evaluated anyway."""
        interval, state = self.options.evaluate_each_k_steps, self.state
        if not interval or state.step % interval or state.evaluated_step == state.step:
            return False
        if not state.step or not state.epoch.batch:  # no update was made, as batches were skipped
            return False
        return not self.epoch_is_over and not self._is_at_last_batch

    @property
    def _is_at_last_batch(self) -> bool:
        """Whether the epoch is known to have no more batches."""
        epoch, limit = self.state.epoch, self.options.batches_per_epoch
        if limit is None and self.state.position.exhausted:
            return True
        if epoch.batches is None or epoch.batch < epoch.batches:
            return False
        return self._has_exact_length or limit is not None

    @property
    def compared(self) -> str:
        """What plugins count that compare scores, in the plural."""
        return "evaluations" if self.options.evaluate_each_k_steps else "epochs"

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch ends now, even if there are more batches."""
        return self.control.epoch_is_over or self.is_at_max_steps or self.state.epoch.is_cut

    @property
    def checks_each_loss(self) -> bool:
        """Whether a plugin reports losses that are not finite at the step where they occur."""
        return any(plugin.checks_each_loss for plugin in self.plugins)

    def record(self, metrics: Mapping[str, float | Tensor | list[float]]) -> None:
        """Record metrics at the current step: publish them, then call the plugins that listen to `metric_recorded`.

        A value may be a tensor with one element on any device, which is read without synchronizing with the GPU. A
        list holds several numbers of one kind, such as one for each class.
        """
        step = self.state.step
        scalars = {name: value for name, value in metrics.items() if not isinstance(value, list)}
        if scalars:
            self.bus.log(scalars, step)
        for name, value in metrics.items():
            if isinstance(value, list):
                self.bus.scalars(name, value, step)
        if self.hooks.listeners[MetricRecorded]:
            walltime = time.time()
            for name, value in metrics.items():
                kind: Literal["scalar", "scalars"] = "scalars" if isinstance(value, list) else "scalar"
                self.hooks.dispatch(MetricRecorded(name, value, kind, walltime, step))

    def record_epoch(self, metrics: Mapping[str, object]) -> None:
        """Record metrics of the whole epoch, which are also part of `epoch/finished`, and so of the loss file.

        A value is a number or a list of numbers, of Python, NumPy or torch, or a map of them. Synchronizes with the GPU
        if it is a tensor there.
        """
        values = {key: number for name, value in metrics.items() for key, number in read_metric(name, value).items()}
        self.state.epoch.metrics.update(values)
        self.record(values)

    def record_training_metrics(self) -> None:
        """Record the epoch's mean loss and the optimizers' metrics. Synchronizes with the GPU, once an epoch."""
        epoch = self.state.epoch
        if epoch.batch == 0:
            raise UsageError(
                f"train had no batches in epoch {epoch.number}: check that its loader can be read again, and "
                "does not drop all batches (drop_last=True)"
            )
        metrics = optimizer_metrics(self.optimizers)
        if not metrics.keys() & epoch.metrics.keys():
            self.record_epoch(epoch.loss.read_of_all(self.processes, self.device, list(self.optimizers)))
            parts = epoch.parts.read_of_all(self.processes, self.device)
            self.record_epoch({f"train/{name}": mean for name, mean in parts.items()})
            self.record_epoch(metrics)

    def update_parameters(self, *, thorough: bool = False) -> None:
        """Complete the optimizers' groups after parameters were unfrozen or added: see `ParameterGroups`."""
        self.parameters.update(thorough=thorough)
        if thorough:
            self.forward.include_new_parameters()

    def _check_first(self, first: Forward) -> None:
        if self.sharding is None:  # otherwise the graph has the gathered parameters
            self.parameters.check_graph(first.loss)
        if self._evaluates_as_trained and self.options.try_metrics and self.evaluation_loaders:
            try_metrics(self.metrics, self.main_metric, first)

    def _after_forward(self, optimizer: str, number: int, batch: Any, result: Forward) -> Tensor:
        """Call the plugins that may replace the loss, and return it."""
        step = self.state.step + 1
        payload = AfterTrainingForward(self.state.epoch.number, number, step, batch, result, result.loss, optimizer)
        self.hooks.dispatch(payload)
        return payload.loss

    def publish(self, name: str, value: Mapping[str, Any]) -> None:
        """Publish a lifecycle event at the current step."""
        self.bus.publish(name, dict(value), "lifecycle", self.state.step)

    def set_learning_rates(self, rates: list[float], reason: str, optimizer: str = "") -> None:
        """Set the learning rate of each parameter group, and publish `learning_rate/changed` if one changes.

        Args:
            optimizer: The optimizer's name; it may be omitted if there is only one.
        """
        groups = self.optimizer_named(optimizer).param_groups
        before = [float(group["lr"]) for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.publish_learning_rates(before, reason, optimizer)

    def change_learning_rates(self, rates: Sequence[float | None], reason: str, optimizer: str = "") -> None:
        """Set the learning rates of those parameter groups for which one is given."""
        pairs = zip(learning_rates(self.optimizer_named(optimizer)), rates, strict=True)
        self.set_learning_rates([current if rate is None else rate for current, rate in pairs], reason, optimizer)

    def publish_learning_rates(self, before: list[float], reason: str, optimizer: str = "") -> None:
        """Publish `learning_rate/changed` if a learning rate differs from `before`."""
        after = learning_rates(self.optimizer_named(optimizer))
        if after != before:
            change = {"from": one_or_each(before), "to": one_or_each(after), "reason": reason}
            self.publish("learning_rate/changed", {**change, "optimizer": optimizer} if optimizer else change)

    def save_model(self, file_name: str, kind: str, **about: object) -> Path:
        """Save the model's weights in the run's folder, and publish `checkpoint/saved`; only in the first process.

        If the model is sharded, all processes must call this, as the first one gathers the shards.

        Returns:
            The path, in every process.
        """
        path, is_first = self.folder / file_name, self.processes.is_first
        if is_first or self.sharding is not None:
            save_model(self.model, path, writes=is_first)
            if self.modules.loss is not None:
                save_model(self.modules.loss, loss_path(path), writes=is_first)
            if self.options.save_optimizer_state:
                states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
                state = without_shards(states if len(states) > 1 else self.optimizer.state_dict(), keep=is_first)
                if is_first:
                    save_atomically(savable(state, "the state of the optimizer"), optimizer_path(path))
        if is_first:
            epoch = self.state.epoch.number
            self.publish("checkpoint/saved", {"path": file_name, "kind": kind, "epoch": epoch, **about})
        return path

    @contextmanager
    def saved_weights(self) -> Iterator[None]:
        """Let the model hold the weights that an evaluation would use, such as an average, within this context."""
        with ExitStack() as stack:
            for plugin in self.plugins:
                if isinstance(plugin, Averager):
                    stack.enter_context(plugin.saved_weights())
            yield

    def load_model(self, file_name: str) -> None:
        """Load the weights that `save_model` saved, in every process."""
        path = self.folder / file_name
        load_model(self.model, path)
        if self.modules.loss is not None:
            load_model(self.modules.loss, loss_path(path))

    @contextmanager
    def epoch(self) -> Iterator[EpochState]:
        """Open the next epoch, or continue the resumed one; publish its start and its end, even after an error."""
        if not self.state.epoch.is_open:
            batches, number = self.batches_in_epoch, self.state.epoch.number + 1
            self.state.epoch = EpochState(number, self.planned_epochs, batches, is_open=True)
            about = {"epoch": number, "max_epochs": self.state.epoch.max_epochs, "batches": batches}
            self.publish("epoch/started", about)
        self.control.start_epoch()
        self.modes.train()
        epoch = self.state.epoch
        epoch.metrics = EpochMetrics(epoch.metrics, self.monitored_splits)
        try:
            yield epoch
        except BaseException:
            if not self.processes.several:  # the other processes would not take part in the reduction
                with suppress(Exception):  # the device may be what failed
                    self.record_training_metrics()
            raise
        finally:
            epoch.is_open = False
            self.state.add_to_history(epoch.metrics, ends_epoch=True)
            self.publish(
                "epoch/finished",
                {"epoch": epoch.number, "complete": epoch.complete, **self._comparison(epoch.metrics)},
            )

    def finish_step_evaluation(self, metrics: Mapping[str, MetricValue]) -> None:
        """Add an evaluation within the epoch to the history, and publish it."""
        epoch = self.state.epoch
        epoch.scores = {}
        self.state.add_to_history(metrics, ends_epoch=False)
        self.publish(
            "epoch/evaluated",
            {"epoch": epoch.number, "batch": epoch.batch, "batches": epoch.batches, **self._comparison(metrics)},
        )

    def _comparison(self, metrics: Mapping[str, MetricValue]) -> dict[str, Any]:
        """Return the fields of an event that tell how an evaluation compares with the best one."""
        state, best = self.state, None
        if self.main_metric is not None and state.best_epoch is not None:
            best = {
                "epoch": state.best_epoch, "step": state.best_step, "metric": self.main_metric.name,
                "score": state.best_score,
            }  # fmt: skip
        bad, seconds = state.bad_epochs, state.epoch.seconds
        return {"bad_epochs": bad, "seconds": seconds, "metrics": dict(metrics), "best": best}

    def end(self, status: Status, reason: str) -> None:
        """Set the status of the run and the reason, unless it was already set to one that is not "finished"."""
        if self.status == "finished":
            self.status, self.reason = status, f"trial run: {reason}" if self.options.trial_run else reason

    def result(self, test_metrics: Mapping[str, MetricValue]) -> Result:
        """Return the result of the training, once it has ended."""
        state = self.state
        main = self.main_metric.name.partition("/")[2] if self.main_metric else "loss"
        score = test_metrics.get(f"test/{main}")
        return Result(
            status=self.status,
            reason=self.reason,
            folder=self.folder,
            epochs=state.epoch.number,
            steps=state.step,
            best_epoch=state.best_epoch,
            best_step=state.best_step,
            best_score=state.best_score,
            test_score=score if isinstance(score, float) else None,
            test_metrics=dict(test_metrics),
            history=tuple(
                EpochMetrics(each, self.monitored_splits, epoch=each.epoch, step=each.step, ends_epoch=each.ends_epoch)
                for each in state.history
            ),
        )
