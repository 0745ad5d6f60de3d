"""The setup of a training: all arguments are checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from trainwire.training.data.batches import Batches
from trainwire.training.data.loaders import Corpus, Data, evaluation_loader, sample_of, samples_of, training_loader
from trainwire.training.distributed.processes import Processes
from trainwire.training.distributed.sharding import Sharding, check_model, check_optimizer, is_sharded, shard
from trainwire.training.forward import Forward
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.metrics import MainMetric, main_metric
from trainwire.training.model.compilation import checked_compilation
from trainwire.training.model.models import (
    count_parameters,
    device_of,
    is_callable,
    is_spread,
    name_of,
    not_distributed,
    place,
)
from trainwire.training.model.optimizers import make_optimizers, needs_closure
from trainwire.training.model.parameters import TrainedModules
from trainwire.training.model.precision import Precision
from trainwire.training.options.options import TrainingOptions, plain
from trainwire.training.savable import savable
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import parse_folder

if TYPE_CHECKING:
    from torchmetrics import Metric


class Trainer(Batches, Protocol):
    """The parts of a `ModelTrainer` that a setup uses."""

    model: nn.Module
    loss: Callable[..., Tensor] | None
    metrics: dict[str, Metric]

    def forward(self, batch: Any) -> Forward:
        """Return the loss of a batch, and the output and target for the metrics."""

    @property
    def overrides_forward(self) -> bool:
        """Whether a subclass overrides `forward`."""

    def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
        """Return the loss of a training batch for one optimizer; None if it makes no update."""

    @property
    def overrides_forward_for(self) -> bool:
        """Whether a subclass overrides `forward_for`."""

    def is_decoder(self, name: str) -> bool:
        """Return whether `decoder_learning_rate` applies to the parameter of this name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSetup:
    """Everything that a training needs, checked. Nothing is opened yet; loss and metrics are on the device."""

    folder: Path
    model: nn.Module
    loss: Callable[..., Tensor] | None
    """The loss given to the trainer; None if its `forward` computes one."""
    forward: Callable[[Any], Forward]
    """The trainer's `forward`."""
    forward_for: Callable[[str, Any], Forward | None]
    """The trainer's `forward_for`."""
    overrides_forward_for: bool
    """Whether training and evaluation may differ in their forward pass."""
    batches: Batches
    """The trainer's methods for batches."""
    is_decoder: Callable[[str], bool]
    """The trainer's `is_decoder`."""
    modules: TrainedModules
    """The modules whose parameters are trained: the model, and the loss if it has parameters of its own."""
    options: TrainingOptions
    seed: int
    """Determines the order of the samples."""
    device: torch.device
    processes: Processes
    """Not connected yet."""
    optimizers: Mapping[str, Optimizer]
    precision: Precision
    compilation: Mapping[str, Any] | None
    """The arguments of `torch.compile`; None if the model is not compiled."""
    metrics: Mapping[str, Metric]
    main_metric: MainMetric | None
    train_loader: DataLoader[Any]
    evaluation_loaders: Mapping[str, DataLoader[Any]]
    """By the name of the split."""
    monitored_splits: tuple[str, ...]
    """The splits that are evaluated after each epoch."""
    split_sizes: Mapping[str, int | None]
    """Samples in each split; None if the size of a split is unknown."""
    plugins: tuple[BasePlugin[Any], ...]
    """In the order in which they are called."""
    sharding: Sharding | None = None
    """Of a model that is divided among the processes, once they are connected."""

    def hyperparameters(self) -> dict[str, Any]:
        """Return the value of the run's `hparams` event: the options, and the parts of the training."""
        return self.options.as_hyperparameters() | {
            "seed": self.seed,
            "device": str(self.device),
            "model": name_of(self.model),
            "trainable_parameters": count_parameters(self.modules),
            "loss": getattr(self.loss, "__name__", type(self.loss).__name__),
            "metrics": list(self.metrics),
            "main_evaluation_metric": self.main_metric.name if self.main_metric else None,
            "samples": plain(self.split_sizes),
        }


def prepare(
    trainer: Trainer,
    folder: Path,
    corpus: Corpus,
    options: TrainingOptions,
    plugins: tuple[BasePlugin[Any], ...],
    processes: Processes,
    resumed_seed: int | None,
) -> TrainingSetup:
    """Return the setup of a training.

    Args:
        resumed_seed: The seed of the training to resume, if there is one.

    Raises:
        OptionError: if the arguments are not compatible.
    """
    seed = _seed(options, resumed_seed, processes)
    if processes.several:
        trainer.model = not_distributed(trainer.model)
    device = place_trainer(trainer, options, processes)
    modules, precision = TrainedModules(trainer.model, trainer.loss), Precision(device, options.use_amp)
    if options.fsdp is not False:
        check_model(trainer.model, options.fsdp)
    corpus = corpus.merged(dev=options.train_with_dev, test=options.train_with_test)
    splits = _evaluated_splits(corpus, options, seed)
    if splits and not trainer.overrides_forward and not is_callable(trainer.model):
        raise OptionError(
            f"{next(iter(splits))} cannot be evaluated, as {name_of(trainer.model)} has no forward: override "
            "ModelTrainer.forward"
        )
    monitored = tuple(split for split in splits if split != "test" or options.monitor_test)
    if options.evaluate_each_k_steps and not monitored:
        raise OptionError("evaluate_each_k_steps is given, but there is no split to evaluate: pass dev=")
    return TrainingSetup(
        folder=folder,
        model=trainer.model,
        loss=trainer.loss,
        forward=trainer.forward,
        forward_for=trainer.forward_for,
        overrides_forward_for=trainer.overrides_forward_for,
        batches=trainer,
        is_decoder=trainer.is_decoder,
        modules=modules,
        options=options,
        seed=seed,
        device=device,
        processes=processes,
        optimizers=_optimizers(trainer, modules, options, precision),
        precision=precision,
        compilation=checked_compilation(trainer.model, options.compile, device),
        metrics=trainer.metrics,
        main_metric=_main_metric(options, trainer, monitored, plugins),
        train_loader=training_loader(corpus.train, options, seed, device, processes),
        evaluation_loaders={name: evaluation_loader(data, options, device, processes) for name, data in splits.items()},
        monitored_splits=monitored,
        split_sizes={"train": samples_of(corpus.train), **{name: samples_of(data) for name, data in splits.items()}},
        plugins=plugins,
    )


def sharded(setup: TrainingSetup, processes: Processes) -> TrainingSetup:
    """Divide the model among the connected processes, and return the setup with optimizers of the shards.

    Raises:
        OptionError: if the model cannot be sharded, or an optimizer cannot update shards.
    """
    options, modules = setup.options, setup.modules
    parts = [modules.model, *([] if modules.loss is None else [modules.loss])]
    sharding = shard(parts, options.fsdp, options.fsdp_arguments, setup.device, processes)
    for optimizer in setup.optimizers.values():
        check_optimizer(optimizer, sharding)
    return replace(setup, optimizers=make_optimizers(modules, options, setup.is_decoder), sharding=sharding)


def _optimizers(
    trainer: Trainer, modules: TrainedModules, options: TrainingOptions, precision: Precision
) -> dict[str, Optimizer]:
    optimizers = make_optimizers(modules, options, trainer.is_decoder)
    for optimizer in optimizers.values():
        if precision.scaler is not None and needs_closure(optimizer):
            raise OptionError(
                f"use_amp is {options.use_amp!r}, which scales gradients, but {type(optimizer).__name__} evaluates the "
                "loss several times in a step: use 'bf16' or False"
            )
    if len(optimizers) > 1:
        names = ", ".join(map(repr, optimizers))
        if not trainer.overrides_forward_for:
            raise OptionError(
                f"there are several optimizers, {names}: override ModelTrainer.forward_for, which returns the loss of "
                "each"
            )
        if options.ddp_arguments.get("static_graph"):
            raise OptionError(f"ddp_arguments: static_graph=True is for one optimizer, but there are {names}")
    return optimizers


def _main_metric(
    options: TrainingOptions, trainer: Trainer, splits: Sequence[str], plugins: Sequence[BasePlugin[Any]]
) -> MainMetric | None:
    main = main_metric(options, trainer.metrics, splits)
    if main is not None and any(plugin.compares_epochs for plugin in plugins):
        main.check_direction()
    return main


def place_trainer(trainer: Trainer, options: TrainingOptions, processes: Processes) -> torch.device:
    """Return the device of the batches, and move loss and metrics to it; the model only if that was requested.

    A model on a GPU is moved too if several processes train together, each on a GPU of its own.

    Raises:
        OptionError: if an earlier training has sharded the model, or it cannot be moved.
    """
    if any(map(is_sharded, trainer.model.parameters())):
        raise OptionError(
            "the model was sharded by an earlier training (fsdp): create it anew, and load the weights that were "
            "saved, such as best-model.pt"
        )
    device = own = device_of(trainer.model, options.device)
    if options.device is not None or not is_spread(trainer.model):
        device = processes.device(own)
    if options.fsdp is not False:
        if is_spread(trainer.model):
            raise OptionError("fsdp: the model is spread over several devices: create it on the CPU")
        # Its units are moved one after the other, as the whole may be too large.
    elif options.device is not None or device != own:
        place(trainer.model, device, "model")
    if isinstance(trainer.loss, nn.Module):
        place(trainer.loss, device, "loss")
    for metric in trainer.metrics.values():
        metric.to(device)
    return device


def _evaluated_splits(corpus: Corpus, options: TrainingOptions, seed: int) -> dict[str, Data]:
    if options.monitor_test and corpus.test is None:
        raise OptionError("monitor_test is True, but there is no test split: give test=")
    splits = {name: data for name, data in ((options.dev_name, corpus.dev), ("test", corpus.test)) if data is not None}
    if options.monitor_train_sample:
        splits["train_sample"] = sample_of(corpus.train, options.monitor_train_sample, seed)
    return splits


def _seed(options: TrainingOptions, resumed: int | None, processes: Processes) -> int:
    """Return the given seed, after seeding torch's generator with it, or one drawn from that generator."""
    if resumed is not None:
        if options.seed not in (None, resumed):
            raise OptionError(f"seed is {options.seed}, but the training to resume has {resumed}: omit seed=")
        return resumed
    if options.seed is None:
        # Processes that train together need the same seed, and are not connected yet.
        return 0 if processes.several else int(torch.randint(2**31, ()))
    torch.manual_seed(options.seed)
    return options.seed


def check_savable(setup: TrainingSetup) -> None:
    """Check that model and optimizer can be saved.

    Raises:
        OptionError: if not; the message names what cannot.
    """
    states = [("model", setup.model.state_dict())]
    states += [("optimizer", optimizer.state_dict()) for optimizer in setup.optimizers.values()]
    for name, state in states:
        try:
            savable(state, f"the {name}'s state_dict")
        except UsageError as error:
            raise OptionError(str(error)) from None


def checked_folder(folder: str | PathLike[str]) -> Path:
    """Return the run's folder, if it exists or can be created.

    Raises:
        OptionError: if it, or one of its parents, is a file, or if it is not a path.
    """
    path = parse_folder(folder, "run_folder")
    for part in (path, *path.parents):
        if part.is_dir():
            break
        if part.exists():
            raise OptionError(f"run_folder is {path}, but {part} is a file: choose a folder")
    return path


def checked_corpus(train: Data | None, dev: Data | None, test: Data | None, corpus: Corpus | None) -> Corpus:
    """Return the corpus, which is given as one object or by its splits.

    Raises:
        OptionError: if it is given in both ways or in neither, or a split is invalid.
    """
    if corpus is None:
        if train is None:
            raise OptionError("there is no training data: give train= or corpus=")
        return Corpus(train, dev, test)
    if not isinstance(corpus, Corpus):
        raise OptionError(f"corpus is {corpus!r}; it must be a trainwire.Corpus")
    if (train, dev, test) != (None, None, None):
        raise OptionError("corpus= contains the splits: omit train=, dev= and test=")
    return corpus
