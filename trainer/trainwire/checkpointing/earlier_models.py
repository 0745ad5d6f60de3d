"""The models of an earlier training in the run's folder, which are kept under other names when a new one starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from trainwire.training.model.models import MODEL_CARD, loss_path, optimizer_path
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import UnsupportedVersionError
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.tail import batches_backwards, events_of

logger = logging.getLogger("trainwire")


def keep_earlier_models(run: TrainingRun) -> None:
    """Rename the models that earlier attempts saved, such as `best-model.pt` to `best-model.attempt-0.pt`.

    Called when a training starts from the beginning, so that no file in the folder seems to be its own.
    """
    if run.attempt and run.processes.is_first:
        try:
            names = saved_models(run.folder, before=run.attempt)
        except (OSError, UnsupportedVersionError) as error:
            logger.warning("models of the earlier training in %s may remain there: %s", run.folder, error)
            return
        keep_aside(run, [*names, MODEL_CARD], "of the earlier training")


def saved_models(folder: Path, before: int) -> list[str]:
    """Return the names of the models that the attempts up to `before` saved in a run's folder.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    names: set[str] = set()
    for attempt in list_attempts(folder, 0):
        for batch in batches_backwards(attempt, b"checkpoint/saved") if attempt.number < before else ():
            values = [event.value for event in events_of(batch) if event.name == "checkpoint/saved"]
            names |= {str(value["path"]) for value in values if value.get("kind") != "resume" and "path" in value}
    return sorted(names)


def keep_aside(run: TrainingRun, names: Iterable[str], description: str) -> None:
    """Rename files in the run's folder after the attempt before this one, and log their names."""
    kept = []
    for path in (run.folder / name for name in names):
        for file in (path, optimizer_path(path), loss_path(path)):
            if file.is_file():
                aside = file.with_name(f"{file.stem}.attempt-{run.attempt - 1}{file.suffix}")
                file.replace(aside)
                kept.append(f"{file.name} as {aside.name}")
    if kept:
        logger.warning("files %s are kept under other names: %s", description, ", ".join(kept))
