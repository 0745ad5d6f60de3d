"""The training batches of an epoch, read from its start or from where a resumed training stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainwire.training.data.loaders import samplers_of, set_epoch
from trainwire.training.data.streams import part_with_position
from trainwire.training.interruption import LOADER_ERRORS, until_interrupted
from trainwire.training.run import TrainingRun
from trainwire.training.state import DataPosition, random_states, restore_random_states
from trainwire_protocol.errors import InterruptedReadingError, UsageError


class EpochReader:
    """Reads the training batches, in passes over the training data.

    An epoch is one pass. With `batches_per_epoch`, it has that many batches, and continues the pass where the epoch
    before it stopped reading; at the end of a pass the next one begins.

    In a resumed pass, the batches that were already read are read again and dropped, with the random states with which
    the pass started, so that the data draws the same random numbers. A loader that has a state, such as torchdata's
    `StatefulDataLoader`, restores its position itself, and so does a stream that is read in this process.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._position = DataPosition()
        """Ahead of that of the training's state while a group is read."""
        self._batches: Iterator[Any] | None = None
        """What remains of the pass; None at first, and if nothing of it is to be read."""
        self._is_cut = False
        """Whether the pass, if it ends now, was not read to its end in this process."""

    def start_epoch(self) -> None:
        """Begin a pass, or go to the position of the resumed training.

        Raises:
            InterruptedReadingError: if a signal arrived while batches were dropped.
        """
        run, position = self._run, self._run.state.position
        resumed, continues = position.resumed_random, run.options.batches_per_epoch is not None
        if resumed is not None and self._epoch_is_read and not position.exhausted:
            _restore_position(run.train_loader, position, is_over=True)
            restore_random_states(resumed, generators_of(run))
            position.resumed_random = None
            self._position = replace(position)
            return
        self._position = replace(position)
        if position.is_resumed and position.number and (continues or resumed is not None):
            self._batches = self._resumed_pass()
        elif self._batches is None or not continues:
            _restore_position(run.train_loader, position, is_over=True)
            self._batches = self._next_pass()
        run.state.position = replace(self._position)

    def groups(self) -> Iterator[Sequence[Any]]:
        """Yield the batches that remain in the epoch in groups, one for each update; the last one may be smaller.

        The epoch's number of batches and the position in the data are those after the group when it is yielded.

        Raises:
            InterruptedReadingError: if a signal ended a worker of the loader.
            UsageError: if the loader has no batches when it is read again within the epoch.
        """
        run, batches = self._run, self._remaining()
        try:
            while group := self._read_group(batches):
                run.state.epoch.batch += len(group)
                run.state.position = replace(self._position)
                yield group
            run.state.position = replace(self._position)
        finally:
            if run.options.batches_per_epoch is None:
                self.close()

    def close(self) -> None:
        """Release the loader's workers."""
        self._batches = None

    def _read_group(self, batches: Iterator[Any]) -> list[Any]:
        try:
            return list(islice(batches, self._run.options.accumulate_batches))
        except LOADER_ERRORS as error:
            if self._run.control.is_signalled and not self._run.processes.several:
                if self._position.number != self._run.state.position.number:  # the resumed training begins it again
                    restore_random_states(self._position.began_with, generators_of(self._run))
                raise InterruptedReadingError("a worker of the loader was ended by the signal") from error
            raise

    @property
    def _epoch_is_read(self) -> bool:
        """Whether the epoch has no more batches, because it was resumed at its end, or has fewer than before."""
        run, limit = self._run, self._run.options.batches_per_epoch
        return run.epoch_is_over or (limit is not None and run.state.epoch.batch >= limit)

    def _remaining(self) -> Iterator[Any]:
        """Yield the batches that remain in the epoch, across the end of a pass if `batches_per_epoch` is given."""
        number, limit = self._run.state.epoch.batch, self._run.options.batches_per_epoch
        while not self._epoch_is_read and self._batches is not None:
            for batch in self._batches if limit is None else islice(self._batches, limit - number):
                self._position.batches += 1
                number += 1
                yield batch
            if number == limit:
                return
            self._position.exhausted, self._position.is_cut = True, self._is_cut
            if limit is None:
                return
            if not self._position.batches:
                raise UsageError(
                    f"train had no batches in pass {self._position.number}: check that its loader can be read again"
                )
            self._batches = self._next_pass()

    def _next_pass(self) -> Iterator[Any]:
        run, number = self._run, self._position.number + 1
        set_epoch(run.train_loader, number)
        self._position = DataPosition(number, began_with=random_states(generators_of(run)))
        return self._of_all_processes(iter(run.train_loader))

    def _resumed_pass(self) -> Iterator[Any]:
        """Return what remains of the pass that a checkpoint was saved in, and restore the random states."""
        run, position = self._run, self._position
        random = position.resumed_random or random_states(generators_of(run))
        set_epoch(run.train_loader, position.number)
        self._is_cut, batches = position.is_cut, iter(list[Any]())
        if position.exhausted:
            _restore_position(run.train_loader, position)  # for the next pass
        else:
            restore_random_states(position.began_with, generators_of(run))
            batches = self._of_all_processes(self._after(position))
        restore_random_states(random, generators_of(run))
        # Only now, as a checkpoint that is saved before needs them.
        self._position = replace(
            position, is_resumed=False, resumed_random=None, loader_state=None, is_divided_again=False
        )
        return batches

    def _after(self, position: DataPosition) -> Iterator[Any]:
        run, done = self._run, position.batches
        is_restored = _restore_position(run.train_loader, position)
        batches = iter(run.train_loader)
        for number in until_interrupted(run, range(0 if is_restored else done)):
            if next(batches, batches) is batches:
                if position.is_divided_again:
                    position.batches = number
                    break
                raise UsageError(f"train has {number} batches, but the training to resume had read {done}")
        return batches

    def _of_all_processes(self, batches: Iterator[Any]) -> Iterator[Any]:
        return self._run.processes.while_all_have(self._own(batches)) if self._run.is_uneven else batches

    def _own(self, batches: Iterator[Any]) -> Iterator[Any]:
        self._is_cut = True
        yield from batches
        self._is_cut = False


def loader_state(run: TrainingRun) -> dict[str, Any] | None:
    """Return the `state_dict` of the loader or of a stream, if it has one and the next batch may depend on it."""
    epoch, position, part = run.state.epoch, run.state.position, part_with_position(run.train_loader)
    if part is run.train_loader:
        is_needed = epoch.is_open or (run.options.batches_per_epoch is not None and position.number > 0)
    else:
        is_needed = part is not None and (not position.exhausted or position.is_cut)
    state: dict[str, Any] | None = part.state_dict() if is_needed else None
    return state


def _restore_position(loader: DataLoader[Any], position: DataPosition, *, is_over: bool = False) -> bool:
    """Restore the position of what has one, and return whether that was done.

    A stream that was read to its end starts again. If only a part was read, as another process had no more batches, the
    next pass may continue there; that of a loader begins again.

    Args:
        is_over: Whether the pass ended before its end was read.
    """
    part = part_with_position(loader)
    is_restarted = is_over or position.is_cut if part is loader else position.exhausted and not position.is_cut
    if part is None or position.loader_state is None or is_restarted:
        return False
    part.load_state_dict(position.loader_state)
    return True


def generators_of(run: TrainingRun) -> list[torch.Generator]:
    """Return the random number generators that belong to the training's loaders and samplers."""
    return generators_in([run.train_loader, *run.evaluation_loaders.values()])


def generators_in(loaders: Iterable[DataLoader[Any]]) -> list[torch.Generator]:
    """Return the random number generators that belong to loaders, their datasets and samplers."""
    owners = [owner for loader in loaders for owner in (loader, loader.dataset, *samplers_of(loader))]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
