"""A logger and its handlers for Ignite."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from os import PathLike
from types import TracebackType
from typing import Any

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.bus.process_end import status_of
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import OptionError

require("pytorch-ignite", "0.5", extra="ignite")

import ignite.distributed as idist  # noqa: E402  # `require` explains why it cannot be imported
from ignite.engine import Engine, Events  # noqa: E402
from ignite.handlers.base_logger import BaseLogger, BaseOptimizerParamsHandler, BaseOutputHandler  # noqa: E402
from ignite.handlers.base_logger import BaseWeightsScalarHandler as BaseWeightsHandler  # noqa: E402


class TrainwireLogger(BaseLogger):
    """Publishes what its handlers log: `with TrainwireLogger("runs/mine") as logger: ...`.

    `attach_output_handler` and `attach_opt_params_handler` are those of Ignite's other loggers, and record the names
    and steps of its `TensorboardLogger`. All methods of the bus may be called on the logger: `logger.image(...)`. As
    the block ends, the run ends too: finished, failed or interrupted.

    Each process that makes a logger records its own rank. Make it in one process if only that one logs.

    Args:
        run_folder: The run's folder.
        **options: Options of `trainwire.open_bus`, such as `hparams`, `append=True` to add to an earlier run, or
            `rank=0, world_size=1` where only one of several processes logs.

    Raises:
        MissingExtraError: if Ignite is not installed or too old; raised when this module is imported.
        OptionError: if an option is invalid.
        RunInUseError: if another process records in this folder.
    """

    def __init__(self, run_folder: str | PathLike[str], **options: Any) -> None:
        # Without `idist.initialize`, Ignite takes each process for the only one; the launcher's variables say more.
        is_initialized = idist.get_world_size() > 1
        ranks = {"rank": idist.get_rank(), "world_size": idist.get_world_size()} if is_initialized else {}
        try:
            self.bus: EventBus = open_bus(run_folder, **{**ranks, **options})
        except TypeError as error:
            raise OptionError(f"TrainwireLogger: {error}") from None

    def __getattr__(self, name: str) -> Any:
        """Return a method of the bus."""
        if name == "bus":  # not set: `open_bus` has failed, or the logger is being copied
            raise AttributeError(name)
        return getattr(self.bus, name)

    def attach_epochs(self, engine: Engine) -> None:
        """Record the epochs of a trainer, so that monitors show its progress, and loss.tsv has a row for each.

        An epoch ends when the next one begins, after all handlers of `EPOCH_COMPLETED`, such as an evaluation.
        """
        state: dict[str, int | None] = {"epoch": None}

        def finish(_: Engine) -> None:
            if state["epoch"] is not None:
                self.bus.finish_epoch(state["epoch"])
                state["epoch"] = None

        def start(trainer: Engine) -> None:
            finish(trainer)
            state["epoch"] = trainer.state.epoch
            self.bus.start_epoch(trainer.state.epoch, trainer.state.max_epochs)

        engine.add_event_handler(Events.EPOCH_STARTED, start)
        engine.add_event_handler(Events.COMPLETED, finish)

    def close(self) -> None:
        """Close the bus."""
        self.bus.close()

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the bus, with the status and reason of an exception that ended the block."""
        status, reason = status_of(value)
        self.bus.close(status=status, reason=reason)

    def _create_output_handler(self, *args: Any, **kwargs: Any) -> OutputHandler:
        return OutputHandler(*args, **kwargs)

    def _create_opt_params_handler(self, *args: Any, **kwargs: Any) -> OptimizerParamsHandler:
        return OptimizerParamsHandler(*args, **kwargs)


class OutputHandler(BaseOutputHandler):
    """Publishes the output, metrics or attributes of an engine; the arguments are those of Ignite's other handlers."""

    def __call__(self, engine: Engine, logger: TrainwireLogger, event_name: Any) -> None:
        """Publish at the step of `global_step_transform`, or of the event.

        Raises:
            TypeError: if that step is not an integer.
        """
        _check_logger(self, logger)
        metrics = self._setup_output_metrics_state_attrs(engine, log_text=True, key_tuple=False)
        step = self.global_step_transform(engine, event_name)
        if not isinstance(step, int):
            raise TypeError(f"global_step_transform returns {step!r:.60}; it must return an integer")
        _publish(logger.bus, metrics, step)


class OptimizerParamsHandler(BaseOptimizerParamsHandler):
    """Publishes a parameter of an optimizer, such as `lr`, for each group."""

    def __call__(self, engine: Engine, logger: TrainwireLogger, event_name: Any) -> None:
        """Publish at the step of the event."""
        _check_logger(self, logger)
        prefix = f"{self.tag}/" if self.tag else ""
        values = {
            f"{prefix}{self.param_name}/group_{number}": float(group[self.param_name])
            for number, group in enumerate(self.optimizer.param_groups)
        }
        logger.bus.log(values, step=engine.state.get_event_attrib_value(event_name))


class WeightsScalarHandler(BaseWeightsHandler):
    """Publishes a number for each weight of a model, such as its norm."""

    def __call__(self, engine: Engine, logger: TrainwireLogger, event_name: Any) -> None:
        """Publish at the step of the event."""
        _check_logger(self, logger)
        prefix = f"{self.tag}/" if self.tag else ""
        values = {
            f"{prefix}weights_{self.reduction.__name__}/{name.replace('.', '/')}": self.reduction(weight.data)
            for name, weight in self.weights
        }
        logger.bus.log(values, step=engine.state.get_event_attrib_value(event_name))


def _check_logger(handler: object, logger: object) -> None:
    if not isinstance(logger, TrainwireLogger):
        raise RuntimeError(f"{type(handler).__name__} works only with TrainwireLogger, not {type(logger).__name__}")


def _publish(bus: EventBus, values: Mapping[str, Any], step: int) -> None:
    """Publish numbers as scalars, and all else as texts."""
    scalars = {name: value for name, value in values.items() if isinstance(value, numbers.Number)}
    if scalars:
        bus.log(scalars, step=step)
    for name, value in values.items():
        if name not in scalars:
            bus.text(name, value, step=step)
