"""What is opened for a training, and closed in the reverse order at its end, whichever that is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trainwire.bus.bus import EventBus
from trainwire.bus.open import open_bus
from trainwire.training.control import Agreement
from trainwire.training.data import EpochLoader, length_of
from trainwire.training.distributed import together
from trainwire.training.hooks.hooks import Hooks
from trainwire.training.hooks.isolation import isolated
from trainwire.training.hooks.payloads import Payload, Status, TrainingException, TrainingFinally, TrainingInterrupt
from trainwire.training.hooks.plugin import Plugin
from trainwire.training.run import TrainingRun
from trainwire.training.signals import interruptible
from trainwire.training.sink_processes import SinkProcesses
from trainwire_protocol.errors import UsageError

SINK_TIMEOUT = 10.0
"""How long the sinks are waited for at the end, in seconds."""

logger = logging.getLogger("trainwire")


@contextmanager
def session(
    run: TrainingRun,
    plugins: Sequence[Plugin],
    hparams: Mapping[str, Any],
    bus_state: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Open what a training needs beside itself: the other processes, the bus, sinks, log records, plugins, signals.

    Args:
        bus_state: Where the run is resumed from, if it is.
    """
    with together(run.processes, run.device) as run.processes, published(run, hparams, bus_state):
        run.agreement = Agreement(run.processes.group)
        run.attempt = run.processes.largest(run.bus.attempt)
        check_shares(run)
        with logging_to(run.bus), attached(run, plugins), interruptible(run.control):
            yield


def check_shares(run: TrainingRun) -> None:
    """See that processes that train together have as many batches each, or one would wait for ever.

    Raises:
        UsageError: they have not.
    """
    if not run.processes.several:
        return
    batches = length_of(run.train_loader) or 0
    most, fewest = run.processes.largest(batches), -run.processes.largest(-batches)
    if most != fewest:
        raise UsageError(f"one process has {fewest} batches and another {most}: give each as many")
    if not isinstance(run.train_loader, EpochLoader):
        logger.warning("train is a DataLoader: each process reads all that it gives, unless its sampler shares it out")


@contextmanager
def published(run: TrainingRun, hparams: Mapping[str, Any], bus_state: Mapping[str, Any] | None) -> Iterator[None]:
    """The bus and the sinks, which are told at the end how the training ended."""
    sinks, patience = SinkProcesses(), SINK_TIMEOUT
    rank, world_size = run.processes.rank, run.processes.world_size
    run.bus = open_bus(
        run.folder, hparams=hparams, rank=rank, world_size=world_size, state=bus_state, bind=run.options.bind
    )
    run.bus.on_command(run.control.send)
    try:
        if run.processes.is_first:
            sinks.start(run.options.sinks_to_start, run.folder, rank)
        yield
    except BaseException as error:
        run.end(*ending_of(error))
        patience = 0.0 if isinstance(error, KeyboardInterrupt) else SINK_TIMEOUT
        raise
    finally:
        run.bus.on_command(None)
        for command in run.control.take_commands():
            about = {"id": command.id, "verb": command.verb, "reason": "the training is ending"}
            run.publish("command/rejected", about)
        run.bus.close(status=run.status, reason=run.reason)
        sinks.wait(patience)


@contextmanager
def logging_to(bus: EventBus) -> Iterator[None]:
    """Let the records of the logger `trainwire`, from INFO on, go onto the wire, but for what is there as an event."""
    handler, level = bus.logging_handler(), logger.level
    handler.addFilter(lambda record: not getattr(record, "on_the_wire", False))
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def attached(run: TrainingRun, plugins: Sequence[Plugin]) -> Iterator[None]:
    """Let the plugins take part in the run, and leave it in the reverse order."""
    taking_part: list[Plugin] = []
    run.plugins = plugins
    try:
        for plugin in plugins:
            plugin.attach(run)
            taking_part.append(plugin)
        run.hooks = Hooks(binding for plugin in plugins for binding in isolated(plugin, run))
        yield
    finally:
        run.hooks, run.plugins = Hooks(), ()
        for plugin in reversed(taking_part):
            plugin.detach()


@contextmanager
def ending_hooks(run: TrainingRun) -> Iterator[None]:
    """Call the hooks of an ending: `training_interrupt` or `training_exception`, if it is one; `training_finally`."""
    try:
        yield
    except BaseException as error:
        run.end(*ending_of(error))
        is_interrupt = isinstance(error, KeyboardInterrupt)
        _tell_all(run, TrainingInterrupt(run.reason) if is_interrupt else TrainingException(error))
        _tell_all(run, TrainingFinally(run.status, run.reason))
        raise
    run.hooks.dispatch_to_all(TrainingFinally(run.status, run.reason))


def ending_of(error: BaseException) -> tuple[Status, str]:
    """The status and the reason of a training that was ended by `error`."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"
    return "failed", f"{type(error).__name__}: {error}".removesuffix(": ")


def _tell_all(run: TrainingRun, payload: Payload) -> None:
    """Call a hook while an error is on its way, which is not to be replaced by a plugin's."""
    try:
        run.hooks.dispatch_to_all(payload)
    except Exception as error:
        logger.exception("a plugin failed while the training was ending: %s", error)
