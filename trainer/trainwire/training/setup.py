"""Checking everything that a training is given, before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from trainwire.plugins.best_model import BestModel
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.defaults import Recipe
from trainwire.plugins.epoch_models import EpochModels
from trainwire.plugins.regular_logging import RegularLogging
from trainwire.plugins.weight_extraction import WeightExtraction
from trainwire.training.data import Corpus, Data, evaluation_loader, sample_of, samples_of, training_loader
from trainwire.training.distributed import Processes
from trainwire.training.hooks.ordering import in_order
from trainwire.training.hooks.plugin import Plugin
from trainwire.training.metrics import main_metric
from trainwire.training.models import count_parameters, device_of
from trainwire.training.optimizers import Scheduler, make_optimizer
from trainwire.training.options import TrainingOptions, plain
from trainwire.training.precision import Precision
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.trainer import ModelTrainer

CHECKPOINT_MINUTES: Final = 15.0
"""How often a checkpoint is saved where no plugin says otherwise."""


def checked_folder(folder: str | PathLike[str]) -> Path:
    """The run's folder, if it is one or can become one.

    Raises:
        OptionError: it, or something above it, is a file.
    """
    if not isinstance(folder, (str, PathLike)) or not str(folder):
        raise OptionError(f"run_folder is {folder!r}: it has to be a path")
    path = Path(folder)
    for part in (path, *path.parents):
        if part.is_dir():
            break
        if part.exists():
            raise OptionError(f"run_folder is {path}, but {part} is a file: choose a folder")
    return path


def checked_corpus(train: Data | None, dev: Data | None, test: Data | None, corpus: Corpus | None) -> Corpus:
    """The corpus given whole or in parts.

    Raises:
        OptionError: it is given both ways or in neither, or a part is no data.
    """
    if corpus is None:
        if train is None:
            raise OptionError("there is nothing to train on: give train=, or corpus=")
        return Corpus(train, dev, test)
    if not isinstance(corpus, Corpus):
        raise OptionError(f"corpus is {corpus!r}: it has to be a trainwire.Corpus")
    if (train, dev, test) != (None, None, None):
        raise OptionError("corpus= holds the splits: leave train=, dev= and test= out")
    return corpus


def prepare(
    trainer: ModelTrainer,
    folder: Path,
    corpus: Corpus,
    options: TrainingOptions,
    processes: Processes,
    resumed_seed: int | None,
) -> TrainingRun:
    """A training that is ready to begin; nothing is opened, but model, loss and metrics are on the device.

    Args:
        resumed_seed: That of the training that is resumed, if one is.

    Raises:
        OptionError: things do not fit together.
    """
    seed, device = _seed(options, resumed_seed, processes), processes.device(device_of(trainer.model, options.device))
    corpus = corpus.merged(dev=options.train_with_dev, test=options.train_with_test)
    splits = _evaluated_splits(corpus, options, seed)
    watched = [split for split in splits if split != "test" or options.monitor_test]
    for module in (trainer.model, trainer.loss, *trainer.metrics.values()):
        if isinstance(module, nn.Module):
            module.to(device)
    return TrainingRun(
        folder=folder,
        model=trainer.model,
        options=options,
        seed=seed,
        device=device,
        processes=processes,
        optimizer=make_optimizer(trainer.model, options, trainer.is_decoder),
        precision=Precision(device, options.use_amp),
        metrics=trainer.metrics,
        main_metric=main_metric(options, trainer.metrics, watched),
        train_loader=training_loader(corpus.train, options, seed, device, processes),
        evaluation_loaders={name: evaluation_loader(data, options, device, processes) for name, data in splits.items()},
        split_sizes={"train": samples_of(corpus.train), **{name: samples_of(data) for name, data in splits.items()}},
    )


def _evaluated_splits(corpus: Corpus, options: TrainingOptions, seed: int) -> dict[str, Data]:
    if options.monitor_test and corpus.test is None:
        raise OptionError("monitor_test is True, but there is no test split: give test=")
    splits = {name: data for name, data in ((options.dev_name, corpus.dev), ("test", corpus.test)) if data is not None}
    if options.monitor_train_sample:
        splits["train_sample"] = sample_of(corpus.train, options.monitor_train_sample, seed)
    return splits


def _seed(options: TrainingOptions, resumed: int | None, processes: Processes) -> int:
    """The seed that was given, with which torch's generator then starts too; or one drawn from that generator."""
    if resumed is not None:
        if options.seed not in (None, resumed):
            raise OptionError(f"seed is {options.seed}, but the training that is resumed has {resumed}: leave it out")
        return resumed
    if options.seed is None:
        # Processes that train together need the same one, and have nothing in common yet.
        return 0 if processes.several else int(torch.randint(2**31, ()))
    torch.manual_seed(options.seed)
    return options.seed


def with_default_plugins(plugins: Sequence[Plugin], options: TrainingOptions, recipe: Recipe) -> tuple[Plugin, ...]:
    """The plugins between the default ones: the best model is known to all others, and what they did is logged last.

    Raises:
        OptionError: what the plugins declare of their order goes round in a circle.
    """
    _check_schedulers(plugins)
    first: list[Plugin] = [BestModel()] if options.default_plugins else []
    if options.attach_default_scheduler and not any(isinstance(plugin, Scheduler) for plugin in plugins):
        first.append(recipe.scheduler())
    last: list[Plugin] = [RegularLogging()] if options.default_plugins else []
    if options.default_plugins:
        last.append(Checkpoints(minutes=CHECKPOINT_MINUTES))
    if options.save_model_each_k_epochs:
        last.insert(0, EpochModels(options.save_model_each_k_epochs))
    if options.write_weights:
        last.insert(0, WeightExtraction())
    return in_order([*_without(first, plugins), *plugins, *_without(last, plugins)])


def _check_schedulers(plugins: Sequence[Plugin]) -> None:
    schedulers = [type(plugin).__name__ for plugin in plugins if isinstance(plugin, Scheduler)]
    if len(schedulers) > 1:
        raise OptionError(f"{' and '.join(schedulers)} each set the learning rate: leave all but one out")


def _without(defaults: Sequence[Plugin], plugins: Sequence[Plugin]) -> list[Plugin]:
    """The default plugins of which none was given."""
    return [default for default in defaults if not any(isinstance(plugin, type(default)) for plugin in plugins)]


def hyperparameters(run: TrainingRun, loss: object) -> dict[str, Any]:
    """What the run's `hparams` event holds: the options, and what the training consists of."""
    return run.options.as_hyperparameters() | {
        "seed": run.seed,
        "device": str(run.device),
        "model": type(run.model).__name__,
        "trainable_parameters": count_parameters(run.model),
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "metrics": list(run.metrics),
        "main_evaluation_metric": run.main_metric.name if run.main_metric else None,
        "samples": plain(run.split_sizes),
    }
