"""What follows the last epoch: the final model, the test, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainwire.evaluation import evaluate
from trainwire.models import FINAL_MODEL, load_model
from trainwire.payloads import MetricValue
from trainwire.result import Result
from trainwire.run import TrainingRun

if TYPE_CHECKING:
    from trainwire.trainer import ModelTrainer


def finish_model(trainer: ModelTrainer, run: TrainingRun) -> dict[str, MetricValue]:
    """Save the final model; then, unless the run was interrupted, go back to the best one, and test it.

    Returns:
        The metrics of the test split; empty if it was not evaluated.
    """
    if run.options.save_final_model:
        run.save_model(FINAL_MODEL, "final")
    if run.status == "interrupted":  # whoever interrupts does not want to wait for an evaluation
        return {}
    if run.state.best_model is not None and not run.options.use_final_model_for_eval:
        run.processes.wait_for_all()  # one of them has written it
        load_model(run.model, run.folder / run.state.best_model)
    return evaluate(trainer, run, "test") if "test" in run.evaluation_loaders else {}


def result_of(run: TrainingRun, test_metrics: Mapping[str, MetricValue]) -> Result:
    """What came of the run."""
    state = run.state
    return Result(
        status=run.status,
        reason=run.reason,
        folder=run.folder,
        epochs=state.epoch.number,
        steps=state.step,
        best_epoch=state.best_epoch,
        best_score=state.best_score,
        test_score=_test_score(run, test_metrics),
        test_metrics=dict(test_metrics),
        history=tuple(state.history),
    )


def _test_score(run: TrainingRun, test_metrics: Mapping[str, MetricValue]) -> float | None:
    metric = run.main_metric.name.partition("/")[2] if run.main_metric else "loss"
    score = test_metrics.get(f"test/{metric}")
    return score if isinstance(score, float) else None
