"""The one place where the loop does what plugins, signals and commands want: between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainwire.commands import obey
from trainwire.evaluation import evaluate
from trainwire.optimizers import learning_rates
from trainwire.scheduling import set_learning_rates

if TYPE_CHECKING:
    from trainwire.control import Wishes
    from trainwire.run import TrainingRun
    from trainwire.trainer import ModelTrainer

PAUSE_SECONDS: Final = 0.5
"""How long a paused training sleeps at most before it looks around."""


def act_after_step(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Decide on what is wanted, and do it; several processes do it after the same step."""
    _obey_commands(run)
    _do_and_wait(trainer, run, run.control.decide(run.agreement.after_step))


def act_between_epochs(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Decide on everything that is wanted up to now, and do it; several processes wait for each other."""
    _obey_commands(run)
    _do_and_wait(trainer, run, run.control.decide(run.agreement.now))


def _do_and_wait(trainer: ModelTrainer, run: TrainingRun, wishes: Wishes) -> None:
    """Do what is wanted, and then, while a pause is wanted, what is wanted in it."""
    _do(trainer, run, wishes)
    while wishes.pause and not run.control.stopping:
        run.bus.state = "paused"
        run.control.wait(PAUSE_SECONDS)
        _obey_commands(run)
        wishes = run.control.decide(run.agreement.now)
        _do(trainer, run, wishes)
    run.bus.state = "running"


def _obey_commands(run: TrainingRun) -> None:
    for command in run.control.take_commands():
        obey(run, command)


def _do(trainer: ModelTrainer, run: TrainingRun, wishes: Wishes) -> None:
    control, epoch = run.control, run.state.epoch
    epoch.is_cut = epoch.is_cut or wishes.end_epoch
    if wishes.learning_rate:
        rates = [wishes.learning_rate] * len(learning_rates(run.optimizer))
        set_learning_rates(run, rates, "set by a command")
    if wishes.evaluate and not control.stopping:
        for split in run.watched_splits:
            evaluate(trainer, run, split)
    if run.checkpointer is not None and (wishes.checkpoint or control.interrupted):
        run.checkpointer.save()
