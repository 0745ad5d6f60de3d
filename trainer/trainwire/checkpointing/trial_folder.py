"""The mark of a run's folder that contains a trial run, from which no training is resumed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.training.options.options import TrainingOptions
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.journal.run_folder import read_run_name

MARK: Final = "TRIAL-RUN.txt"
"""The file that marks the folder of a trial run."""

logger = logging.getLogger("trainwire")


def can_resume(folder: Path, options: TrainingOptions) -> bool:
    """Return whether a training in this folder may be resumed from its checkpoints: no trial run, and not from one.

    Raises:
        OptionError: if a trial run is requested in the folder of a training.
    """
    has_trial = (folder / MARK).exists()
    if options.trial_run and not has_trial and read_run_name(folder) is not None:
        raise OptionError(
            f"trial_run is given, but {folder} contains a training that is not a trial run: choose another folder"
        )
    return not options.trial_run and not has_trial


def mark_folder(run: TrainingRun) -> None:
    """Mark the folder of a trial run; remove the mark and the checkpoints of an earlier one from that of a training."""
    mark, batches = run.folder / MARK, run.options.trial_run
    if batches:
        logger.warning(
            "trial run: it reads %d batches of each split in %s epochs, and its results mean nothing",
            batches, run.options.max_epochs,
        )  # fmt: skip
    if not run.processes.is_first:
        return
    if batches:
        write_atomically(mark, b"This folder contains a trial run, from which no training is resumed.\n")
    elif mark.exists():
        logger.warning("%s contained a trial run: the training starts from the beginning", run.folder)
        for checkpoint in list_checkpoints(run.folder):
            checkpoint.delete()
        mark.unlink()
