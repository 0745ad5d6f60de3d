"""The options of `ModelTrainer.train` and `fine_tune`, each a field of one dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import LBFGS, SGD, Optimizer
from torch.utils.data import Sampler

from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.endpoints import Tcp


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train. The defaults are those of `train`; `recipes.py` has those in which `fine_tune` differs.

    Raises:
        OptionError: an option has a value that it cannot have.
    """

    learning_rate: float = 0.1
    """The optimizer's learning rate at the start."""
    decoder_learning_rate: float | None = None
    """The learning rate of the parameters of which `ModelTrainer.is_decoder` says so; None: as the others."""
    mini_batch_size: int = 32
    """Samples in a batch; a DataLoader keeps its own. With several processes, of each."""
    eval_batch_size: int | None = None
    """Samples in a batch of evaluation; None: as `mini_batch_size`."""
    mini_batch_chunk_size: int | None = None
    """Samples that go through the model at once: a batch that has more is split, and its gradients added up."""
    max_epochs: int = 100
    """How often all training samples are gone through."""
    max_steps: int | None = None
    """End after so many optimizer updates, if that comes before `max_epochs`; the last epoch is then evaluated too."""
    optimizer: type[Optimizer] | Optimizer = SGD
    """A class that is called with the model's trainable parameters, or an optimizer, which keeps its learning rates."""
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    """More arguments for the class: `{"momentum": 0.9}`."""
    train_with_dev: bool = False
    """Train on the dev split too; there is then none to choose a model by."""
    train_with_test: bool = False
    """Train on the test split too; it is then not evaluated."""
    max_grad_norm: float | None = 5.0
    """Gradients with a larger total 2-norm are scaled down to it; None: never."""
    main_evaluation_metric: str | None = None
    """What the best model is chosen by, such as `dev/accuracy`; None: the first of `metrics` on the dev split."""
    monitor_test: bool = False
    """Evaluate the test split after each epoch too; it is never used to choose a model."""
    monitor_train_sample: float | int = 0.0
    """Evaluate a part of the training samples after each epoch, as split `train_sample`: a share, or how many."""
    use_final_model_for_eval: bool = False
    """Evaluate the test split with the last model instead of the best."""
    sampler: Sampler[int] | Callable[[Any], Sampler[int]] | None = None
    """What chooses the training samples and their order, instead of `shuffle`: a sampler, or a function that is
    called with the samples and returns one."""
    shuffle: bool = True
    """Give the training samples in another order each epoch; a DataLoader keeps its own way."""
    shuffle_first_epoch: bool = True
    """Shuffle in the first epoch too."""
    save_final_model: bool = True
    """Save `final-model.pt` at the end, unless that is an error."""
    save_optimizer_state: bool = False
    """Save the optimizer's state beside each model: `final-model.optimizer.pt`. Checkpoints always hold it."""
    save_model_each_k_epochs: int = 0
    """Save the model after every so many epochs and keep it, as `model-epoch-<n>.pt`; 0: never."""
    create_file_logs: bool = True
    """Start the log-file sink, if `sinks` names it."""
    create_loss_file: bool = True
    """Start the loss-file sink, if `sinks` names it."""
    write_weights: bool = False
    """Attach the plugin that follows some of the model's weights, and start the sink that writes `weights.txt`."""
    use_amp: bool | Literal["bf16", "fp16"] = False
    """Compute in half precision where that is safe: in bf16, or in fp16 with scaled gradients; True: in bf16 where
    the device has it."""
    multi_gpu: bool | None = None
    """Train in the processes that torchrun has started, together; None: if it has started several."""
    attach_default_scheduler: bool = True
    """Attach the learning rate schedule of `train` or of `fine_tune`, unless the plugins bring one."""
    seed: int | None = None
    """What the order of samples comes from, and torch's generator is seeded with; None: drawn from that generator, or
    0 where several processes train together."""
    num_workers: int = 0
    """Processes that read samples; a DataLoader keeps its own."""
    device: str | torch.device | None = None
    """Where to train; None: where the model is."""
    dev_name: str = "dev"
    """What the dev split is called in the names of metrics: `dev` or `val`."""
    default_plugins: bool = True
    """Attach the plugins that keep the best model and checkpoints, and that log."""
    sinks: tuple[str, ...] = ("loss-file", "log-file")
    """The sinks to start as processes of their own, perhaps with options: `alerts --rules alerts.toml`."""
    bind: str | Tcp | None = None
    """Where to be reached from other hosts, encrypted: `tcp://address:port` with port 0 for any, or a `Tcp` that says
    more. None: what the environment's TRAINWIRE_BIND says, or from this host alone."""

    def __post_init__(self) -> None:
        for name in LEAST:
            check_integer(name, getattr(self, name))
        check_positive("learning_rate", self.learning_rate)
        for name in ("max_grad_norm", "decoder_learning_rate"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for option in dataclasses.fields(self):
            if option.type == "bool":
                check_flag(option.name, getattr(self, option.name))
        check_flag("use_amp", self.use_amp, "bf16", "fp16")
        check_flag("multi_gpu", self.multi_gpu, None)
        check_sample("monitor_train_sample", self.monitor_train_sample)
        check_optimizer(self.optimizer, self.optimizer_arguments)
        check_sampler(self.sampler)
        check_names(self.dev_name, self.main_evaluation_metric, self.sinks)
        for sink in self.sinks:
            SinkCommand.parse(sink)
        Tcp.from_environment(self.bind).check()

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any], caller: str = "train") -> TrainingOptions:
        """The options given by name.

        Raises:
            OptionError: there is no such option, or its value cannot be.
        """
        names = [option.name for option in dataclasses.fields(cls)]
        for name in keywords:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                guess = f" (did you mean {close[0]!r}?)" if close else ""
                raise OptionError(f"{caller}() has no option {name!r}{guess}; its options are {', '.join(names)}")
        return cls(**keywords)

    def as_hyperparameters(self) -> dict[str, Any]:
        """The options as plain values for the run's `hparams` event."""
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        return {name: plain(value) for name, value in values.items()}

    @property
    def wanted_sinks(self) -> list[SinkCommand]:
        """The sinks to start: those named, but for files that are not wanted, and with the file that is."""
        unwanted = {"log-file": not self.create_file_logs, "loss-file": not self.create_loss_file}
        wanted = [sink for sink in map(SinkCommand.parse, self.sinks) if not unwanted.get(sink.name, False)]
        has_weights = not self.write_weights or any(sink.name == "weights-file" for sink in wanted)
        return wanted if has_weights else [*wanted, SinkCommand("weights-file")]


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
    if isinstance(value, (Optimizer, Sampler)):
        return type(value).__name__
    return getattr(value, "__name__", None) or str(value)


LEAST = {
    "mini_batch_size": 1, "eval_batch_size": 1, "mini_batch_chunk_size": 1, "max_epochs": 1, "max_steps": 1,
    "num_workers": 0, "seed": 0, "save_model_each_k_epochs": 0,
}  # fmt: skip
"""The least value of each option that is a whole number."""

OPTIONAL = frozenset({"eval_batch_size", "mini_batch_chunk_size", "max_steps", "seed"})
"""Those that may be None."""


def check(name: str, value: object, is_right: bool, wanted: str) -> None:
    """Refuse a value that is not right.

    Raises:
        OptionError: says what it has to be.
    """
    if not is_right:
        raise OptionError(f"{name} is {value!r}: it has to be {wanted}")


def check_integer(name: str, value: object) -> None:
    """Refuse what is no whole number, or less than the option allows."""
    least, optional = LEAST[name], name in OPTIONAL
    if value is None and optional:
        return
    is_right = type(value) is int and least <= value < 2**63
    check(name, value, is_right, f"a whole number of at least {least}" + (", or None" if optional else ""))


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no finite number above 0."""
    check(name, value, _is_number(value) and 0 < value < math.inf, "a number above 0")


def check_flag(name: str, value: object, *others: object) -> None:
    """Refuse what is neither True nor False, nor one of the others."""
    wanted = " or ".join(["True or False", *map(repr, others)])
    check(name, value, isinstance(value, bool) or any(value is other or value == other for other in others), wanted)


def check_sample(name: str, value: Any) -> None:
    """Refuse what is neither a share of 0.0 to 1.0 nor a number of samples."""
    is_right = _is_number(value) and (0 <= value <= 1 if isinstance(value, float) else value >= 0)
    check(name, value, is_right, "a share such as 0.1, or a number of samples")


def check_optimizer(optimizer: object, arguments: Any) -> None:
    """Refuse what is no optimizer, and arguments that it could not take."""
    is_class = isinstance(optimizer, type) and issubclass(optimizer, Optimizer)
    is_right = is_class or isinstance(optimizer, Optimizer)
    check("optimizer", optimizer, is_right, "a class of torch.optim, or an optimizer")
    if optimizer is LBFGS or isinstance(optimizer, LBFGS):
        raise OptionError("the optimizer LBFGS evaluates the loss several times a step, which the loop does not do")
    check("optimizer_arguments", arguments, hasattr(arguments, "keys"), "a mapping of argument to value")
    if arguments and not is_class:
        raise OptionError("optimizer_arguments are for an optimizer's class: leave them out, as the optimizer is built")
    if "lr" in arguments:
        raise OptionError("optimizer_arguments has 'lr': give it as learning_rate")


def check_names(dev_name: object, metric: object, sinks: object) -> None:
    """Refuse names that a split, a metric or a sink cannot have."""
    check("dev_name", dev_name, dev_name in ("dev", "val"), "'dev' or 'val'")
    check("main_evaluation_metric", metric, metric is None or isinstance(metric, str), "a name such as 'dev/loss'")
    is_list = isinstance(sinks, (list, tuple)) and all(isinstance(sink, str) and sink for sink in sinks)
    check("sinks", sinks, is_list, "a list of names such as ['loss-file']")


def check_sampler(sampler: object) -> None:
    """Refuse what is neither a sampler nor makes one."""
    is_right = sampler is None or isinstance(sampler, Sampler) or callable(sampler)
    check("sampler", sampler, is_right, "a torch sampler, or a function of the training samples that returns one")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
