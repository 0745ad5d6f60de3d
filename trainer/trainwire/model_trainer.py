"""`ModelTrainer`, which users call to train a model: it checks its arguments, and runs the training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import torch
from torch import Tensor, nn

from trainwire.checkpointing.earlier_models import keep_earlier_models
from trainwire.checkpointing.snapshot import load_latest_checkpoint
from trainwire.checkpointing.trial_folder import can_resume, mark_folder
from trainwire.plugins.defaults import FINE_TUNE, TRAIN, Recipe, with_default_plugins
from trainwire.training.control import Control
from trainwire.training.data.batches import BatchStructure, to_device
from trainwire.training.data.loaders import Corpus, Data
from trainwire.training.data.outputs import joined
from trainwire.training.distributed.processes import Processes
from trainwire.training.forward import Forward
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.hooks.hooks import Filter, function_bindings
from trainwire.training.hooks.payloads import MetricValue, Result
from trainwire.training.inference import Inference, InferenceOptionsDict
from trainwire.training.loop import train_model
from trainwire.training.metrics import named_metrics
from trainwire.training.model.calls import ModelCalls, output_of, own_loss_of
from trainwire.training.model.losses import TokenLoss, checked_loss
from trainwire.training.model.models import BEST_MODEL, FINAL_MODEL, checked_model
from trainwire.training.model.optimizers import in_decoder
from trainwire.training.model.parameters import TrainedModules
from trainwire.training.model.saved_models import load_saved
from trainwire.training.options.options import TrainingOptions, TrainingOptionsDict
from trainwire.training.options.plugin_names import PluginByName
from trainwire.training.options.trial import trial_options
from trainwire.training.plugin import Functions, checked_plugins
from trainwire.training.run import TrainingRun
from trainwire.training.session import session
from trainwire.training.setup import check_savable, checked_corpus, checked_folder, prepare
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import parse_folder

if TYPE_CHECKING:
    from trainwire.training.metrics import Metrics

logger = logging.getLogger("trainwire")

Function = TypeVar("Function", bound=Callable[..., Any])


class ModelTrainer:
    """Trains a model, and publishes metrics and lifecycle events.

    Args:
        model: Any module. By default, a batch consists of inputs followed by a target, and the model is called with the
            inputs, or it is a mapping of the model's arguments; for anything else, override `forward`.
        loss: Called with the model's output and the target; returns the mean of the batch, a tensor without dimensions.
            It is weighted by the number of samples or, if it is one of torch's losses, by what it is a mean over.
            None: the model's result has a `loss`, or a subclass overrides `forward`.
        metrics: The torchmetrics metrics to compute on the dev and test split: a mapping of names to metrics, a
            `MetricCollection`, or a list, whose metrics are named after their classes.
        plugins: The plugins that take part in each training: instances, names such as `early-stopping`, or names with
            arguments such as `{"ema": {"decay": 0.999}}`.

    Raises:
        OptionError: if the model cannot be trained, or a plugin or metric is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Callable[..., Tensor] | None = None,
        metrics: Metrics | None = None,
        plugins: Sequence[BasePlugin[Any] | PluginByName] = (),
    ) -> None:
        if loss is not None and (not callable(loss) or isinstance(loss, type)):
            raise OptionError(f"loss is {loss!r}; it must be a function of output and target")
        checked_loss(loss)
        self.model = checked_model(model)
        self.loss = loss
        self.metrics = named_metrics(metrics)
        self.plugins = checked_plugins(plugins)
        self._functions = Functions()
        self._run: TrainingRun | None = None
        self._caller: str | None = None
        """The method that is being executed, of those that exclude each other."""
        self._known_calls: ModelCalls | None = None
        self._token_loss = TokenLoss()
        self._batch_structure = BatchStructure()
        self._warned_of_samples = False

    @property
    def run(self) -> TrainingRun:
        """The current training.

        Raises:
            UsageError: if no training is running.
        """
        if self._run is None:
            raise UsageError("no training is running: `run` and `control` are available only while `train` runs")
        return self._run

    @property
    def control(self) -> Control:
        """The means of making requests to the current training, such as `control.stop("why")`."""
        return self.run.control

    def on(
        self, *names: str, every: int | None = None, once: int | None = None, split: str | None = None
    ) -> Callable[[Function], Function]:
        """Call a function at the named hooks, in every training from now on, after the plugins.

            @trainer.on("after_training_epoch")
            def report(epoch: AfterTrainingEpoch) -> None: ...

        `every`, `once` and `split` select some of the hook's calls, as for `@hook`.

        Raises:
            OptionError: if a hook does not exist, or the function cannot be called with its payload.
        """

        def add(function: Function) -> Function:
            self._functions.added += function_bindings(
                names or (function.__name__,), function, Filter(every, once, split)
            )
            return function

        return add

    def forward(self, batch: Any) -> Forward:
        """Return the loss of a batch, and the output and target for the metrics.

        Override this method for other batches or losses. It is called in training and, without gradients and with the
        model in evaluation mode, in evaluation.

        By default, a batch that is a mapping is passed to the model by keyword, and any other by position. With a loss,
        the target is the key `labels`, `label`, `targets` or `target` of a mapping, or the last item of a tuple.
        Without one, the model's result has a `loss`; its `logits`, if it has some, are the output.

        Raises:
            UsageError: if the model cannot be called with the batch, or there is no loss.
        """
        call = self._calls.with_target(batch)
        result = self.model(*call.positional, **call.keywords)
        output = output_of(result) if self.loss is None or call.keywords else result
        if self.loss is not None:
            return Forward(self.loss(output, call.target), output, call.target)
        loss = own_loss_of(result, batch)
        return Forward(loss, output, call.target, self._token_loss.weight(loss, output, call.target))

    @property
    def _calls(self) -> ModelCalls:
        """How the model is called; anew if the program replaces the model."""
        if self._known_calls is None or self._known_calls.model is not self.model:
            self._known_calls, self._token_loss = ModelCalls(self.model, has_loss=self.loss is not None), TokenLoss()
        return self._known_calls

    @property
    def overrides_forward(self) -> bool:
        """Whether a subclass overrides `forward`."""
        return type(self).forward is not ModelTrainer.forward

    def forward_for(self, optimizer: str, batch: Any) -> Forward | None:  # noqa: ARG002  # for those that override it
        """Return the loss of a training batch for one optimizer; None if that makes no update in this step.

        By default, it is that of `forward`. Override this method if there are several optimizers, each of which has its
        own loss, or if training needs another loss than evaluation, which calls `forward`. In each step, it is called
        for one optimizer after the other has made its update.

        Args:
            optimizer: The optimizer's name; empty if there is only one, which makes an update in every step.
        """
        return self.forward(batch)

    @property
    def overrides_forward_for(self) -> bool:
        """Whether a subclass overrides `forward_for`."""
        return type(self).forward_for is not ModelTrainer.forward_for

    def samples_in_batch(self, batch: Any) -> int:
        """Return the number of samples in a batch. Override this method if it is counted wrongly.

        By default, it is the first dimension of the tensors, or the length of the lists of samples.
        """
        samples = self._batch_structure.count(batch)
        if samples is not None:
            return samples
        kind = type(batch).__name__
        if self._run is not None and self._run.options.mini_batch_chunk_size is not None:
            raise UsageError(
                f"mini_batch_chunk_size: it is unknown how many samples a batch, a {kind}, has: override "
                "ModelTrainer.samples_in_batch and split_batch, or omit mini_batch_chunk_size"
            )
        if not self._warned_of_samples:
            self._warned_of_samples = True
            logger.warning(
                "it is unknown how many samples a batch, a %s, has; each counts as one: override "
                "ModelTrainer.samples_in_batch", kind,
            )  # fmt: skip
        return 1

    def split_batch(self, batch: Any, size: int) -> Sequence[Any]:
        """Split a batch into chunks of `size` samples, of which the last one may be smaller.

        May be overridden. By default, everything with one row or item for each sample is split: tensors, lists, packed
        sequences, in tuples, maps, dataclasses and the like.

        Raises:
            UsageError: if a part of the batch cannot be split.
        """
        return self._batch_structure.split(batch, self.samples_in_batch(batch), size)

    def batch_to_device(self, batch: Any, device: torch.device) -> Any:
        """Return the batch with everything in it on the device. May be overridden.

        By default, tensors and objects with a method `to` are moved, in lists, tuples, maps, dataclasses and the like.
        """
        return to_device(batch, device)

    def is_decoder(self, name: str) -> bool:
        """Return whether `decoder_learning_rate` applies to the parameter of this name. May be overridden.

        By default, it applies to the parameters of parts called decoder, head or classifier.
        """
        return in_decoder(name)

    def train(
        self,
        run_folder: str | PathLike[str] = "",
        *,
        train: Data | None = None,
        dev: Data | None = None,
        test: Data | None = None,
        corpus: Corpus | None = None,
        resume: bool = False,
        options: TrainingOptions | str | PathLike[str] | None = None,
        **keywords: Unpack[TrainingOptionsDict],
    ) -> Result:
        """Train the model, and write everything about the training to the run's folder.

        At the end, the model has the best epoch's weights if there is a dev split. Unless a plugin sets the learning
        rate, it is halved when the model has not improved for more than three epochs, and the training stops before
        `max_epochs` when the rate would fall below 0.0001: `attach_default_scheduler=False` keeps it constant.

        Args:
            run_folder: Holds the journal, the models and the output of the sinks. If it contains a run, this training
                is the run's next attempt.
            train: The training data: a Dataset, or a DataLoader of batches that are inputs followed by a target.
            dev: The data on which models are compared, after each epoch.
            test: The data on which the best model is tested, at the end.
            corpus: All three splits, instead of `train`, `dev` and `test`.
            resume: Continue from the latest checkpoint in the folder, as if the training had not been interrupted;
                start from the beginning if there is none. A training that has ended returns its result, unless
                `max_epochs` or `max_steps` is larger than before. `docs/training.md` lists what else may differ.
            options: The options that are not given as keywords: a TOML file, or a `TrainingOptions`, which has a value
                for each of them.
            **keywords: The options and their defaults; `TrainingOptionsDict` documents each of them:
                learning_rate=0.1, decoder_learning_rate=None, mini_batch_size=32, eval_batch_size=None,
                mini_batch_chunk_size=None, accumulate_batches=1, max_epochs=100, max_steps=None,
                batches_per_epoch=None, optimizer=SGD, optimizer_arguments={}, parameter_groups=(),
                decay_biases_and_norms=True, trial_run=False, train_with_dev=False, train_with_test=False,
                max_grad_norm=5.0, main_evaluation_metric=None, main_evaluation_mode=None, try_metrics=True,
                monitor_test=False, monitor_train_sample=0.0, evaluate_each_k_steps=0, use_final_model_for_eval=False,
                sampler=None, batch_sampler=None, shuffle=True, shuffle_first_epoch=True, drop_last=False,
                collate_fn=None, save_final_model=True, save_optimizer_state=False, save_model_each_k_epochs=0,
                save_model_each_k_steps=0, create_file_logs=True, create_loss_file=True, write_weights=False,
                use_amp=False, compile=False, multi_gpu=None, ddp_arguments={}, fsdp=False, fsdp_arguments={},
                attach_default_scheduler=True, seed=None, num_workers=0, device=None, dev_name='dev', plugins=(),
                default_plugins=True, sinks=('loss-file', 'log-file'), bind=None, hparams=None, quiet=False.

        Raises:
            OptionError: if an argument is invalid; no batch was read yet.
            RunInUseError: if another process trains in this folder.
            KeyboardInterrupt: if Ctrl-C was pressed twice.
        """
        return self._train(TRAIN, run_folder, checked_corpus(train, dev, test, corpus), resume, options, keywords)

    def fine_tune(
        self,
        run_folder: str | PathLike[str] = "",
        *,
        train: Data | None = None,
        dev: Data | None = None,
        test: Data | None = None,
        corpus: Corpus | None = None,
        resume: bool = False,
        options: TrainingOptions | str | PathLike[str] | None = None,
        **keywords: Unpack[TrainingOptionsDict],
    ) -> Result:
        """Fine-tune a pretrained model.

        The same as `train`, but with AdamW at 5e-5, batches of 4, 10 epochs, a learning rate that rises over the first
        tenth of the updates and then decreases to zero, and the last model as the result.
        """
        return self._train(FINE_TUNE, run_folder, checked_corpus(train, dev, test, corpus), resume, options, keywords)

    def evaluate(
        self,
        data: Data,
        *,
        split: str | None = None,
        run_folder: str | PathLike[str] | None = None,
        **options: Unpack[InferenceOptionsDict],
    ) -> dict[str, MetricValue]:
        """Return the mean loss and the metrics of the model on any data, outside of a training.

        The modes of the modules and the random states are as before, at the end. Several processes, as torchrun starts
        them, divide a Dataset among themselves, and each returns the scores of all.

        Args:
            data: A Dataset, or a DataLoader of batches as for `train`.
            split: The name of the split, with which the names of the scores begin: `test/loss` instead of `loss`.
            run_folder: The folder of a run, or a new one, to which the scores are added as an attempt of their own.
            **options: The options and their defaults; `InferenceOptionsDict` documents each of them:
                mini_batch_size=32, collate_fn=None, num_workers=0, use_amp=False, multi_gpu=None, device=None,
                quiet=False.

        Raises:
            OptionError: if an argument is invalid.
            RunInUseError: if another process trains in this folder.
            UsageError: if this trainer is training; `control.evaluate()` requests an evaluation then.
        """
        if split is not None and (not isinstance(split, str) or not split or split.endswith("/")):
            raise OptionError(f"split is {split!r}; it must be a name such as 'test', or None")
        folder = None if run_folder is None else checked_folder(run_folder)
        with self._alone("evaluate"):
            return self._inference(data, options, "evaluate").scores(split, folder)

    def predict(self, data: Data, **options: Unpack[InferenceOptionsDict]) -> Any:
        """Return the model's outputs for any data, in the order of the samples, on the CPU.

        Tensors become one tensor or, if their shapes differ in more than the number of samples, a list with one tensor
        for each sample. Lists become one list, the parts of mappings and tuples are joined one by one, and everything
        else becomes a list with one item for each batch.

        Args:
            data: A Dataset, or a DataLoader, of batches as for `train`, with or without a target: see `predict_batch`.
            **options: As for `evaluate`.

        Raises:
            OptionError: if an argument is invalid.
            UsageError: if there is no batch, or this trainer is training.
        """
        outputs = list(self.predict_batches(data, **options))
        if not outputs:
            raise UsageError("data had no batches: check that its loader can be read again")
        return joined(outputs)

    def predict_batches(self, data: Data, **options: Unpack[InferenceOptionsDict]) -> Iterator[Any]:
        """Return an iterator of the outputs for each batch, as `predict` does for all, for data that does not fit.

        Until it is read to its end or closed, this trainer cannot do anything else. If several processes divide the
        data, each item is the output for one batch of each of them, and all processes get all of them.
        """
        with self._alone("predict_batches"):
            inference = self._inference(data, options, "predict")
        return self._read_alone(inference.outputs())

    def predict_batch(self, batch: Any) -> Any:
        """Return the model's output for a batch, for `predict`. May be overridden.

        By default, the model is called as in `forward`, but the batch need not have a target: the last item of a tuple
        or list is left out only if the model has fewer required arguments than there are items. Of the result, the
        `logits` are returned if it has some. If a subclass overrides `forward`, the output that it returns is the
        result, and the batch needs whatever it needs.

        Raises:
            UsageError: if the model cannot be called with the batch, or an overridden `forward` returns no output.
        """
        if self.overrides_forward:
            output = self.forward(batch).output
            if output is None:
                raise UsageError("forward returned no output: return Forward(loss, output), or override predict_batch")
            return output
        call = self._calls.without_target(batch)
        return output_of(self.model(*call.positional, **call.keywords))

    def load_best(self, run_folder: str | PathLike[str]) -> None:
        """Load the weights of a run's best epoch, `best-model.pt`, into the model, and those of its loss if it has any.

        Raises:
            OptionError: if the folder has no such file.
            UsageError: if the file cannot be read, or has the weights of another model, or this trainer is training.
        """
        self._load(run_folder, BEST_MODEL)

    def load_final(self, run_folder: str | PathLike[str]) -> None:
        """Load the weights of a run's last epoch, `final-model.pt`: see `load_best`."""
        self._load(run_folder, FINAL_MODEL)

    def _load(self, run_folder: str | PathLike[str], file_name: str) -> None:
        with self._alone("loading a model"):
            load_saved(TrainedModules(self.model, self.loss), parse_folder(run_folder, "run_folder"), file_name)

    def _inference(self, data: Data, options: Mapping[str, Any], caller: str) -> Inference:
        inference = Inference(self, data, options, caller)
        self._batch_structure = BatchStructure(inference.loader.batch_size)
        return inference

    def _read_alone(self, outputs: Iterator[Any]) -> Iterator[Any]:
        with self._alone("predict_batches"):
            yield from outputs

    def _train(
        self,
        recipe: Recipe,
        folder: str | PathLike[str],
        corpus: Corpus,
        resume: bool,
        given: TrainingOptions | str | PathLike[str] | None,
        keywords: Mapping[str, Any],
    ) -> Result:
        options = trial_options(TrainingOptions.from_keywords(keywords, recipe.name, given))
        attached = [*checked_plugins([*self.plugins, *checked_plugins(options.plugins)]), self._functions]
        ordered = with_default_plugins(attached, options, recipe)
        folder, processes = checked_folder(folder), Processes.from_environment(options.multi_gpu)
        resume = can_resume(folder, options) and resume
        checkpoint = load_latest_checkpoint(folder, options, processes) if resume else None
        setup = prepare(self, folder, corpus, options, ordered, processes, checkpoint.seed if checkpoint else None)
        check_savable(setup)
        self._batch_structure = BatchStructure(setup.train_loader.batch_size)
        if checkpoint:
            checkpoint.check(setup)
        bus_state = checkpoint.bus_state if checkpoint else None
        with self._alone("train"), session(setup, bus_state) as self._run:
            if checkpoint is None:
                keep_earlier_models(self._run)
                mark_folder(self._run)
            return train_model(self._run, checkpoint)

    @contextmanager
    def _alone(self, caller: str) -> Iterator[None]:
        if self._caller == caller == "train":
            raise UsageError("this trainer is already training: create one trainer for each concurrent training")
        if self._caller == "train":
            raise UsageError(
                f"{caller}: this trainer is training; wait for its end, or request an evaluation in a hook with "
                "control.evaluate()"
            )
        if self._caller is not None:
            raise UsageError(f"{caller}: {self._caller} of this trainer is not finished: read its outputs to the end")
        self._caller = caller
        try:
            yield
        finally:
            self._run = self._caller = None
