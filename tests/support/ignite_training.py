"""A training of Ignite's, which logs to TensorBoard too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import global_step_from_engine
from ignite.handlers.tensorboard_logger import TensorboardLogger
from ignite.handlers.tensorboard_logger import WeightsScalarHandler as TensorboardWeights
from ignite.metrics import Accuracy, Loss
from torch import nn

from trainwire.integrations.ignite import TrainwireLogger, WeightsScalarHandler


def attach(logger: Any, weights: Any, trainer: Engine, evaluator: Engine, optimizer: Any, model: Any) -> None:
    """Attach the same handlers to any logger of Ignite's."""
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda loss: {"loss": loss}
    )
    step = global_step_from_engine(trainer)
    logger.attach_output_handler(evaluator, Events.COMPLETED, tag="val", metric_names="all", global_step_transform=step)
    logger.attach_opt_params_handler(trainer, Events.ITERATION_STARTED(every=2), optimizer=optimizer)
    logger.attach(trainer, weights(model, tag="model"), Events.EPOCH_COMPLETED)


def train(logger: TrainwireLogger, *more: TensorboardLogger, fails_at: int = -1, error: Any = None) -> None:
    """Train for three epochs of five batches, with an evaluation after each."""
    torch.manual_seed(1)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy(), "loss": Loss(nn.CrossEntropyLoss())})
    inputs = torch.randn(20, 4)
    data = list(zip(inputs.split(4), (inputs.sum(1) > 0).long().split(4), strict=True))
    logger.attach_epochs(trainer)
    attach(logger, WeightsScalarHandler, trainer, evaluator, optimizer, model)
    for other in more:
        attach(other, TensorboardWeights, trainer, evaluator, optimizer, model)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(data))

    @trainer.on(Events.ITERATION_STARTED)
    def fail(engine: Engine) -> None:
        if engine.state.iteration == fails_at:
            raise error

    trainer.run(data, max_epochs=3)


def train_beside_tensorboard(folder: Path) -> None:
    """Train with Ignite's own logger beside ours."""
    with TensorboardLogger(folder / "theirs") as theirs, TrainwireLogger(folder / "run", hparams={"lr": 0.1}) as ours:
        train(ours, theirs)
