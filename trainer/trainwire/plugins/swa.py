"""Averages the weights of the last epochs: stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from trainwire.training.data.loaders import length_of
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterTrainingEpoch,
    AfterTrainingLoop,
    BeforeTrainingEpoch,
    TrainingFinally,
)
from trainwire.training.interruption import until_interrupted
from trainwire.training.model.models import load_model_state, model_state, plain_model
from trainwire.training.model.optimizers import learning_rates
from trainwire.training.model.parameters import TrainedModules
from trainwire.training.plugin import Plugin
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import InterruptedReadingError, OptionError

REASON: Final = "stochastic weight averaging"
"""The reason published with each change of the learning rate."""


class SWA(Plugin):
    """Sets the model's weights to the average over the last epochs, with `torch.optim.swa_utils`.

    The average is over the weights at the end of each complete epoch from `start` on (Izmailov et al. 2018, "Averaging
    Weights Leads to Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407). After the last epoch
    the average is put into the model, and the statistics of its batch norms are recomputed in one more pass over the
    training data. `final-model.pt` therefore contains the average; pass `use_final_model_for_eval=True` to test it
    instead of the best model.

    Synchronizes with the GPU once an epoch.

    Args:
        start: The first epoch to average; None: after three quarters of the epochs, as in the paper.
        learning_rate: The constant learning rate from `start` on, to which the current one is annealed; None: do not
            change it. Nothing else may set the learning rate then: pass `attach_default_scheduler=False`.
        anneal_epochs: The number of epochs of the annealing.
        anneal_strategy: The curve of the annealing.

    Raises:
        OptionError: if an argument is out of range, or `start` is after the last epoch.
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
                f"SWA: start is {start}, anneal_epochs {anneal_epochs}, anneal_strategy {anneal_strategy!r}; they must "
                'be at least 1, at least 0, and "cos" or "linear"'
            )
        if learning_rate is not None and not 0 < learning_rate < math.inf:
            raise OptionError(f"SWA: learning_rate is {learning_rate}; it must be a finite number above 0, or None")
        self.start = start
        self.learning_rate = learning_rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy: Literal["cos", "linear"] = anneal_strategy
        self._first = 1
        self._average: AveragedModel | None = None
        self._scheduler: SWALR | None = None
        self._is_interrupted = False

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Determine the first epoch, and start an empty average."""
        if self.run.sharding is not None:
            raise OptionError("SWA copies the model, which fsdp does not allow: average the weights with EMA instead")
        last, start = self.run.planned_epochs, self.start
        if start is None:
            if last is None:
                raise OptionError("SWA: the number of epochs is unknown: pass start= or max_epochs=")
            start = min(1 + last * 3 // 4, last)
        if last is not None and self.run.options.trial_run:
            start = min(start, last)
        if last is not None and start > last:
            raise OptionError(f"SWA: start is {start}, but the training has {last} epochs")
        self._first = start
        if self.learning_rate is not None and len(self.run.optimizers) > 1:
            raise OptionError("SWA: learning_rate applies to one optimizer, but there are several: omit it")
        self._average, self._scheduler = AveragedModel(self._modules()), None
        self._is_interrupted = False

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Start to anneal the learning rate."""
        if self.learning_rate is not None and epoch.epoch >= self._first and self._scheduler is None:
            before = learning_rates(self.run.optimizer)
            self._scheduler = self._make_scheduler(self.learning_rate)
            self.run.publish_learning_rates(before, REASON)

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Add the weights of a complete epoch to the average, and continue the annealing."""
        if not epoch.complete:
            return
        if self._average is not None and epoch.epoch >= self._first:
            self._average.update_parameters(self._modules())  # synchronizes with the GPU
        if self._scheduler is not None:
            before = learning_rates(self.run.optimizer)
            for group in self.run.optimizer.param_groups:  # a hook may have added one
                group.setdefault("swa_lr", self.learning_rate)
            self._scheduler.step()
            self.run.publish_learning_rates(before, REASON)

    @hook
    def after_training_loop(self, ending: AfterTrainingLoop) -> None:
        """Put the average into the model, and recompute the statistics of its batch norms in training mode.

        If a signal arrives meanwhile, the trained weights are put back.
        """
        if self._average is None or self._average.n_averaged == 0:
            return
        modules = self._modules()
        trained = {name: value.clone() for name, value in modules.state_dict().items()}
        modules.load_state_dict(self._average.module.state_dict())
        self.run.modes.train()
        update_bn(self._batches(), _Forward(self.run))
        if self._is_interrupted:
            modules.load_state_dict(trained)
        else:
            self._average_statistics()

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Release the average."""
        self._average = self._scheduler = None

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and the state of the annealing."""
        return {
            "average": self._average and model_state(self._average),
            "scheduler": self._scheduler and self._scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self._average is not None and state["average"] is not None:
            load_model_state(self._average, state["average"])
        if self.learning_rate is not None and state["scheduler"] is not None:
            self._scheduler = self._make_scheduler(self.learning_rate)
            self._scheduler.load_state_dict(state["scheduler"])

    def _modules(self) -> TrainedModules:
        return TrainedModules(plain_model(self.run.model), self.run.modules.loss)

    def _make_scheduler(self, learning_rate: float) -> SWALR:
        return SWALR(self.run.optimizer, learning_rate, self.anneal_epochs, self.anneal_strategy)

    def _average_statistics(self) -> None:
        """Average the statistics over the processes, each of which has seen its own part of the data."""
        for buffer in self.run.model.buffers():
            if self.run.processes.several and buffer.is_floating_point():
                self.run.processes.average(buffer)

    def _batches(self) -> Iterator[list[Any]]:
        """Yield the training batches as `update_bn` expects them: each as the first item of a list.

        Of a stream of unknown length, which may be endless, they are as many as in the last epoch; in a trial run, they
        are the batches of the trial run.
        """
        loader, limit = self.run.train_loader, self.run.options.trial_run or None
        if limit is None and length_of(loader) is None:
            limit = self.run.state.epoch.batch
        batches = islice(loader, limit)
        try:
            for batch in until_interrupted(self.run, batches):
                yield [self.run.batches.batch_to_device(batch, self.run.device)]
        except InterruptedReadingError:
            self._is_interrupted = True


class _Forward(nn.Module):
    """A module that calls the model in the same way as the training does, for `update_bn`.

    It contains only the batch norms in training mode. The statistics of the others, and all modes, stay as they are.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            module for module in run.model.modules() if isinstance(module, _BatchNorm) and module.training
        )
        self._run = run

    def forward(self, batch: Any) -> object:
        """Call the trainer's `forward`, without synchronizing with the other processes."""
        return self._run.forward.alone(batch)
