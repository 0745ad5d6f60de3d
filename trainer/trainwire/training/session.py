"""A session: the resources that are opened for a training, and closed in reverse order at its end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeAlias

from torch.utils.data import IterableDataset

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.bus.process_end import is_default_handler
from trainwire.bus.sink_processes import SinkProcesses
from trainwire.training.control import Control
from trainwire.training.data.failures import with_notes
from trainwire.training.data.loaders import divides_samples
from trainwire.training.data.streams import repeated_readers
from trainwire.training.distributed.processes import Processes, connected, note_remedy
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.hooks.payloads import Payload, Status, TrainingException, TrainingFinally, TrainingInterrupt
from trainwire.training.model.compilation import compiled
from trainwire.training.run import TrainingRun
from trainwire.training.setup import TrainingSetup, sharded

SINK_TIMEOUT = 10.0
"""How long to wait for the sinks at the end, in seconds."""

_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | signal.Handlers

_DEFAULT_HANDLERS: Final[dict[signal.Signals, Callable[[object], bool]]] = {
    signal.SIGINT: lambda handler: handler is signal.default_int_handler,
    signal.SIGTERM: is_default_handler,
}
"""The signals that stop a training, each with a function that returns whether a handler is the default one."""

logger = logging.getLogger("trainwire")


@contextmanager
def session(setup: TrainingSetup, bus_state: Mapping[str, Any] | None = None) -> Iterator[TrainingRun]:
    """Open what a training needs, and yield its run: the other processes, the bus, sinks, logging, plugins, signals.

    Args:
        bus_state: The position in the journal from which the run is resumed; None if it is not.
    """
    is_sharded = setup.options.fsdp is not False
    with connected(setup.processes, setup.device, even_alone=is_sharded) as processes:
        if is_sharded:
            setup = sharded(setup, processes)
        with published(setup, processes, bus_state) as run:
            warn_of_shared_data(run)
            try:
                with (
                    logging_to(run.bus), attached(run), interruptible(run.control),
                    compiled(run.model, setup.compilation),
                ):  # fmt: skip
                    yield run
            finally:
                run.forward.release()


@contextmanager
def published(setup: TrainingSetup, processes: Processes, bus_state: Mapping[str, Any] | None) -> Iterator[TrainingRun]:
    """Open the bus, start the sinks, and close the bus with the training's status and reason."""
    control, sinks, timeout = Control(), SinkProcesses(), SINK_TIMEOUT
    bus = open_bus(
        setup.folder, hparams=setup.hyperparameters(), rank=processes.rank, world_size=processes.world_size,
        state=bus_state, bind=setup.options.bind, quiet=setup.options.quiet,
    )  # fmt: skip
    bus.on_command(control.send)
    try:
        run = TrainingRun(setup, processes, bus, control)
    except BaseException as error:
        status, reason = ending_of(error)
        bus.close(status=status, reason=reason)
        raise
    try:
        if processes.is_first:
            sinks.start(run.options.sinks_to_start, run.folder, processes.rank)
        yield run
    except BaseException as error:
        run.end(*ending_of(error))
        timeout = 0.0 if isinstance(error, KeyboardInterrupt) else SINK_TIMEOUT
        raise
    finally:
        bus.on_command(None)
        for command in control.take_commands():
            about = {"id": command.id, "verb": command.verb, "reason": "the training is ending"}
            run.publish("command/rejected", about)
        bus.close(status=run.status, reason=run.reason)
        sinks.wait(timeout)


def warn_of_shared_data(run: TrainingRun) -> None:
    """Warn if processes or workers may read the same samples, or processes have different numbers of batches."""
    for split, loader in {"train": run.train_loader, **run.evaluation_loaders}.items():
        if (readers := repeated_readers(loader, run.processes)) > 1:
            logger.warning(
                "%s is a stream that %d processes or workers read: each reads all of it, unless the stream divides "
                "itself; with trainwire.DividedStream(stream), each takes every n-th sample", split, readers,
            )  # fmt: skip
    is_divided = divides_samples(run.train_loader) or isinstance(run.train_loader.dataset, IterableDataset)
    if run.processes.several and not is_divided:
        logger.warning("each process reads all of train, unless its sampler or its dataset divides the samples")
    if run.is_uneven:
        logger.info("each epoch ends in all processes when one of them has no more batches")


@contextmanager
def logging_to(bus: EventBus) -> Iterator[None]:
    """Publish this training's records of the logger `trainwire`, from INFO on, except those that are events already."""
    handler = bus.logging_handler()
    handler.addFilter(lambda record: not getattr(record, "on_the_wire", False))
    _LOGGER_LEVEL.raise_to_info()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        _LOGGER_LEVEL.restore()


class _LoggerLevel:
    """Sets the level of the logger `trainwire` while trainings run, of which there may be several at once."""

    def __init__(self) -> None:
        self._trainings, self._level = 0, logging.NOTSET
        self._lock = threading.Lock()

    def raise_to_info(self) -> None:
        """Set the level to INFO, unless the program has set one."""
        with self._lock:
            self._trainings += 1
            if self._trainings == 1:
                self._level = logger.level
                logger.setLevel(logger.level or logging.INFO)

    def restore(self) -> None:
        """Set the level as it was before, if this was the last training."""
        with self._lock:
            self._trainings -= 1
            if self._trainings == 0:
                logger.setLevel(self._level)


_LOGGER_LEVEL: Final = _LoggerLevel()


@contextmanager
def attached(run: TrainingRun) -> Iterator[None]:
    """Attach the plugins to the run, and detach them in reverse order."""
    attached_plugins: list[BasePlugin[Any]] = []
    try:
        for plugin in run.plugins:
            plugin.attach(run)
            attached_plugins.append(plugin)
        yield
    finally:
        for plugin in reversed(attached_plugins):
            plugin.detach()


@contextmanager
def interruptible(control: Control) -> Iterator[None]:
    """Stop after the current step on the first Ctrl-C or SIGTERM, and at once on a Ctrl-C after that.

    Further SIGTERMs are ignored: a cluster sends the signal to every process, and torchrun forwards the one it gets.

    Only default handlers are replaced, and that of a training in one of whose hooks this one runs; they are
    restored at the end. A handler set by the program, or a signal that is ignored, is kept. Outside the main thread,
    where handlers cannot be set, this does nothing.

    Raises:
        KeyboardInterrupt: on the second signal, if it is Ctrl-C, from anywhere in the training.
    """

    replaced: dict[signal.Signals, _Handler] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, is_default in _DEFAULT_HANDLERS.items():
                handler: Any = signal.getsignal(number)
                if is_default(handler) or isinstance(handler, _Interrupt):
                    replaced[number] = handler
                    signal.signal(number, _Interrupt(control, handler))
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


class _Interrupt:
    """The handler of a signal during a training, and of one that runs inside a hook of another, which it passes on."""

    def __init__(self, control: Control, outer: _Handler) -> None:
        self._control, self._outer = control, outer

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._control.is_signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._control.interrupt("Ctrl-C" if number == signal.SIGINT else "SIGTERM")
        if isinstance(self._outer, _Interrupt):
            self._outer(number, frame)


@contextmanager
def ending_hooks(run: TrainingRun) -> Iterator[None]:
    """Call `training_finally` at the end; after an error, call `training_interrupt` or `training_exception` first."""
    try:
        yield
    except BaseException as error:
        if run.processes.several:
            note_remedy(error)
        run.end(*ending_of(error))
        is_interrupt = isinstance(error, KeyboardInterrupt)
        _dispatch_safely(run, TrainingInterrupt(run.reason) if is_interrupt else TrainingException(error))
        _dispatch_safely(run, TrainingFinally(run.status, run.reason))
        raise
    _note_signal(run)
    run.hooks.dispatch_to_all(TrainingFinally(run.status, run.reason))
    _note_signal(run)


def _note_signal(run: TrainingRun) -> None:
    """Set the status after a signal that arrived too late to interrupt anything, so that the caller knows of it."""
    if run.control.signal is not None:
        run.end("interrupted", run.control.signal)


def ending_of(error: BaseException) -> tuple[Status, str]:
    """Return the status and the reason of a training that `error` ended."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"
    return "failed", with_notes(error)


def _dispatch_safely(run: TrainingRun, payload: Payload) -> None:
    """Call a hook while an error is being raised, which an error of a plugin must not replace."""
    try:
        run.hooks.dispatch_to_all(payload)
    except Exception as error:
        logger.exception("a plugin failed while the training was ending: %s", error)
