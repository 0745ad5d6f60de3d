"""The training step: one optimizer update."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from trainwire.training.accumulation import backward, gradient_values
from trainwire.training.data.batches import samples_in
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch, BeforeTrainingOptimizerStep
from trainwire.training.model.parameters import optimizer_parameters
from trainwire.training.run import TrainingRun


def training_step(run: TrainingRun, batch: Any) -> None:
    """Train on one batch. Nothing here synchronizes with the GPU: values are recorded as tensors."""
    state, listeners = run.state, run.hooks.listeners
    epoch = state.epoch
    batch = run.batches.batch_to_device(batch, run.device)
    if listeners[BeforeTrainingBatch]:
        before = BeforeTrainingBatch(epoch.number, epoch.batch, epoch.batches, batch)
        run.hooks.dispatch(before)
        if run.control.take_skip_batch():
            return
        batch = before.batch

    run.update_parameters()
    run.optimizer.zero_grad(set_to_none=True)
    samples = samples_in(run.batches, batch)
    loss, weight = backward(run, batch, samples)
    run.precision.unscale(run.optimizer)
    gradient_norm = _clip_gradients(run.optimizer, run.options.max_grad_norm)
    if listeners[BeforeTrainingOptimizerStep]:
        payload = BeforeTrainingOptimizerStep(epoch.number, epoch.batch, state.step + 1, loss, gradient_norm)
        run.hooks.dispatch(payload)
    if run.control.take_skip_step():
        run.precision.skip()
    else:
        run.precision.update(run.optimizer)

    state.step += 1
    epoch.loss.add(loss, weight)
    run.record({"train/batch_loss": loss, "train/gradient_norm": gradient_norm, **run.precision.metrics()})
    if listeners[AfterTrainingBatch]:
        run.hooks.dispatch(
            AfterTrainingBatch(epoch.number, epoch.batch, epoch.batches, state.step, samples, loss, gradient_norm)
        )


def _clip_gradients(optimizer: Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients down to `max_norm`, and return their total 2-norm before that."""
    parameters = [parameter for parameter in optimizer_parameters(optimizer) if parameter.grad is not None]
    norm = get_total_norm([gradient_values(parameter) for parameter in parameters])
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
