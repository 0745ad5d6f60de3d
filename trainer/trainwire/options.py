"""The options of `ModelTrainer.train`, each a field of one dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from trainwire_protocol.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Raises:
        OptionError: an option has a value that it cannot have.
    """

    learning_rate: float = 0.1
    """The optimizer's learning rate at the start."""
    mini_batch_size: int = 32
    """Samples in a batch; a DataLoader keeps its own."""
    eval_batch_size: int | None = None
    """Samples in a batch of evaluation; None: as `mini_batch_size`."""
    max_epochs: int = 100
    max_steps: int | None = None
    """End after so many optimizer updates, if that comes before `max_epochs`; the last epoch is then evaluated too."""
    optimizer: type[Optimizer] | Optimizer = SGD
    """A class that is called with the model's trainable parameters, or an optimizer, which keeps its learning rates."""
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    """More arguments for the class: `{"momentum": 0.9}`."""
    max_grad_norm: float | None = 5.0
    """Gradients with a larger total 2-norm are scaled down to it; None: never."""
    main_evaluation_metric: str | None = None
    """What the best model is chosen by, such as `dev/accuracy`; None: the first of `metrics` on the dev split."""
    monitor_test: bool = False
    """Evaluate the test split after each epoch too; it is never used to choose a model."""
    shuffle: bool = True
    """Give the training samples in another order each epoch; a DataLoader keeps its own way."""
    seed: int | None = None
    """What the order of samples comes from, and torch's generator is seeded with; None: drawn from that generator."""
    num_workers: int = 0
    """Processes that read samples; a DataLoader keeps its own."""
    device: str | torch.device | None = None
    """Where to train; None: where the model is."""
    dev_name: str = "dev"
    """What the dev split is called in the names of metrics: `dev` or `val`."""
    save_final_model: bool = True
    """Save `final-model.pt` at the end, unless that is an error."""
    use_final_model_for_eval: bool = False
    """Evaluate the test split with the last model instead of the best."""
    default_plugins: bool = True
    """Attach the best-model and the regular-logging plugin."""
    sinks: tuple[str, ...] = ("loss-file", "log-file")
    """The sinks to start as processes of their own."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            _check_integer(name, getattr(self, name), least, optional=name in _OPTIONAL)
        _check_positive("learning_rate", self.learning_rate)
        if self.max_grad_norm is not None:
            _check_positive("max_grad_norm", self.max_grad_norm)
        for name in _FLAGS:
            _check(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        self._check_optimizer()
        self._check_names()

    def _check_optimizer(self) -> None:
        given, arguments = self.optimizer, self.optimizer_arguments
        is_class = isinstance(given, type) and issubclass(given, Optimizer)
        _check("optimizer", given, is_class or isinstance(given, Optimizer), "a class of torch.optim, or an optimizer")
        _check("optimizer_arguments", arguments, isinstance(arguments, Mapping), "a mapping of argument to value")
        if arguments and not is_class:
            raise OptionError(
                "optimizer_arguments are for an optimizer's class: leave them out, as the optimizer is built"
            )
        if "lr" in arguments:
            raise OptionError("optimizer_arguments has 'lr': give it as learning_rate")

    def _check_names(self) -> None:
        name, metric, sinks = self.dev_name, self.main_evaluation_metric, self.sinks
        is_name = isinstance(name, str) and name != "" and name not in ("train", "test") and "/" not in name
        _check("dev_name", name, is_name, "a name such as 'dev' or 'val'")
        _check("main_evaluation_metric", metric, metric is None or isinstance(metric, str), "a name such as 'dev/loss'")
        is_list = isinstance(sinks, (list, tuple)) and all(isinstance(sink, str) and sink for sink in sinks)
        _check("sinks", sinks, is_list, "a list of names such as ['loss-file']")

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> TrainingOptions:
        """The options given by name.

        Raises:
            OptionError: there is no such option, or its value cannot be.
        """
        names = [option.name for option in dataclasses.fields(cls)]
        for name in keywords:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                guess = f" (did you mean {close[0]!r}?)" if close else ""
                raise OptionError(f"train() has no option {name!r}{guess}; its options are {', '.join(names)}")
        return cls(**keywords)

    def as_hyperparameters(self) -> dict[str, Any]:
        """The options as plain values for the run's `hparams` event."""
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        return {name: plain(value) for name, value in values.items()}


_LEAST = {
    "mini_batch_size": 1, "eval_batch_size": 1, "max_epochs": 1, "max_steps": 1, "num_workers": 0, "seed": 0,
}  # fmt: skip
_OPTIONAL = frozenset({"eval_batch_size", "max_steps", "seed"})
_FLAGS = (
    "monitor_test", "shuffle", "save_final_model", "use_final_model_for_eval", "default_plugins",
)  # fmt: skip


def plain(value: object) -> Any:
    """A value as something that an event can hold: numbers, strings, lists and maps stay, classes become names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Optimizer):
        return type(value).__name__
    return str(value)


def _check(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise OptionError(f"{name} is {value!r}: it has to be {wanted}")


def _check_integer(name: str, value: object, least: int, *, optional: bool) -> None:
    if value is None and optional:
        return
    is_right = type(value) is int and least <= value < 2**63
    _check(name, value, is_right, f"a whole number of at least {least}" + (", or None" if optional else ""))


def _check_positive(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _check(name, value, is_number and 0 < value < math.inf, "a number above 0")  # type: ignore[operator]  # a number here
