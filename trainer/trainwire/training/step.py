"""The training step: one optimizer update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from trainwire.training.data import samples_in, split_batch, to_device
from trainwire.training.forward import checked_forward
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch, BeforeTrainingOptimizerStep
from trainwire.training.optimizers import optimizer_parameters
from trainwire.training.run import TrainingRun


def training_step(run: TrainingRun, batch: Any) -> None:
    """Train on one batch. Nothing here synchronizes with the GPU: values are recorded as tensors."""
    state, listeners = run.state, run.hooks.listeners
    epoch = state.epoch
    batch = to_device(batch, run.device)
    if listeners[BeforeTrainingBatch]:
        run.hooks.dispatch(BeforeTrainingBatch(epoch.number, epoch.batch, epoch.batches, batch))
        if run.control.take_skip_batch():
            return

    run.optimizer.zero_grad(set_to_none=True)
    loss = _backward(run, batch)
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
    samples = samples_in(batch)
    epoch.loss.add(loss, samples)
    run.record({"train/batch_loss": loss, "train/gradient_norm": gradient_norm, **run.precision.metrics()})
    if listeners[AfterTrainingBatch]:
        run.hooks.dispatch(
            AfterTrainingBatch(epoch.number, epoch.batch, epoch.batches, state.step, samples, loss, gradient_norm)
        )


def _backward(run: TrainingRun, batch: Any) -> Tensor:
    """Compute the gradients of a batch, at once or in chunks, and return its mean loss."""
    size = run.options.mini_batch_chunk_size
    *chunks, last = split_batch(batch, size) if size else [batch]
    if not chunks:
        return _backward_chunk(run, batch, 1.0)
    samples = samples_in(batch)
    with run.forward.without_averaging():
        losses = [_backward_chunk(run, chunk, samples_in(chunk) / samples) for chunk in chunks]
    losses.append(_backward_chunk(run, last, samples_in(last) / samples))
    return torch.stack(losses).sum()


def _backward_chunk(run: TrainingRun, chunk: Any, share: float) -> Tensor:
    """Accumulate a chunk's gradients, and return the chunk's share of the batch's loss."""
    with run.precision.autocast():
        loss = checked_forward(run.forward(chunk)).loss
        loss = loss if share == 1.0 else loss * share
    run.precision.backward(loss)
    return loss.detach()


def _clip_gradients(optimizer: Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients down to `max_norm`, and return their total 2-norm before that."""
    parameters = [parameter for parameter in optimizer_parameters(optimizer) if parameter.grad is not None]
    norm = get_total_norm([_gradient_values(parameter) for parameter in parameters])
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def _gradient_values(parameter: Tensor) -> Tensor:
    """Return the gradient; if it is sparse, as with `nn.Embedding(sparse=True)`, coalesce it and return its values."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    parameter.grad = gradient.coalesce()
    return parameter.grad.values()
