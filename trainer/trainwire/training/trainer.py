"""What a user calls to train a model: it gathers what is given, and hands it to the loop (`loop.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from torch import Tensor, nn

from trainwire.checkpointing.snapshot import check_fits, find_resumption
from trainwire.plugins.defaults import FINE_TUNE, TRAIN, Recipe
from trainwire.training.control import Control
from trainwire.training.data import Corpus, Data, inputs_and_target
from trainwire.training.distributed import Processes
from trainwire.training.dry_run import check_fit
from trainwire.training.hooks.filters import Filter
from trainwire.training.hooks.hooks import function_bindings
from trainwire.training.hooks.payloads import AfterTraining
from trainwire.training.hooks.plugin import Functions, Plugin, checked_plugins
from trainwire.training.loop import finish_model, result_of, train_epochs
from trainwire.training.metrics import named_metrics
from trainwire.training.models import checked_model
from trainwire.training.optimizers import in_decoder
from trainwire.training.options import TrainingOptionsDict
from trainwire.training.result import Result
from trainwire.training.run import TrainingRun
from trainwire.training.session import ending_hooks, session
from trainwire.training.setup import checked_corpus, checked_folder, hyperparameters, prepare, with_default_plugins
from trainwire.training.step import Forward
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from trainwire.training.metrics import Metrics

Function = TypeVar("Function", bound=Callable[..., Any])


class ModelTrainer:
    """Trains a model, and publishes what happens.

    Args:
        model: Any module. A batch is taken as inputs followed by a target, and the model called with the inputs;
            for anything else override `forward`.
        loss: Called with the model's output and the target; returns the mean of the batch, a tensor with one element.
        metrics: What is computed on the dev and test split, from torchmetrics: a mapping of names to metrics, a
            `MetricCollection`, or a list, whose metrics are named after their classes.
        plugins: Those that take part in each training.

    Raises:
        OptionError: the model cannot be trained, or a plugin or metric is none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Callable[..., Tensor] | None = None,
        metrics: Metrics | None = None,
        plugins: Sequence[Plugin] = (),
    ) -> None:
        if loss is None and not self.overrides_forward:
            raise OptionError("there is no loss: give loss=, a function of output and target, or override forward")
        if loss is not None and (not callable(loss) or isinstance(loss, type)):
            raise OptionError(f"loss is {loss!r}: it has to be a function of output and target")
        self.model = checked_model(model)
        self.loss = loss
        self.metrics = named_metrics(metrics)
        self.plugins = checked_plugins(plugins)
        self._functions = Functions()
        self._run: TrainingRun | None = None

    @property
    def run(self) -> TrainingRun:
        """The training that is running.

        Raises:
            UsageError: there is none now.
        """
        if self._run is None:
            raise UsageError("no training is running now: `run` and `control` exist while `train` runs")
        return self._run

    @property
    def control(self) -> Control:
        """What the running training is to do next: `control.stop("why")`."""
        return self.run.control

    def on(
        self, *names: str, every: int | None = None, once: int | None = None, split: str | None = None
    ) -> Callable[[Function], Function]:
        """Call a function at the named hooks, in each training from now on, after the plugins.

            @trainer.on("after_training_epoch")
            def report(epoch: AfterTrainingEpoch) -> None: ...

        `every`, `once` and `split` choose among the hook's calls, as for `@hook`.

        Raises:
            OptionError: a hook that does not exist, or a function that cannot be called with its payload.
        """

        def add(function: Function) -> Function:
            self._functions.added += function_bindings(
                names or (function.__name__,), function, Filter(every, once, split)
            )
            return function

        return add

    def forward(self, batch: Any) -> Forward:
        """The loss of a batch, and what the metrics compare. This is the method to override.

        It is called in training and, without gradients and with the model in evaluation mode, in evaluation.
        """
        if self.loss is None:
            raise UsageError("there is no loss: give loss=, or override forward without calling this one")
        inputs, target = inputs_and_target(batch)
        output = self.model(*inputs)
        return Forward(self.loss(output, target), output, target)

    @property
    def overrides_forward(self) -> bool:
        """Whether it is another `forward` than this class's."""
        return type(self).forward is not ModelTrainer.forward

    def is_decoder(self, name: str) -> bool:
        """Whether `decoder_learning_rate` is for the parameter of this name: in a part called so. May be overridden."""
        return in_decoder(name)

    def train(
        self,
        run_folder: str | PathLike[str],
        *,
        train: Data | None = None,
        dev: Data | None = None,
        test: Data | None = None,
        corpus: Corpus | None = None,
        plugins: Sequence[Plugin] = (),
        resume: bool = False,
        **options: Unpack[TrainingOptionsDict],
    ) -> Result:
        """Train the model, and leave everything about it in the run's folder.

        At the end the model has the best epoch's weights, if there is a dev split to choose by. The learning rate is
        lowered when the model no longer gets better, and training stops when it is too low.

        Args:
            run_folder: Holds the journal, the models and what the sinks write. If there is a run in it, this is its
                next attempt.
            train: What to train on: a Dataset or DataLoader of batches that are inputs followed by a target.
            dev: What to choose the best model by, after each epoch.
            test: What to test the best model on, at the end.
            corpus: The three in one.
            plugins: More plugins, for this training.
            resume: Go on from the latest checkpoint in the folder, as if the training had never stopped; begin anew
                if there is none. Give everything else as it was given before.
            **options: The options and their defaults; `TrainingOptionsDict` documents each of them:
                learning_rate=0.1, decoder_learning_rate=None, mini_batch_size=32, eval_batch_size=None,
                mini_batch_chunk_size=None, max_epochs=100, max_steps=None, optimizer=SGD, optimizer_arguments={},
                train_with_dev=False, train_with_test=False, max_grad_norm=5.0, main_evaluation_metric=None,
                monitor_test=False, monitor_train_sample=0.0, use_final_model_for_eval=False, sampler=None,
                shuffle=True, shuffle_first_epoch=True, save_final_model=True, save_optimizer_state=False,
                save_model_each_k_epochs=0, create_file_logs=True, create_loss_file=True, write_weights=False,
                use_amp=False, multi_gpu=None, attach_default_scheduler=True, seed=None, num_workers=0, device=None,
                dev_name='dev', default_plugins=True, sinks=('loss-file', 'log-file'), bind=None.

        Raises:
            OptionError: something that was given cannot be; no batch was read yet.
            RunInUseError: another process trains in this folder.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        return self._follow(TRAIN, run_folder, checked_corpus(train, dev, test, corpus), plugins, resume, options)

    def fine_tune(
        self,
        run_folder: str | PathLike[str],
        *,
        train: Data | None = None,
        dev: Data | None = None,
        test: Data | None = None,
        corpus: Corpus | None = None,
        plugins: Sequence[Plugin] = (),
        resume: bool = False,
        **options: Unpack[TrainingOptionsDict],
    ) -> Result:
        """Train a model that has learned already a little more, on what it is for.

        As `train`, but with AdamW at 5e-5, batches of 4, 10 epochs, a learning rate that rises over the first tenth of
        the updates and falls to nothing, and the last model as the result.
        """
        return self._follow(FINE_TUNE, run_folder, checked_corpus(train, dev, test, corpus), plugins, resume, options)

    def _follow(
        self,
        recipe: Recipe,
        folder: str | PathLike[str],
        corpus: Corpus,
        plugins: Sequence[Plugin],
        resume: bool,
        given: Mapping[str, Any],
    ) -> Result:
        options = recipe.options(given)
        attached = [*checked_plugins([*self.plugins, *checked_plugins(plugins)]), self._functions]
        everyone = with_default_plugins(attached, options, recipe)
        folder, processes = checked_folder(folder), Processes.from_environment(options.multi_gpu)
        resumption = find_resumption(folder, options, processes) if resume else None
        run = prepare(self, folder, corpus, options, processes, resumption.seed if resumption else None)
        if resumption:
            check_fits(resumption, run)
        check_fit(self, run)
        bus_state = resumption.state["bus"] if resumption else None
        with self._running(run), session(run, everyone, hyperparameters(run, self.loss), bus_state):
            with ending_hooks(run):
                train_epochs(self, run, resumption)
                test_metrics = finish_model(self, run)
            result = result_of(run, test_metrics)
            run.hooks.dispatch_to_all(AfterTraining(result))
        return result

    @contextmanager
    def _running(self, run: TrainingRun) -> Iterator[None]:
        if self._run is not None:
            raise UsageError("this trainer is training already: make one trainer for each training at a time")
        self._run = run
        try:
            yield
        finally:
            self._run = None
