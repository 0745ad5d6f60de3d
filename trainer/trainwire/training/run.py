"""One training, from the call of `train` to its end: what it consists of, where it stands, and how it is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from trainwire.training.control import Agreement, Control
from trainwire.training.data import length_of
from trainwire.training.distributed import Processes
from trainwire.training.hooks.hooks import Hooks
from trainwire.training.hooks.payloads import BeforeTrainingEpoch, MetricRecorded, MetricValue, Status
from trainwire.training.metrics import MainMetric
from trainwire.training.models import save_atomically, save_model
from trainwire.training.optimizers import optimizer_metrics
from trainwire.training.options import TrainingOptions
from trainwire.training.precision import Precision
from trainwire.training.state import EpochState, TrainingState
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric

    from trainwire.bus.bus import EventBus
    from trainwire.plugins.checkpoints import Checkpoints
    from trainwire.training.distributed import TrainingForward
    from trainwire.training.hooks.plugin import Plugin


@dataclass(slots=True, eq=False)
class TrainingRun:
    """One training, as plugins see it."""

    folder: Path
    model: nn.Module
    options: TrainingOptions
    seed: int
    """What the order of the samples comes from."""
    device: torch.device
    processes: Processes
    """Which of how many processes this is."""
    optimizer: Optimizer
    precision: Precision
    metrics: Mapping[str, Metric]
    main_metric: MainMetric | None
    train_loader: DataLoader[Any]
    evaluation_loaders: Mapping[str, DataLoader[Any]]
    """By the split's name."""
    split_sizes: Mapping[str, int | None]
    """Samples in each split; None where a split does not say."""
    plugins: Sequence[Plugin] = ()
    """Those that take part, in the order in which they are called."""
    hooks: Hooks = field(default_factory=Hooks)
    control: Control = field(default_factory=Control)
    state: TrainingState = field(default_factory=TrainingState)
    agreement: Agreement = field(default_factory=Agreement)
    """How several processes come to do the same."""
    forward: TrainingForward = field(init=False)
    """How the step calls the model."""
    attempt: int = 0
    """Which process of this run it is, from 0: the same for all that train together."""
    checkpointer: Checkpoints | None = None
    """What saves checkpoints, if something does."""
    resumed_random: Mapping[str, Any] | None = None
    """In a resumed training, until its first batch: the random states to go on with."""
    status: Status = "finished"
    reason: str = ""
    bus: EventBus = field(init=False)
    """Open from before `after_setup` until after the last hook."""

    @property
    def watched_splits(self) -> list[str]:
        """The splits that are evaluated after each epoch."""
        return [split for split in self.evaluation_loaders if split != "test" or self.options.monitor_test]

    @property
    def goes_on(self) -> bool:
        """Whether another epoch is to be trained, or a resumed one to be ended."""
        epoch = self.state.epoch
        is_more = epoch.number < self.options.max_epochs and not self.is_at_max_steps
        return (epoch.is_open or is_more) and not self.control.stopping

    @property
    def planned_steps(self) -> int | None:
        """How many updates there will be if nothing stops the training; None if that is not known."""
        batches = length_of(self.train_loader)
        in_epochs = None if batches is None else batches * self.options.max_epochs
        known = [steps for steps in (in_epochs, self.options.max_steps) if steps is not None]
        return min(known, default=None)

    @property
    def is_at_max_steps(self) -> bool:
        """Whether as many updates were made as there may be."""
        return self.options.max_steps is not None and self.state.step >= self.options.max_steps

    @property
    def epoch_is_over(self) -> bool:
        """Whether this epoch is to end, though there may be more batches."""
        return self.control.epoch_is_over or self.is_at_max_steps or self.state.epoch.is_cut

    @property
    def epoch_begins(self) -> BeforeTrainingEpoch:
        """What hooks are told when the epoch begins."""
        epoch = self.state.epoch
        return BeforeTrainingEpoch(epoch.number, epoch.max_epochs, epoch.batches)

    @property
    def ending(self) -> tuple[Status, str]:
        """Once no epoch follows: the status, and why."""
        if self.control.stop_reason is not None:
            return "interrupted" if self.control.interrupted else "finished", self.control.stop_reason
        if self.is_at_max_steps:
            return "finished", f"max_steps reached: {self.state.step}"
        return "finished", f"max_epochs reached: {self.state.epoch.number}"

    def record(self, metrics: Mapping[str, float | Tensor | list[float]]) -> None:
        """Record metrics at the current step: on the wire, then for the plugins that listen to `metric_recorded`.

        A tensor with one element is welcome, wherever it is: it is not waited for. A list is for several numbers
        of one kind, such as one for each class.
        """
        step = self.state.step
        scalars = {name: value for name, value in metrics.items() if not isinstance(value, list)}
        if scalars:
            self.bus.log(scalars, step)
        for name, value in metrics.items():
            if isinstance(value, list):
                self.bus.scalars(name, value, step)
        if self.hooks.listeners[MetricRecorded]:
            self._tell_recorded(metrics, step)

    def record_epoch(self, metrics: Mapping[str, MetricValue]) -> None:
        """Record metrics of the epoch as a whole: they also go into `epoch/finished`, and so into the loss file."""
        self.state.epoch.metrics.update(metrics)
        self.record(metrics)

    def record_training_metrics(self) -> None:
        """Record the epoch's mean loss and what the optimizer did with it. A GPU is waited for, once an epoch."""
        epoch = self.state.epoch
        if epoch.batch == 0:
            raise UsageError(f"train gave no batch in epoch {epoch.number}: does its loader start again when iterated?")
        if "learning_rate" not in epoch.metrics:
            loss = epoch.loss.read_of_all(self.processes, self.device)
            self.record_epoch({} if loss is None else {"train/loss": loss})
            self.record_epoch(optimizer_metrics(self.optimizer))

    def _tell_recorded(self, metrics: Mapping[str, float | Tensor | list[float]], step: int) -> None:
        walltime = time.time()
        for name, value in metrics.items():
            kind: Literal["scalar", "scalars"] = "scalars" if isinstance(value, list) else "scalar"
            self.hooks.dispatch(MetricRecorded(name, value, kind, walltime, step))

    def publish(self, name: str, value: Mapping[str, Any]) -> None:
        """Say on the wire that something happened: `name` is one of the lifecycle events."""
        self.bus.publish(name, dict(value), "lifecycle", self.state.step)

    def save_model(self, file_name: str, kind: str, **about: object) -> Path:
        """Save the model's weights in the run's folder, and say so on the wire; of several processes the first does."""
        path = self.folder / file_name
        if self.processes.is_first:
            save_model(self.model, path)
            if self.options.save_optimizer_state:
                save_atomically(self.optimizer.state_dict(), path.with_suffix(".optimizer.pt"))
            epoch = self.state.epoch.number
            self.publish("checkpoint/saved", {"path": file_name, "kind": kind, "epoch": epoch, **about})
        return path

    def end(self, status: Status, reason: str) -> None:
        """Set how the training ended: an ending that is not "finished" stays."""
        if self.status == "finished":
            self.status, self.reason = status, reason

    @contextmanager
    def epoch(self) -> Iterator[EpochState]:
        """The next epoch, or the resumed one: published when it begins and ends, also by an error."""
        if self.state.epoch.is_open:
            self.control.start_epoch()
        else:
            self._open_epoch()
        epoch = self.state.epoch
        try:
            yield epoch
        except BaseException:
            if not self.processes.several:  # the others do not know of it, and would be waited for
                with suppress(Exception):  # the device may be what failed
                    self.record_training_metrics()
            raise
        finally:
            self._close_epoch(epoch)

    def _open_epoch(self) -> None:
        batches, number = length_of(self.train_loader), self.state.epoch.number + 1
        self.state.epoch = EpochState(number, self.options.max_epochs, batches, is_open=True)
        self.control.start_epoch()
        about = {"epoch": number, "max_epochs": self.options.max_epochs, "batches": batches}
        self.publish("epoch/started", about)

    def _close_epoch(self, epoch: EpochState) -> None:
        epoch.is_open = False
        self.state.history.append(dict(epoch.metrics))
        self.publish(
            "epoch/finished",
            {
                "epoch": epoch.number, "complete": epoch.complete, "bad_epochs": self.state.bad_epochs,
                "seconds": epoch.seconds, "metrics": dict(epoch.metrics), "best": self._best(),
            },
        )  # fmt: skip

    def _best(self) -> dict[str, Any] | None:
        """The best epoch so far, so that whoever looks at the end of a long run sees it."""
        if self.main_metric is None or self.state.best_epoch is None:
            return None
        return {"epoch": self.state.best_epoch, "metric": self.main_metric.name, "score": self.state.best_score}
