"""The options of `ModelTrainer.train` and `fine_tune`, each a field of one dataclass."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import SGD, Optimizer
from torch.utils.data import Sampler

from trainwire import option_checks as checks
from trainwire_protocol.endpoints import Tcp
from trainwire_protocol.errors import OptionError
from trainwire_protocol.sink_command import SinkCommand


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
        for name in checks.LEAST:
            checks.check_integer(name, getattr(self, name))
        checks.check_positive("learning_rate", self.learning_rate)
        for name in ("max_grad_norm", "decoder_learning_rate"):
            if getattr(self, name) is not None:
                checks.check_positive(name, getattr(self, name))
        for option in dataclasses.fields(self):
            if option.type == "bool":
                checks.check_flag(option.name, getattr(self, option.name))
        checks.check_flag("use_amp", self.use_amp, "bf16", "fp16")
        checks.check_flag("multi_gpu", self.multi_gpu, None)
        checks.check_sample("monitor_train_sample", self.monitor_train_sample)
        checks.check_optimizer(self.optimizer, self.optimizer_arguments)
        checks.check_sampler(self.sampler)
        checks.check_names(self.dev_name, self.main_evaluation_metric, self.sinks)
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
