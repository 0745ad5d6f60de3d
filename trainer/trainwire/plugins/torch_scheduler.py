"""Sets the learning rate with a scheduler of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any, Final, Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, AfterTrainingEpoch, Scored
from trainwire.training.model.optimizers import learning_rates, metric_name, one_or_each
from trainwire.training.plugin import Scheduler
from trainwire.training.savable import savable
from trainwire_protocol.errors import OptionError, UsageError

PROGRESS: Final = {
    "base_lrs", "last_epoch", "_last_lr", "_step_count", "_schedulers", "best", "num_bad_epochs", "cooldown_counter",
    "T_cur",
}  # fmt: skip
"""What changes in a scheduler while it is stepped; everything else is how it was made."""

logger = logging.getLogger("trainwire")

_LENGTHS: Final = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
"""The schedulers that have a length, each with the parameter that sets it."""


class TorchScheduler(Scheduler):
    """Steps a scheduler of `torch.optim.lr_scheduler`:

        TorchScheduler(lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=1000), per="batch")

    `ReduceLROnPlateau` receives the main metric after each epoch and each evaluation within one, and has the mode of
    that metric, whichever it was created with.

    Args:
        make: Called with the optimizer when a training begins; returns the scheduler. Or the name of a class of
            `torch.optim.lr_scheduler`.
        per: Whether the scheduler is stepped after each batch or after each epoch.
        optimizer: The name of the optimizer, if there are several; then a scheduler may be attached for each of them.
        arguments: Further arguments of `make`, by keyword: `TorchScheduler("StepLR", arguments={"step_size": 3})`.

    Raises:
        OptionError: if `per` is neither "batch" nor "epoch", there is no scheduler of the name, or it does not accept
            the arguments; or, when a training begins, `make` does not return a scheduler, there is no such optimizer,
            or there is no main metric for a `ReduceLROnPlateau`.
    """

    after = ("BestModel",)

    def __init__(
        self,
        make: str | Callable[..., LRScheduler],
        per: Literal["batch", "epoch"] = "epoch",
        optimizer: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(make, str):
            make = _scheduler_class(make, arguments or {})
        if not callable(make):
            raise OptionError(
                f"TorchScheduler: make is {make!r}; it must be a class, or a function that takes the optimizer"
            )
        if per not in ("batch", "epoch"):
            raise OptionError(f"TorchScheduler: per is {per!r}; it must be 'batch' or 'epoch'")
        self.make: Callable[..., LRScheduler] = partial(make, **arguments) if arguments else make
        self.per, self.optimizer = per, optimizer
        self.scheduler: LRScheduler | None = None
        self._made: dict[str, Any] = {}
        """The state of the scheduler and of the optimizer's groups after it was created."""
        self._base_rates: list[float] = []
        """The initial rates of the training to resume."""

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
            optimizer = self._optimizer
        except UsageError as error:
            raise OptionError(f"TorchScheduler: optimizer is {self.optimizer!r}, but {error}") from None
        try:
            made = self.make(optimizer)
        except TypeError as error:
            raise OptionError(f"TorchScheduler: {error}; make must be a function that takes the optimizer") from error
        if not isinstance(made, LRScheduler):
            raise OptionError(
                f"TorchScheduler: make returned {made!r}, which is not a scheduler of torch.optim.lr_scheduler"
            )
        if isinstance(made, ReduceLROnPlateau):
            self._set_mode(made)
        self.scheduler = made
        self._check_length(made)
        groups = optimizer.param_groups
        self._made = {
            "scheduler": savable(made.state_dict(), "the state of the scheduler", copy=True),
            "groups": [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in groups],
            "rates": learning_rates(optimizer),
        }

    @property
    def _optimizer(self) -> Optimizer:
        return self.run.optimizer_named(self._name)

    @property
    def _name(self) -> str:
        """The optimizer's name; empty if there is only one without a name."""
        return self.optimizer or ""

    def _check_length(self, scheduler: LRScheduler) -> None:
        """Compare the length of a schedule with that of the training, as far as both are known."""
        steps = self.run.planned_steps if self.per == "batch" else self.run.planned_epochs
        name, what = type(scheduler).__name__, "batches" if self.per == "batch" else "epochs"
        parameter = _LENGTHS.get(name)
        if steps is None or parameter is None:
            return
        length = getattr(scheduler, parameter)
        facts = f"{name} has {parameter}={length}, and the training has {steps} {what}"
        if parameter == "total_steps" and length < steps:
            raise OptionError(f"TorchScheduler: {facts}: torch does not step it further; pass {parameter}={steps}")
        if length < steps:
            after = "it rises again after its minimum" if parameter == "T_max" else "the learning rate is 0 after it"
            logger.warning("%s: %s", facts, after)
        elif parameter == "total_steps" and self.per == "epoch" and length > steps:
            logger.warning("%s: it does not come to its end; pass per='batch' if it counts batches", facts)

    def describe(self) -> str:
        """Return the scheduler's class, and when it is stepped."""
        owner = f"{self.optimizer}: " if self.optimizer else ""
        return f"{owner}{type(self.scheduler).__name__}, stepped after each {self.per}"

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
            rates = one_or_each(learning_rates(self._optimizer))
            self.run.record({metric_name("learning_rate", self._name): rates})

    @hook("after_step_evaluation", "after_training_epoch")
    def after_evaluation_or_epoch(self, evaluated: Scored) -> None:
        """Step a scheduler that compares scores, or one that counts epochs."""
        if self.per == "batch" or self.scheduler is None or not evaluated.complete:
            return
        before = learning_rates(self._optimizer)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self._step_by_score(self.scheduler, evaluated)
        elif isinstance(evaluated, AfterTrainingEpoch):
            self.scheduler.step()
        self.run.publish_learning_rates(before, f"{type(self.scheduler).__name__}, epoch {evaluated.epoch}", self._name)

    def _step_by_score(self, scheduler: ReduceLROnPlateau, evaluated: Scored) -> None:
        main = self.run.main_metric
        score = main.score(evaluated.metrics) if main and not evaluated.repeated else None
        if score is not None:
            scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state, and how it was made."""
        if self.scheduler is None:
            return {}
        about = {"class": type(self.scheduler).__name__, "metric": str(self.run.main_metric), "made": self._made}
        return {"scheduler": self.scheduler.state_dict(), **about}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, except for what this scheduler was made with and that one was not."""
        scheduler, made = self.scheduler, self._made
        if scheduler is None:
            return
        if state["class"] != (name := type(scheduler).__name__):
            logger.warning("the schedule is now %s, and was %s: it starts from the beginning", name, state["class"])
            for group, settings in zip(self._optimizer.param_groups, made["groups"], strict=False):
                group.update(settings)
            self.run.set_learning_rates(made["rates"], f"{name} starts", self._name)
            return
        before = state["made"]
        changed = {key: value for key, value in made["scheduler"].items() if before["scheduler"].get(key) != value}
        scheduler.load_state_dict(state["scheduler"] | {key: changed[key] for key in changed.keys() - PROGRESS})
        for group, now, then in zip(self._optimizer.param_groups, made["groups"], before["groups"], strict=False):
            group.update({key: value for key, value in now.items() if then.get(key) != value})
        self._base_rates = _base_rates(before["scheduler"])
        if isinstance(scheduler, ReduceLROnPlateau) and state["metric"] != str(self.run.main_metric):
            self._compare_again(scheduler)

    def _compare_again(self, scheduler: ReduceLROnPlateau) -> None:
        """Compare with the best of the epochs so far by another main metric."""
        main = self.run.main_metric
        if main is None:
            return
        self._set_mode(scheduler)
        scheduler.num_bad_epochs, scheduler.best = 0, scheduler.mode_worse
        scores = [score for epoch in self.run.state.history if (score := main.score(epoch)) is not None]
        scheduler.best = (max if main.higher_is_better else min)(
            [score for score in scores if score == score] or [scheduler.best]
        )

    def change_initial_rates(self, rates: Sequence[float | None], optimizer: str = "") -> None:
        """Continue the schedule from other initial rates: the current ones change in proportion.

        `ReduceLROnPlateau` continues from the given rates. A schedule with rates of its own, such as `OneCycleLR`, does
        not depend on them.
        """
        now, before = _base_rates(self._made["scheduler"]), self._base_rates
        if not now or self.scheduler is None:
            super().change_initial_rates(rates, optimizer)
            return
        if not before:
            return  # it starts from its beginning, with the new rates
        if now == before:
            logger.warning(
                "learning_rate has no effect: %s has learning rates of its own", type(self.scheduler).__name__
            )
            return
        for part in _parts(self.scheduler):
            part.base_lrs = list(now)
        current = learning_rates(self._optimizer)
        factors = [new / old if old else 1.0 for new, old in zip(now, before, strict=True)]
        scaled = [rate * factor for rate, factor in zip(current, factors, strict=True)]
        for group, rate in zip(self._optimizer.param_groups, now, strict=True):
            group["initial_lr"] = rate
        self.run.set_learning_rates(scaled, "learning_rate was changed", self._name)


def _scheduler_class(name: str, arguments: Mapping[str, Any]) -> type[LRScheduler]:
    """Return the class of `torch.optim.lr_scheduler` that has a name, if it accepts the arguments."""
    known = {
        each: kind
        for each, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, LRScheduler) and kind is not LRScheduler and each[0] != "_"
    }
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise OptionError(f"TorchScheduler: there is no scheduler {name!r}: {hint}torch has {', '.join(sorted(known))}")
    parameters = signature(known[name])
    try:
        parameters.bind(None, **arguments)
    except TypeError as error:
        names = ", ".join(list(parameters.parameters)[1:])
        raise OptionError(f"TorchScheduler: {name}: {error}: its arguments are {names}") from None
    return known[name]


def _parts(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers with base rates: the scheduler itself, or those that it combines."""
    combined = getattr(scheduler, "_schedulers", ())
    return [part for each in combined for part in _parts(each)] or (
        [scheduler] if hasattr(scheduler, "base_lrs") else []
    )


def _base_rates(state: Mapping[str, Any]) -> list[float]:
    """Return the rates from which a scheduler of this state started; an empty list if it has none."""
    if "base_lrs" in state:
        return list(state["base_lrs"])
    return next((rates for part in state.get("_schedulers", ()) if (rates := _base_rates(part))), [])
