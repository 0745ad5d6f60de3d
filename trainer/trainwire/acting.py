"""The one place where the loop does what plugins, signals and commands want: between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainwire.evaluation import evaluate

if TYPE_CHECKING:
    from trainwire.run import TrainingRun
    from trainwire.trainer import ModelTrainer

PAUSE_SECONDS: Final = 1.0
"""How long a paused training sleeps at most before it looks around."""


def act(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Decide on what is wanted, and do it: commands, an evaluation, a checkpoint, a pause."""
    control = run.control
    control.decide()
    if control.take_evaluation() and not control.stopping:
        for split in run.watched_splits:
            evaluate(trainer, run, split)
    wants_checkpoint = control.take_checkpoint()
    if run.checkpointer is not None and (wants_checkpoint or control.interrupted):
        run.checkpointer.save()
    while control.paused and not control.stopping:
        control.wait(PAUSE_SECONDS)
        control.decide()
