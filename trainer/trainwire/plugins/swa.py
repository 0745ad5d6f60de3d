"""Stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from trainwire.training.data import to_device
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterTrainingEpoch,
    AfterTrainingLoop,
    BeforeTrainingEpoch,
    TrainingFinally,
)
from trainwire.training.optimizers import optimizer_metrics
from trainwire.training.plugin import Plugin
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import OptionError


class SWA(Plugin):
    """Ends with the mean of the weights of the last epochs: stochastic weight averaging, by `torch.optim.swa_utils`.

    From the epoch `start` on each complete epoch's weights count as one (Izmailov et al. 2018, "Averaging Weights Leads
    to Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407). Once the last epoch is over the model
    gets their mean, and the statistics of its batch norms are measured anew in one more pass over the training samples.
    So `final-model.pt` is the mean; the test takes it instead of the best model with `use_final_model_for_eval=True`.

    A GPU is waited for once an epoch.

    Args:
        start: The first epoch that counts; None: after three quarters of `max_epochs`, as in the paper.
        learning_rate: What the learning rate is brought to from `start` on, and stays at: a high constant one lets the
            weights wander. Nothing else may then change it: give `attach_default_scheduler=False`. None: it stays as
            it is.
        anneal_epochs: How many epochs that takes.
        anneal_strategy: On which curve: "cos" or "linear".

    Raises:
        OptionError: an argument is out of its range, or `start` is after the last epoch.
    """

    def __init__(
        self,
        start: int | None = None,
        learning_rate: float | None = None,
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
    ) -> None:
        if (start is not None and start < 1) or anneal_epochs < 0 or anneal_strategy not in ("cos", "linear"):
            raise OptionError(
                f"SWA: start is {start}, anneal_epochs {anneal_epochs}, anneal_strategy {anneal_strategy!r}: they have "
                'to be at least 1, at least 0, and "cos" or "linear"'
            )
        if learning_rate is not None and not 0 < learning_rate < math.inf:
            raise OptionError(f"SWA: learning_rate is {learning_rate}: it has to be a number above 0, or None")
        self.start = start
        self.learning_rate = learning_rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy: Literal["cos", "linear"] = anneal_strategy
        self._first = 1
        self._average: AveragedModel | None = None
        self._scheduler: SWALR | None = None

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        last = self.run.options.max_epochs
        self._first = min(1 + last * 3 // 4, last) if self.start is None else self.start
        if self._first > last:
            raise OptionError(f"SWA: start is {self._first}, but there are only {last} epochs")
        self._average, self._scheduler = AveragedModel(self.run.model), None

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Begin to bring the learning rate to its new value."""
        if self.learning_rate is not None and epoch.epoch >= self._first and self._scheduler is None:
            before = self._learning_rate()
            self._scheduler = self._make_scheduler(self.learning_rate)
            self._tell_learning_rate(before)

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Let the epoch's weights count, if it is one of the last and complete."""
        if self._average is not None and epoch.epoch >= self._first and epoch.complete:
            self._average.update_parameters(self.run.model)  # a GPU is waited for here
        if self._scheduler is not None:
            before = self._learning_rate()
            self._scheduler.step()
            self._tell_learning_rate(before)

    @hook
    def after_training_loop(self, ending: AfterTrainingLoop) -> None:  # noqa: ARG002  # every hook has its payload
        """Give the model the mean, and measure the statistics of its batch norms."""
        if self._average is not None and self._average.n_averaged > 0:
            self.run.model.load_state_dict(self._average.module.state_dict())
            update_bn(self._batches(), _Forward(self.run))
            self._average_statistics()

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Forget the mean."""
        self._average = self._scheduler = None

    def state_dict(self) -> dict[str, Any]:
        """The mean so far, and how far the learning rate is."""
        return {
            "average": self._average and self._average.state_dict(),
            "scheduler": self._scheduler and self._scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up both."""
        if self._average is not None and state["average"] is not None:
            self._average.load_state_dict(state["average"])
        if self.learning_rate is not None and state["scheduler"] is not None:
            self._scheduler = self._make_scheduler(self.learning_rate)
            self._scheduler.load_state_dict(state["scheduler"])

    def _make_scheduler(self, learning_rate: float) -> SWALR:
        return SWALR(self.run.optimizer, learning_rate, self.anneal_epochs, self.anneal_strategy)

    def _learning_rate(self) -> float | list[float]:
        return optimizer_metrics(self.run.optimizer)["learning_rate"]

    def _tell_learning_rate(self, before: float | list[float]) -> None:
        if (now := self._learning_rate()) != before:
            change = {"from": before, "to": now, "reason": "stochastic weight averaging"}
            self.run.publish("learning_rate/changed", change)

    def _average_statistics(self) -> None:
        """Where several processes train together, each has measured its own share of the samples."""
        for buffer in self.run.model.buffers():
            if self.run.processes.several and buffer.is_floating_point():
                self.run.processes.average(buffer)

    def _batches(self) -> Iterator[list[Any]]:
        """The training samples, as `update_bn` takes them: each batch first in a list."""
        for batch in self.run.train_loader:
            yield [to_device(batch, self.run.device)]


class _Forward(nn.Module):
    """The model, which is called as the training calls it."""

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.model = run.model
        self._run = run

    def forward(self, batch: Any) -> object:
        """Call the trainer's `forward`, without the other processes."""
        return self._run.forward.alone(batch)
