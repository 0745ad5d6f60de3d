"""Sets the learning rate with a scheduler of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, AfterTrainingEpoch
from trainwire.training.optimizers import learning_rates, one_or_each
from trainwire.training.plugin import Scheduler
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class TorchScheduler(Scheduler):
    """Steps a scheduler of `torch.optim.lr_scheduler`:

        TorchScheduler(lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=1000), per="batch")

    `ReduceLROnPlateau` receives the main metric after each epoch, and has the mode of that metric, whichever it was
    created with.

    Args:
        make: Called with the optimizer when a training begins; returns the scheduler.
        per: Whether the scheduler is stepped after each batch or after each epoch.

    Raises:
        OptionError: if `per` is neither "batch" nor "epoch", or, when a training begins, `make` does not return a
            scheduler, or there is no main metric for a `ReduceLROnPlateau`.
    """

    after = ("BestModel",)

    def __init__(self, make: Callable[[Optimizer], LRScheduler], per: Literal["batch", "epoch"] = "epoch") -> None:
        if not callable(make):
            raise OptionError(
                f"TorchScheduler: make is {make!r}; it must be a class, or a function that takes the optimizer"
            )
        if per not in ("batch", "epoch"):
            raise OptionError(f"TorchScheduler: per is {per!r}; it must be 'batch' or 'epoch'")
        self.make, self.per = make, per
        self.scheduler: LRScheduler | None = None

    @property
    def sets_each_step(self) -> bool:  # type: ignore[override]  # an instance's choice
        """Whether the scheduler is stepped after each batch."""
        return self.per == "batch"

    @property
    def compares_epochs(self) -> bool:  # type: ignore[override]  # an instance's choice
        """Whether the scheduler is known to compare scores."""
        return (self.make.func if isinstance(self.make, partial) else self.make) is ReduceLROnPlateau

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Create the scheduler, which may set the initial learning rate."""
        try:
            made = self.make(self.run.optimizer)
        except TypeError as error:
            raise OptionError(f"TorchScheduler: {error}; make must be a function that takes the optimizer") from error
        if not isinstance(made, LRScheduler):
            raise OptionError(
                f"TorchScheduler: make returned {made!r}, which is not a scheduler of torch.optim.lr_scheduler"
            )
        if isinstance(made, ReduceLROnPlateau):
            self._set_mode(made)
        self.scheduler = made

    def describe(self) -> str:
        """Return the scheduler's class, and when it is stepped."""
        return f"{type(self.scheduler).__name__}, stepped after each {self.per}"

    def _set_mode(self, scheduler: ReduceLROnPlateau) -> None:
        """Give the scheduler the direction of the main metric, as torch's default suits losses only."""
        main = self.run.main_metric
        if self.per == "batch" or main is None:
            raise OptionError(
                "TorchScheduler: ReduceLROnPlateau requires per='epoch' and a main metric; pass dev= or "
                "main_evaluation_metric='train/loss'"
            )
        main.check_direction()
        if scheduler.mode != main.mode:
            if not self.compares_epochs or "mode" in getattr(self.make, "keywords", ()):
                logger.warning(
                    "the mode of ReduceLROnPlateau is set to %r instead of %r, as the main metric is %s; pass "
                    "mode=%r to it, or set main_evaluation_mode=%r if the metric's own direction is wrong",
                    main.mode, scheduler.mode, main, main.mode, scheduler.mode,
                )  # fmt: skip
            worst = -math.inf if main.higher_is_better else math.inf
            scheduler.mode, scheduler.mode_worse, scheduler.best = main.mode, worst, worst

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Step a scheduler that counts batches."""
        if self.per == "batch" and self.scheduler:
            self.scheduler.step()
            self.run.record({"learning_rate": one_or_each(learning_rates(self.run.optimizer))})

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Step a scheduler that counts epochs."""
        if self.per == "batch" or self.scheduler is None or not epoch.complete:
            return
        before = learning_rates(self.run.optimizer)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self._step_by_score(self.scheduler, epoch)
        else:
            self.scheduler.step()
        self.run.publish_learning_rates(before, f"{type(self.scheduler).__name__}, epoch {epoch.epoch}")

    def _step_by_score(self, scheduler: ReduceLROnPlateau, epoch: AfterTrainingEpoch) -> None:
        main = self.run.main_metric
        score = main.score(epoch.metrics) if main else None
        if score is not None:
            scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state."""
        return {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
