"""Reading the training batches of an epoch, from its beginning or from where a resumed training was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from trainwire.training.data import samplers_of, set_epoch
from trainwire.training.random_states import random_states, restore_random_states
from trainwire_protocol.errors import InterruptedReadingError, UsageError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun


def training_batches(run: TrainingRun) -> Iterator[tuple[int, Any]]:
    """The batches that the epoch has still to be trained on, each with its number from 1.

    In a resumed epoch the batches that it was trained on already are read once more and dropped, with the random
    states that the epoch began with, so that whatever the data draws is drawn again. A loader that has a state, such as
    torchdata's `StatefulDataLoader`, goes to its place itself.

    Raises:
        InterruptedReadingError: see there.
    """
    epoch, loader = run.state.epoch, run.train_loader
    set_epoch(loader, epoch.number)
    resumed, run.resumed_random = run.resumed_random, None
    if resumed is not None and run.epoch_is_over:
        restore_random_states(resumed, generators_of(run))
        return
    if resumed is None:
        epoch.began_with = random_states(generators_of(run))
        batches: Iterator[Any] = iter(loader)
    else:
        restore_random_states(epoch.began_with, generators_of(run))
        batches = _from(loader, epoch.batch, epoch.loader_state)
        restore_random_states(resumed, generators_of(run))
    try:
        yield from enumerate(batches, start=epoch.batch + 1)
    except RuntimeError as error:
        if run.control.is_signalled and not run.processes.several:
            raise InterruptedReadingError("a worker got the signal too, and ended") from error
        raise


def loader_state(loader: DataLoader[Any]) -> dict[str, Any] | None:
    """The loader's own word on its place, if it has one."""
    return loader.state_dict() if _has_state(loader) else None  # type: ignore[attr-defined]  # it has


def _from(loader: DataLoader[Any], done: int, state: dict[str, Any] | None) -> Iterator[Any]:
    if state is not None and _has_state(loader):
        loader.load_state_dict(state)  # type: ignore[attr-defined]  # as it has a state
        return iter(loader)
    batches = iter(loader)
    for number in range(done):
        if next(batches, batches) is batches:
            raise UsageError(f"train has {number} batches, but the training that is resumed was behind batch {done}")
    return batches


def _has_state(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def generators_of(run: TrainingRun) -> list[torch.Generator]:
    """The generators of random numbers that loaders and samplers have of their own."""
    loaders = [run.train_loader, *run.evaluation_loaders.values()]
    owners = [owner for loader in loaders for owner in (loader, *samplers_of(loader))]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
