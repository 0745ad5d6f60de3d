"""What differs between a training and the checkpoint from which it is resumed, and what counts then."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainwire.training.options.options import TrainingOptions
from trainwire.training.plugin import Scheduler
from trainwire.training.run import TrainingRun

IGNORED: Final = {
    "bind", "create_file_logs", "create_loss_file", "default_plugins", "device", "main_evaluation_metric",
    "main_evaluation_mode", "multi_gpu", "num_workers", "plugins", "seed", "sinks", "write_weights",
}  # fmt: skip
"""Options that are not reported, because they do not change the training or are checked separately."""

LENGTH: Final = {"max_epochs", "max_steps"}

logger = logging.getLogger("trainwire")


def asks_for_more(options: TrainingOptions, before: Mapping[str, Any]) -> bool:
    """Return whether more epochs or steps are requested than in the training to resume."""
    pairs = ((options.max_epochs, before["max_epochs"]), (options.max_steps, before["max_steps"]))
    return any(then is not None and (now is None or now > then) for now, then in pairs)


def report_changes(options: TrainingOptions, before: Mapping[str, Any]) -> None:
    """Log the options that differ from those of the training to resume; the new values count."""
    now = options.as_hyperparameters()
    changed = {name for name in now if now[name] != before.get(name)} - IGNORED
    if changed:
        text = ", ".join(f"{name} {now[name]!r} (was {before.get(name)!r})" for name in now if name in changed)
        level = logging.INFO if changed <= LENGTH else logging.WARNING
        logger.log(level, "resumed with other options, which count from now on: %s", text)


def choose_again(run: TrainingRun) -> None:
    """Keep the best model only if its epoch is the best one by another main metric too."""
    state, main = run.state, run.main_metric
    ranked = [(rank, each) for each in state.history if main and (rank := main.rank(each)) is not None]
    best = max(ranked, key=lambda pair: pair[0])[1] if ranked else None
    if main is None or best is None or (best.epoch, best.step) != (state.best_epoch, state.best_step):
        state.best_epoch = state.best_step = state.best_score = state.best_model = None
        logger.warning("the best model is chosen among the %s after step %d", run.compared, state.step)
    else:
        state.best_score = main.score(best)


def apply_settings(run: TrainingRun, before: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Apply the settings of the optimizers that were given anew: they count, and not those of the checkpoint."""
    for name in run.optimizers:
        _apply_settings(run, name, before[name])


def _apply_settings(run: TrainingRun, optimizer: str, before: Sequence[Mapping[str, Any]]) -> None:
    groups, rates = run.optimizers[optimizer].param_groups, list[float | None]()
    for group, now, then in zip(groups, run.initial_groups[optimizer], before, strict=False):
        changed = {name: value for name, value in now.items() if name not in then or then[name] != value}
        rate = changed.pop("lr", None)
        rates.append(None if rate is None else float(rate))
        group.update(changed)
    if any(rate is not None for rate in rates):
        rates += [None] * (len(groups) - len(rates))
        schedulers = [plugin for plugin in run.plugins if isinstance(plugin, Scheduler)]
        own = [scheduler for scheduler in schedulers if scheduler.optimizer in (None, optimizer)]
        if own:
            own[0].change_initial_rates(rates, optimizer)
        else:
            run.change_learning_rates(rates, "learning_rate was changed", optimizer)
