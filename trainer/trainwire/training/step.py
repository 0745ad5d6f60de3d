"""The training step: one update of each optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from trainwire.training.accumulation import BatchLoss, SizedBatch, backward, gradient_values, mean_of_all
from trainwire.training.data.batches import samples_in
from trainwire.training.distributed.sharding import whole
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch, BeforeTrainingOptimizerStep
from trainwire.training.model.losses import Weight
from trainwire.training.model.optimizers import metric_name, needs_closure
from trainwire.training.model.parameters import optimizer_parameters
from trainwire.training.run import TrainingRun
from trainwire.training.state import LossParts
from trainwire_protocol.errors import UsageError


class Update(NamedTuple):
    """What is recorded of an optimizer's update."""

    loss: Tensor
    """The mean loss, detached."""
    weight: Weight
    gradient_norm: Tensor
    """The total 2-norm of the gradients before clipping."""
    parts: LossParts


def training_step(run: TrainingRun, batches: Sequence[Any]) -> None:
    """Make one update of each optimizer with the gradients of one or more batches.

    Nothing here synchronizes with the GPU: values are recorded as tensors.

    Raises:
        UsageError: if `forward_for` returned None for every optimizer.
    """
    state, epoch = run.state, run.state.epoch
    group = _read(run, batches)
    if not group:
        return
    run.update_parameters()
    made = {name: update for name in run.optimizers if (update := _update(run, name, group))}
    if not made:
        raise UsageError("forward_for returned None for every optimizer: call control.skip_batch() to skip a batch")
    run.precision.end_step()

    state.step += 1
    for name, update in made.items():
        epoch.loss.add(update.loss, update.weight, name)
        epoch.parts.add_means(update.parts, finite_only=epoch.loss.finite_only)
    total = _total(list(made.values()))
    metrics = {"train/batch_loss": total.loss, "train/gradient_norm": total.gradient_norm}
    for update in made.values():
        metrics |= {f"train/batch_loss/{part}": mean for part, mean in update.parts.tensors().items()}
    for name, update in made.items() if len(run.optimizers) > 1 else ():
        metrics[metric_name("train/batch_loss", name)] = update.loss
        metrics[metric_name("train/gradient_norm", name)] = update.gradient_norm
    run.record({**metrics, **run.precision.metrics()})
    if run.hooks.listeners[AfterTrainingBatch]:
        samples = sum(each.samples for each in group)
        payload = AfterTrainingBatch(
            epoch.number, epoch.batch, epoch.batches, state.step, samples, total.loss, total.gradient_norm
        )
        run.hooks.dispatch(payload)


def _read(run: TrainingRun, batches: Sequence[Any]) -> list[SizedBatch]:
    """Return the batches that are not skipped, on the device, with their numbers of samples."""
    epoch, group = run.state.epoch, []
    for number, batch in enumerate(batches, start=epoch.batch - len(batches) + 1):
        batch = run.batches.batch_to_device(batch, run.device)
        if run.hooks.listeners[BeforeTrainingBatch]:
            payload = BeforeTrainingBatch(epoch.number, number, epoch.batches, batch)
            run.hooks.dispatch(payload)
            if run.control.take_skip_batch():
                continue
            batch = payload.batch
        group.append(SizedBatch(batch, samples_in(run.batches, batch), number))
    return group


def _update(run: TrainingRun, name: str, group: Sequence[SizedBatch]) -> Update | None:
    """Make an optimizer's update; return None if `forward_for` returned None for it."""
    epoch, optimizer = run.state.epoch, run.optimizers[name]
    optimizer.zero_grad(set_to_none=True)
    mean = backward(run, group, name)
    if mean is None:
        run.control.omit_update(run.state.step, list(run.optimizers).index(name))
        return None
    run.precision.unscale(optimizer)
    max_norm = None if needs_closure(optimizer) else run.options.max_grad_norm
    update = Update(mean.loss, mean.weight, _clip_gradients(optimizer, max_norm), mean.parts)
    if run.hooks.listeners[BeforeTrainingOptimizerStep]:
        payload = BeforeTrainingOptimizerStep(
            epoch.number, epoch.batch, run.state.step + 1, update.loss, update.gradient_norm, name
        )
        run.hooks.dispatch(payload)
    if run.control.take_skip_step():
        return update
    if needs_closure(optimizer):
        optimizer.step(_closure(run, name, group, mean))  # synchronizes with the GPU
    else:
        run.precision.step(optimizer)
    return update


def _closure(run: TrainingRun, name: str, group: Sequence[SizedBatch], known: BatchLoss) -> Callable[[], Any]:
    """Return a function that computes loss and gradients again, but not in its first call, as they are known then.

    Processes that train together get the same loss, so that they continue in the same way.
    """
    first = [known]

    def evaluate() -> Tensor:
        if first:
            return mean_of_all(run, first.pop(), name)
        run.optimizers[name].zero_grad(set_to_none=True)
        mean = backward(run, group, name)
        if mean is None:
            raise UsageError(f"forward_for returned None for the optimizer {name!r} in the middle of its update")
        return mean_of_all(run, mean, name)

    return evaluate


def _total(updates: list[Update]) -> Update:
    """Return the sum of the losses of all updates, and the norm of all gradients."""
    if len(updates) == 1:
        return updates[0]
    loss = sum((update.loss for update in updates[1:]), updates[0].loss)
    norm = get_total_norm([update.gradient_norm for update in updates])
    return updates[0]._replace(loss=loss, gradient_norm=norm)


def _clip_gradients(optimizer: Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients down to `max_norm`, and return their total 2-norm before that."""
    parameters = [parameter for parameter in optimizer_parameters(optimizer) if parameter.grad is not None]
    norm = whole(get_total_norm([gradient_values(parameter) for parameter in parameters]))
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
