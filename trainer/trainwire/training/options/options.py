"""The options of `ModelTrainer.train` and `fine_tune`: types and documentation, then defaults, then checks."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import Sampler

from trainwire.bus.values.plain import coerce_hparams
from trainwire.training.distributed.sharding import Policy, check_arguments, is_policy
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.options.options_file import NONE, plugin_problems, read_value, write_options
from trainwire.training.options.other_trainers import REPLACEMENTS, replacements
from trainwire.training.options.plugin_names import PluginByName
from trainwire.training.savable import python_numbers
from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import OptionError, UnsupportedValueError
from trainwire_protocol.toml_file import TomlFile
from trainwire_protocol.transport.endpoints import Tcp

Match: TypeAlias = str | type[nn.Module] | Sequence[str | type[nn.Module]]
"""What a group of parameters has in common: a pattern of names, a class of modules, or several of these."""

NamedOptimizer: TypeAlias = Optimizer | type[Optimizer] | tuple[type[Optimizer], Mapping[str, Any]]
"""One of several optimizers, or how to make it: a class, or a class and its arguments."""


class TrainingOptionsDict(TypedDict, total=False):
    """The options as keyword arguments. Editors and type checkers read the names and types from this class.

    A function that passes options on to `train` takes `**options: Unpack[TrainingOptionsDict]`. The defaults are those
    of the fields of `TrainingOptions`.
    """

    learning_rate: float
    """The optimizer's initial learning rate."""
    decoder_learning_rate: float | None
    """The learning rate of the parameters for which `ModelTrainer.is_decoder` returns True; None: `learning_rate`."""
    mini_batch_size: int
    """The number of samples in a batch, in each process. A DataLoader keeps its own batch size."""
    eval_batch_size: int | None
    """The number of samples in a batch during evaluation; None: `mini_batch_size`."""
    mini_batch_chunk_size: int | None
    """The number of samples in a forward pass. A larger batch is split, and its gradients are accumulated."""
    accumulate_batches: int
    """The number of batches for each optimizer update, whose gradients are those of the mean over all of them. The last
    update of an epoch may have fewer."""
    max_epochs: int | None
    """The number of passes over the training data, or of epochs of `batches_per_epoch`; None: no limit if
    `max_steps` is given, and otherwise the method's default."""
    max_steps: int | None
    """End the training after this many optimizer updates, if `max_epochs` is not reached before. The last epoch is
    evaluated too."""
    batches_per_epoch: int | None
    """The number of batches in an epoch, which continues where the one before it stopped reading; at the end of the
    data it is read again. None: an epoch is one pass over the training data."""
    optimizer: type[Optimizer] | Optimizer | Mapping[str, NamedOptimizer]
    """An optimizer class, which is called with the model's trainable parameters, or an optimizer, which keeps its
    learning rates. Several: a mapping of names to optimizers or, if the names are those of parts of the model, classes,
    or pairs of a class and its arguments."""
    optimizer_arguments: Mapping[str, Any]
    """Further arguments for the optimizer class, such as `{"momentum": 0.9}`."""
    parameter_groups: Sequence[Mapping[str, Any]]
    """Settings for some of the parameters, such as `[{"match": ["encoder.*", "*.bias"], "lr": 1e-5}]`. `match` is a
    pattern of names, a module class, or a list of these."""
    decay_biases_and_norms: bool
    """Apply the optimizer's weight decay to biases, to all other vectors, and to norm layers too."""
    trial_run: bool | int
    """Try everything out in two epochs of this many batches of each split, with checkpoints and sinks; True: 3 batches.
    No training is resumed from it."""
    train_with_dev: bool
    """Train on the dev split too. It cannot be used to choose the best model then."""
    train_with_test: bool
    """Train on the test split too. It is not evaluated then."""
    max_grad_norm: float | None
    """Clip the gradients to this total 2-norm; None: do not clip. It does not apply to LBFGS, whose line search needs
    the gradients of the loss."""
    main_evaluation_metric: str | None
    """The metric by which the best model is chosen, such as `dev/accuracy`; None: the first of `metrics`, on the dev
    split."""
    main_evaluation_mode: Literal["max", "min"] | None
    """The direction of the main metric, `max` or `min`; None: as the metric defines it, and `min` for losses."""
    try_metrics: bool
    """Update copies of the metrics with the first training batch's output and target, so that a mistake is reported
    before the first evaluation."""
    monitor_test: bool
    """Evaluate the test split after each epoch too. It is never used to choose a model."""
    monitor_train_sample: float | int
    """Evaluate a sample of the training data after each epoch, as split `train_sample`: a fraction (float) or a number
    of samples (int)."""
    evaluate_each_k_steps: int
    """Evaluate after every k optimizer updates too, and not only at the end of each epoch; 0: do not. The best model,
    early stopping and schedules that follow a metric then count evaluations instead of epochs."""
    use_final_model_for_eval: bool
    """Evaluate the test split with the final model instead of the best model."""
    sampler: Sampler[int] | Callable[[Any], Sampler[int]] | None
    """The sampler of the training data, or a function that takes the data and returns one. It replaces `shuffle`."""
    batch_sampler: Sampler[list[int]] | Callable[[Any], Iterable[list[int]]] | None
    """The sampler of whole training batches, lists of indices, or a function that takes the data and returns one. It
    replaces `sampler`, `shuffle`, `drop_last` and, in training, `mini_batch_size`."""
    shuffle: bool
    """Shuffle the training data in each epoch. A DataLoader keeps its own order."""
    shuffle_first_epoch: bool
    """Shuffle the first epoch too."""
    drop_last: bool
    """Omit the last training batch of an epoch if it has fewer samples. A DataLoader keeps its own setting."""
    collate_fn: Callable[[list[Any]], Any] | None
    """The function that makes a batch of a list of samples, in training and evaluation; None: torch's. A DataLoader
    keeps its own."""
    save_final_model: bool
    """Save `final-model.pt` at the end, unless the training fails."""
    save_optimizer_state: bool
    """Save the optimizer's state with each model, as `final-model.optimizer.pt`. Checkpoints always include it."""
    save_model_each_k_epochs: int
    """Save the model after every k epochs, as `model-epoch-<n>.pt`, and never delete it; 0: do not."""
    save_model_each_k_steps: int
    """Save the model after every k optimizer updates, as `model-step-<n>.pt`, and never delete it; 0: do not."""
    create_file_logs: bool
    """Start the log-file sink if `sinks` includes it."""
    create_loss_file: bool
    """Start the loss-file sink if `sinks` includes it."""
    write_weights: bool
    """Record some of the model's weights, and start the sink that writes them to `weights.txt`."""
    use_amp: bool | Literal["bf16", "fp16"]
    """Use automatic mixed precision: bf16, or fp16 with gradient scaling; True: bf16 if the device supports it, fp16
    otherwise."""
    compile: bool | Mapping[str, Any]
    """Compile the model with `torch.compile` during the training; a mapping: with these arguments, such as
    `{"mode": "max-autotune"}`."""
    multi_gpu: bool | None
    """Train in the processes that torchrun started, as one training; None: if it started more than one."""
    ddp_arguments: Mapping[str, Any]
    """Further arguments for DistributedDataParallel, which several processes use, such as `{"static_graph": True}`."""
    fsdp: Policy
    """Divide parameters, gradients and optimizer state among the processes (torch's `fully_shard`), for a model that
    one GPU cannot hold. Which modules are gathered one after the other: module classes, or a function of a name and a
    module, or of a module, that returns a bool; True: the layers in the model's ModuleLists."""
    fsdp_arguments: Mapping[str, Any]
    """Further arguments for `fully_shard`, such as `{"mp_policy": "bf16"}`."""
    attach_default_scheduler: bool
    """Attach the default learning rate schedule of `train` or `fine_tune`, unless a plugin sets the learning rate."""
    seed: int | None
    """The seed of the sample order and of torch's generator; None: a random seed drawn from that generator, or 0 if
    several processes train together."""
    num_workers: int
    """The number of processes that load data. A DataLoader keeps its own."""
    device: str | torch.device | None
    """The device to train on; None: the model's device."""
    dev_name: Literal["dev", "val"]
    """The name of the dev split in metrics: `dev` or `val`."""
    plugins: Sequence[BasePlugin[Any] | PluginByName]
    """The plugins of this training, besides those of the trainer: instances, names such as `early-stopping`, or names
    with arguments such as `{"ema": {"decay": 0.999}}`."""
    default_plugins: bool
    """Attach the plugins that save the best model and checkpoints, the one that logs, and on a terminal the progress
    bar."""
    sinks: list[str] | tuple[str, ...]
    """The sinks to start as processes, each with its command line options, such as `alerts --rules alerts.toml`."""
    bind: str | Tcp | None
    """The address for encrypted connections from other hosts: `tcp://address:port`, port 0 for any free port, or a
    `Tcp` with further settings; None: the environment variable TRAINWIRE_BIND, or connections from this host only."""
    hparams: Any
    """Hyperparameters of your own, to be recorded before the options: a mapping, or an object with fields, such as an
    `argparse.Namespace`. Where one has the name of an option, the option is recorded."""
    quiet: bool
    """Print nothing on a terminal: neither where the run is recorded, nor a progress bar. The environment variable
    TRAINWIRE_QUIET does the same."""


class Requirement(NamedTuple):
    """What the value of an option must be."""

    is_met: Callable[[Any], bool]
    text: str
    """Completes "it must be"."""

    def or_none(self) -> Requirement:
        """Return the requirement that also allows None."""
        return Requirement(lambda value: value is None or self.is_met(value), f"{self.text}, or None")


def at_least(minimum: int) -> Requirement:
    """Require a 64-bit integer of at least `minimum`."""
    return Requirement(
        lambda value: type(value) is int and minimum <= value < 2**63, f"an integer of at least {minimum}"
    )


def one_of(*values: str | bool) -> Requirement:
    """Require one of some strings and booleans."""
    return Requirement(lambda value: isinstance(value, (str, bool)) and value in values, " or ".join(map(repr, values)))


def is_number(value: object) -> bool:
    """Return whether the value is an int or a float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "train": {},
    "fine_tune": {
        "learning_rate": 5e-5, "mini_batch_size": 4, "optimizer": AdamW,
        "use_final_model_for_eval": True,
    },
}  # fmt: skip
"""The options in which the defaults of the trainer's methods differ from those of `TrainingOptions`."""

EPOCHS: Final[Mapping[str, int]] = {"train": 100, "fine_tune": 10}
"""What None means as `max_epochs` in each of the trainer's methods, unless `max_steps` is given."""

POSITIVE: Final = Requirement(lambda value: is_number(value) and 0 < value < math.inf, "a finite number above 0")
FLAG: Final = one_of(True, False)

REQUIREMENTS: Final[Mapping[str, Requirement]] = {
    "learning_rate": POSITIVE,
    "decoder_learning_rate": POSITIVE.or_none(),
    "mini_batch_size": at_least(1),
    "eval_batch_size": at_least(1).or_none(),
    "mini_batch_chunk_size": at_least(1).or_none(),
    "accumulate_batches": at_least(1),
    "max_epochs": at_least(1).or_none(),
    "max_steps": at_least(1).or_none(),
    "batches_per_epoch": at_least(1).or_none(),
    "optimizer": Requirement(
        lambda value: _are_optimizers(value) if isinstance(value, Mapping) else _is_optimizer(value),
        "a class of torch.optim, an optimizer, or a mapping of names to optimizers, classes, or pairs of a class and "
        "its arguments",
    ),
    "optimizer_arguments": Requirement(lambda value: isinstance(value, Mapping), "a mapping of names to values"),
    "parameter_groups": Requirement(
        lambda value: isinstance(value, (list, tuple)) and all(map(_is_group, value)),
        'a list of mappings such as {"match": "*.bias", "weight_decay": 0.0}, in which match is a pattern, a module '
        "class, or a list of these, lr and weight_decay are at least 0, and there is at least one setting",
    ),
    "decay_biases_and_norms": FLAG,
    "trial_run": Requirement(
        lambda value: isinstance(value, bool) or (type(value) is int and value >= 0),
        "a number of batches, True or False",
    ),
    "train_with_dev": FLAG,
    "train_with_test": FLAG,
    "max_grad_norm": POSITIVE.or_none(),
    "main_evaluation_metric": Requirement(lambda value: isinstance(value, str), "a name such as 'dev/loss'").or_none(),
    "main_evaluation_mode": one_of("max", "min").or_none(),
    "try_metrics": FLAG,
    "monitor_test": FLAG,
    "monitor_train_sample": Requirement(
        lambda value: is_number(value) and 0 <= value <= (1 if isinstance(value, float) else math.inf),
        "a fraction from 0.0 to 1.0, or a number of samples",
    ),
    "evaluate_each_k_steps": at_least(0),
    "use_final_model_for_eval": FLAG,
    "sampler": Requirement(
        lambda value: isinstance(value, Sampler) or callable(value),
        "a torch sampler, or a function that takes the training data and returns one",
    ).or_none(),
    "batch_sampler": Requirement(
        lambda value: isinstance(value, Sampler) or callable(value),
        "a torch sampler of batches, or a function that takes the training data and returns one",
    ).or_none(),
    "shuffle": FLAG,
    "shuffle_first_epoch": FLAG,
    "drop_last": FLAG,
    "collate_fn": Requirement(callable, "a function of a list of samples").or_none(),
    "save_final_model": FLAG,
    "save_optimizer_state": FLAG,
    "save_model_each_k_epochs": at_least(0),
    "save_model_each_k_steps": at_least(0),
    "create_file_logs": FLAG,
    "create_loss_file": FLAG,
    "write_weights": FLAG,
    "use_amp": one_of(True, False, "bf16", "fp16"),
    "compile": Requirement(
        lambda value: isinstance(value, (bool, Mapping)), "True, False, or a mapping of arguments of torch.compile"
    ),
    "multi_gpu": FLAG.or_none(),
    "ddp_arguments": Requirement(lambda value: isinstance(value, Mapping), "a mapping of names to values"),
    "fsdp": Requirement(is_policy, "True, False, module classes, or a function of a name and a module"),
    "fsdp_arguments": Requirement(lambda value: isinstance(value, Mapping), "a mapping of names to values"),
    "attach_default_scheduler": FLAG,
    "seed": at_least(0).or_none(),
    "num_workers": at_least(0),
    "dev_name": one_of("dev", "val"),
    "plugins": Requirement(
        lambda value: isinstance(value, (list, tuple)), "a list of plugins, or of names such as ['early-stopping']"
    ),
    "default_plugins": FLAG,
    "sinks": Requirement(
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(sink, str) and sink for sink in value),
        "a list of names such as ['loss-file']",
    ),
    "hparams": Requirement(
        lambda value: _is_recordable(value), "a mapping of names to values, or an object with fields"
    ).or_none(),
    "quiet": FLAG,
}
"""One for each option, except for `device` and `bind`, which torch and `Tcp` check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """The options of a training, with the defaults of `train`.

    `TrainingOptionsDict` documents each of them.

    Raises:
        OptionError: if the value of an option is invalid.
    """

    learning_rate: float = 0.1
    decoder_learning_rate: float | None = None
    mini_batch_size: int = 32
    eval_batch_size: int | None = None
    mini_batch_chunk_size: int | None = None
    accumulate_batches: int = 1
    max_epochs: int | None = None
    max_steps: int | None = None
    batches_per_epoch: int | None = None
    optimizer: type[Optimizer] | Optimizer | Mapping[str, NamedOptimizer] = SGD
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    parameter_groups: Sequence[Mapping[str, Any]] = ()
    decay_biases_and_norms: bool = True
    trial_run: bool | int = False
    train_with_dev: bool = False
    train_with_test: bool = False
    max_grad_norm: float | None = 5.0
    main_evaluation_metric: str | None = None
    main_evaluation_mode: Literal["max", "min"] | None = None
    try_metrics: bool = True
    monitor_test: bool = False
    monitor_train_sample: float | int = 0.0
    evaluate_each_k_steps: int = 0
    use_final_model_for_eval: bool = False
    sampler: Sampler[int] | Callable[[Any], Sampler[int]] | None = None
    batch_sampler: Sampler[list[int]] | Callable[[Any], Iterable[list[int]]] | None = None
    shuffle: bool = True
    shuffle_first_epoch: bool = True
    drop_last: bool = False
    collate_fn: Callable[[list[Any]], Any] | None = None
    save_final_model: bool = True
    save_optimizer_state: bool = False
    save_model_each_k_epochs: int = 0
    save_model_each_k_steps: int = 0
    create_file_logs: bool = True
    create_loss_file: bool = True
    write_weights: bool = False
    use_amp: bool | Literal["bf16", "fp16"] = False
    compile: bool | Mapping[str, Any] = False
    multi_gpu: bool | None = None
    ddp_arguments: Mapping[str, Any] = field(default_factory=dict)
    fsdp: Policy = False
    fsdp_arguments: Mapping[str, Any] = field(default_factory=dict)
    attach_default_scheduler: bool = True
    seed: int | None = None
    num_workers: int = 0
    device: str | torch.device | None = None
    dev_name: Literal["dev", "val"] = "dev"
    plugins: Sequence[BasePlugin[Any] | PluginByName] = ()
    default_plugins: bool = True
    sinks: list[str] | tuple[str, ...] = ("loss-file", "log-file")
    bind: str | Tcp | None = None
    hparams: Any = None
    quiet: bool = False

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, python_numbers(getattr(self, option.name)))
        for name, requirement in REQUIREMENTS.items():
            if not requirement.is_met(value := getattr(self, name)):
                raise OptionError(f"{name} is {value!r}; it must be {requirement.text}")
        if self.optimizer_arguments and not isinstance(self.optimizer, type):
            raise OptionError("optimizer_arguments apply to an optimizer class only: omit them")
        if self.decoder_learning_rate is not None and isinstance(self.optimizer, Mapping):
            raise OptionError("decoder_learning_rate applies to one optimizer only: pass lr in the arguments of each")
        self._check_groups()
        if "lr" in self.optimizer_arguments:
            raise OptionError("optimizer_arguments contains 'lr'; use the option learning_rate instead")
        if self.batch_sampler is not None and (self.sampler is not None or self.drop_last):
            other = "drop_last" if self.sampler is None else "sampler"
            raise OptionError(
                f"batch_sampler and {other} are given, but a batch sampler determines the batches: omit one"
            )
        _check_ddp_arguments(self.ddp_arguments)
        _check_fsdp(self)
        for sink in self.sinks:
            SinkCommand.parse(sink).check_name()
        Tcp.from_environment(self.bind).check()

    def _check_groups(self) -> None:
        choices = self.optimizer.values() if isinstance(self.optimizer, Mapping) else [self.optimizer]
        if (self.parameter_groups or not self.decay_biases_and_norms) and any(
            isinstance(choice, Optimizer) for choice in choices
        ):
            name = "parameter_groups" if self.parameter_groups else "decay_biases_and_norms=False"
            raise OptionError(f"{name} needs an optimizer class: an optimizer keeps its groups")

    @classmethod
    def from_keywords(
        cls,
        keywords: Mapping[str, Any],
        caller: str = "train",
        options: TrainingOptions | str | PathLike[str] | None = None,
        names: Collection[str] | None = None,
    ) -> TrainingOptions:
        """Return the options that were given to the trainer's method `caller`, with its number of epochs.

        Args:
            options: Options that `keywords` override, or the file that has them. A file, or None, is completed by the
                defaults of the method.
            names: The options that the method has; None: all.

        Raises:
            OptionError: if there is no option of such a name, or a value is invalid.
        """
        names = [option.name for option in dataclasses.fields(cls) if names is None or option.name in names]
        unknown = [name for name in keywords if name not in names]
        if unknown:
            raise OptionError(_about_unknown(unknown, names, caller))
        if isinstance(options, TrainingOptions):
            chosen = dataclasses.replace(options, **keywords)
        elif options is None:
            chosen = cls(**{**DEFAULTS.get(caller, {}), **keywords})
        elif isinstance(options, (str, PathLike)):
            chosen = cls._from_toml(options, caller, keywords)
        else:
            raise OptionError(f"options is {options!r}; it must be a TrainingOptions, or the path of an options file")
        if chosen.max_epochs is None and chosen.max_steps is None:
            return dataclasses.replace(chosen, max_epochs=EPOCHS.get(caller))
        return chosen

    @classmethod
    def from_file(cls, path: str | PathLike[str], method: Literal["train", "fine_tune"] = "train") -> TrainingOptions:
        """Return the options in a TOML file, completed by the defaults of one of the trainer's methods.

        The default of `max_epochs` is chosen by the method that gets the options.

        Raises:
            OptionError: if the file cannot be read, or an option in it does not exist or is invalid; the message has a
                line for each of them, which begins with the file and the line.
        """
        if method not in DEFAULTS:
            raise OptionError(f"method is {method!r}; it must be {' or '.join(map(repr, DEFAULTS))}")
        return cls._from_toml(path, method, {})

    @classmethod
    def _from_toml(cls, path: str | PathLike[str], method: str, overriding: Mapping[str, Any]) -> TrainingOptions:
        file = TomlFile.read(Path(path), "options file")
        problems = plugin_problems(file)
        values: dict[str, Any] = {}
        for name, value in file.content.items():
            try:
                values[name] = _value_in_file(name, value)
            except OptionError as error:
                problems.append((file.line_of((name,)), str(error)))
        if problems:
            raise OptionError("\n".join(f"{file.name}:{line}: {text}" for line, text in sorted(problems)))
        options = {**DEFAULTS.get(method, {}), **values, **overriding}
        try:
            return cls(**options)
        except OptionError as error:
            for name in values:
                if _problem(options, without=name) != str(error):
                    raise OptionError(f"{file.name}:{file.line_of((name,))}: {error}") from None
            raise

    def to_file(self, path: str | PathLike[str]) -> None:
        """Write the options to a TOML file, which `from_file` reads again.

        All options are written, those with their default too, except for None where it is the default. What a file
        cannot have, such as functions, objects and classes outside `torch.optim`, is named in a comment and in the log.

        Raises:
            OutputError: if the file cannot be written.
        """
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        absent = {option.name for option in dataclasses.fields(self) if option.default is None}
        write_options(path, {name: value for name, value in values.items() if value is not None or name not in absent})

    def as_hyperparameters(self) -> dict[str, Any]:
        """Return the user's own hyperparameters, the options that differ from the defaults, and all other options."""
        own = {} if self.hparams is None else coerce_hparams(self.hparams).value
        options = [option for option in dataclasses.fields(self) if option.name != "hparams"]
        values = {option.name: plain(getattr(self, option.name)) for option in options}
        defaults = TrainingOptions.from_keywords({})
        options.sort(key=lambda option: values[option.name] == plain(getattr(defaults, option.name)))
        return own | {option.name: values[option.name] for option in options}

    @property
    def sinks_to_start(self) -> list[SinkCommand]:
        """The sinks in `sinks`, as changed by `create_file_logs`, `create_loss_file` and `write_weights`."""
        disabled = {"log-file": not self.create_file_logs, "loss-file": not self.create_loss_file}
        sinks = [sink for sink in map(SinkCommand.parse, self.sinks) if not disabled.get(sink.name, False)]
        if self.write_weights and all(sink.name != "weights-file" for sink in sinks):
            sinks.append(SinkCommand("weights-file"))
        return sinks


def _problem(options: Mapping[str, Any], without: str) -> str:
    """Return why the options are invalid if one of them is omitted; an empty string if they are valid then."""
    try:
        TrainingOptions(**{name: value for name, value in options.items() if name != without})
    except OptionError as error:
        return str(error)
    return ""


def _value_in_file(name: str, value: Any) -> Any:
    """Return the value of an option of which a file has this one.

    Raises:
        OptionError: if there is no such option, or the value is invalid.
    """
    names = [option.name for option in dataclasses.fields(TrainingOptions)]
    if name not in names:
        raise OptionError(_about_unknown_key(name, names))
    value, requirement = read_value(name, value), REQUIREMENTS.get(name)
    if requirement and not requirement.is_met(value):
        if value == NONE and requirement.is_met(None):
            return None
        raise OptionError(f"{name} is {value!r}; it must be {requirement.text}")
    return value


def _about_unknown_key(name: str, names: Sequence[str]) -> str:
    if name in ("run_folder", "train", "dev", "test", "corpus", "resume"):
        return f"{name} is an argument of the trainer's methods, and not an option: pass it there"
    if name in REPLACEMENTS:
        return f"there is no option {name!r}; use {REPLACEMENTS[name]}"
    close = " or ".join(map(repr, difflib.get_close_matches(name, names)))
    return f"there is no option {name!r}; " + (f"did you mean {close}?" if close else f"they are {', '.join(names)}")


def _is_optimizer(value: object) -> bool:
    return isinstance(value, Optimizer) or (isinstance(value, type) and issubclass(value, Optimizer))


def _are_optimizers(choices: Mapping[object, object]) -> bool:
    """Return whether each has a name, and is an optimizer, a class, or a pair of a class and its arguments."""
    return bool(choices) and all(
        isinstance(name, str) and name and (_is_optimizer(choice) or _is_class_with_arguments(choice))
        for name, choice in choices.items()
    )


def _is_class_with_arguments(choice: object) -> bool:
    if not isinstance(choice, tuple) or len(choice) != 2:
        return False
    return isinstance(choice[0], type) and issubclass(choice[0], Optimizer) and isinstance(choice[1], Mapping)


def _is_group(value: object) -> bool:
    if not isinstance(value, Mapping) or len(value) < 2 or not all(isinstance(name, str) for name in value):
        return False
    rates = [value[name] for name in ("lr", "weight_decay") if name in value]
    return _is_match(value.get("match")) and all(is_number(rate) and 0 <= rate < math.inf for rate in rates)


def _is_match(value: object) -> bool:
    matches = value if isinstance(value, (list, tuple)) else [value]
    return bool(matches) and all(
        (isinstance(each, type) and issubclass(each, nn.Module)) or (isinstance(each, str) and each != "")
        for each in matches
    )


def _check_ddp_arguments(arguments: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(DistributedDataParallel).parameters if name != "module"]
    for name in arguments:
        if name not in known:
            raise OptionError(
                f"ddp_arguments contains {name!r}; the arguments of DistributedDataParallel are {', '.join(known)}"
            )


def _check_fsdp(options: TrainingOptions) -> None:
    check_arguments(options.fsdp_arguments)
    if options.fsdp is False:
        if options.fsdp_arguments:
            raise OptionError("fsdp_arguments are given, but fsdp is False: pass fsdp=True or omit them")
        return
    if options.compile is not False:
        raise OptionError("fsdp and compile cannot be combined: compile parts of the model with Module.compile")
    if options.multi_gpu is False:
        raise OptionError("fsdp divides a model among the processes of one training: omit multi_gpu=False")
    if options.ddp_arguments:
        raise OptionError("ddp_arguments are given, but fsdp replaces DistributedDataParallel: use fsdp_arguments")
    optimizers = options.optimizer.values() if isinstance(options.optimizer, Mapping) else [options.optimizer]
    if any(isinstance(optimizer, Optimizer) for optimizer in optimizers):
        raise OptionError(
            "fsdp replaces the parameters that an optimizer was created with: pass its class as optimizer=, and its "
            "settings as optimizer_arguments="
        )


def _is_recordable(value: object) -> bool:
    try:
        coerce_hparams(value)
    except UnsupportedValueError:
        return False
    return True


def _about_unknown(unknown: Sequence[str], names: Sequence[str], caller: str) -> str:
    """Return a message about options that do not exist, with what replaces them or what they may be meant to be."""
    message = f"{caller}() has no option {', '.join(map(repr, unknown))}"
    if known := replacements(unknown):
        message += f"; use instead of {', of '.join(known)}"
    for name in unknown:
        close = " or ".join(map(repr, difflib.get_close_matches(name, names)))
        if close and name not in REPLACEMENTS:
            message += f" (did you mean {close}?)" if len(unknown) == 1 else f" (by {name!r}, did you mean {close}?)"
    return f"{message}; its options are {', '.join(names)}"


def plain(value: object) -> Any:
    """Return a value that an event can hold: numbers, strings, lists and maps are kept, objects become names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (Optimizer, Sampler, BasePlugin)):
        return type(value).__name__
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return str(value)
