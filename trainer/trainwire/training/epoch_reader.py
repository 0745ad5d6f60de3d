"""The training batches of an epoch, read from its start or from where a resumed training stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainwire.training.data.loaders import samplers_of, set_epoch
from trainwire.training.interruption import LOADER_ERRORS, until_interrupted
from trainwire.training.run import TrainingRun
from trainwire.training.state import random_states, restore_random_states
from trainwire_protocol.errors import InterruptedReadingError, UsageError


def training_batches(run: TrainingRun) -> Iterator[tuple[int, Any]]:
    """Yield the batches that remain in the epoch, each with its number, which counts from 1.

    In a resumed epoch, the batches that were already trained on are read again and dropped, with the random states with
    which the epoch started, so that the data draws the same random numbers. A loader that has a state, such as
    torchdata's `StatefulDataLoader`, restores its position itself.

    Raises:
        InterruptedReadingError: if a signal ended a worker of the loader, or arrived while batches were dropped.
    """
    epoch, loader = run.state.epoch, run.train_loader
    set_epoch(loader, epoch.number)
    resumed = epoch.resumed_random
    batches: Iterator[Any] = iter(())
    if resumed is None:
        epoch.began_with = random_states(generators_of(run))
        batches = iter(loader)
    elif epoch.exhausted:
        _restore_position(loader, epoch.loader_state)  # for the next epoch
    elif not run.epoch_is_over:
        restore_random_states(epoch.began_with, generators_of(run))
        batches = _batches_after(run, epoch.batch, epoch.loader_state)
    if resumed is not None:
        restore_random_states(resumed, generators_of(run))
        epoch.resumed_random = None  # only now, as a checkpoint that is saved before needs it
    if run.is_uneven:
        batches = run.processes.while_all_have(batches)
    try:
        yield from enumerate(batches, start=epoch.batch + 1)
    except LOADER_ERRORS as error:
        if run.control.is_signalled and not run.processes.several:
            raise InterruptedReadingError("a worker of the loader was ended by the signal") from error
        raise


def loader_state(loader: DataLoader[Any]) -> dict[str, Any] | None:
    """Return the loader's `state_dict`, if it has one."""
    return loader.state_dict() if _has_state(loader) else None  # type: ignore[attr-defined]  # it has


def _batches_after(run: TrainingRun, done: int, state: dict[str, Any] | None) -> Iterator[Any]:
    is_restored = _restore_position(run.train_loader, state)
    batches = iter(run.train_loader)
    for number in until_interrupted(run, range(0 if is_restored else done)):
        if next(batches, batches) is batches:
            raise UsageError(f"train has {number} batches, but the training to resume had read {done}")
    return batches


def _restore_position(loader: DataLoader[Any], state: dict[str, Any] | None) -> bool:
    """Restore the loader's position, and return whether it has one."""
    if state is None or not _has_state(loader):
        return False
    loader.load_state_dict(state)  # type: ignore[attr-defined]  # it has it
    return True


def _has_state(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def generators_of(run: TrainingRun) -> list[torch.Generator]:
    """Return the random number generators that belong to the loaders and samplers."""
    loaders = [run.train_loader, *run.evaluation_loaders.values()]
    owners = [owner for loader in loaders for owner in (loader, *samplers_of(loader))]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
