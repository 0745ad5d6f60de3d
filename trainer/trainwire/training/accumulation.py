"""The gradients of a step: computed at once or accumulated over batches and chunks, and averaged over processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainwire.training.forward import Forward
from trainwire.training.model.losses import Weight
from trainwire.training.model.parameters import optimizer_parameters
from trainwire.training.run import TrainingRun
from trainwire.training.state import LossParts, MeanLoss
from trainwire_protocol.errors import UsageError


class SizedBatch(NamedTuple):
    """A batch, or a chunk of one, its number of samples, and the number of the batch in its epoch."""

    batch: Any
    samples: int
    number: int


class BatchLoss(NamedTuple):
    """The mean loss of the batches of a step, detached, its weight, and the means of its named parts."""

    loss: Tensor
    weight: Weight
    parts: LossParts


def backward(run: TrainingRun, batches: Sequence[SizedBatch], optimizer: str = "") -> BatchLoss | None:
    """Compute the gradients of the mean over all batches, and return that mean.

    Each batch is passed through the model by itself, and one of more than `mini_batch_chunk_size` samples in chunks. In
    several processes, the gradients are those of the mean over all their batches, weighted if `forward` returns
    weights.

    Args:
        optimizer: The name of the optimizer that will use the gradients. None is returned if `forward_for` returns None
            for it.
    """
    *chunks, last = [chunk for batch in batches for chunk in _chunks(run, batch)]
    chunks += _repeated(run, last, len(chunks))
    if not chunks:
        return _backward_whole(run, last, optimizer)
    accumulation = _Accumulation(run, optimizer, sum(batch.samples for batch in batches))
    with run.forward.without_averaging():
        for chunk in chunks:
            if not accumulation.add(chunk):
                return None
    accumulation.add(last, is_last=True)
    return BatchLoss(accumulation.mean.tensor(), accumulation.mean.weight, accumulation.parts)


def mean_of_all(run: TrainingRun, mean: BatchLoss, optimizer: str = "") -> Tensor:
    """Return the mean loss over the batches of all processes, of which the gradients are."""
    if not run.processes.several:
        return mean.loss
    weight = mean.weight if run.forward.has_weight(optimizer) else 1
    values = torch.zeros(2, dtype=torch.float64, device=run.device)
    values[0] += _counted(mean.loss, weight) * weight
    values[1] += weight
    run.processes.add_up(values)
    return torch.div(values[0], values[1]).to(mean.loss.dtype)


def gradient_values(parameter: Tensor) -> Tensor:
    """Return the gradient; if it is sparse, as with `nn.Embedding(sparse=True)`, coalesce it and return its values."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    parameter.grad = gradient.coalesce()
    return parameter.grad.values()


def _chunks(run: TrainingRun, whole: SizedBatch) -> list[SizedBatch]:
    """Return the chunks of a batch, or the batch itself if it is small enough.

    Raises:
        UsageError: if `split_batch` returns another number of chunks.
    """
    size, samples = run.options.mini_batch_chunk_size, whole.samples
    if size is None or samples <= size:
        return [whole]
    chunks, expected = list(run.batches.split_batch(whole.batch, size)), -(-samples // size)
    if len(chunks) != expected:
        raise UsageError(
            f"mini_batch_chunk_size is {size}, so a batch of {samples} samples has {expected} chunks, but "
            f"ModelTrainer.split_batch returned {len(chunks)}: each but the last one must have {size} samples"
        )
    return [SizedBatch(chunk, min(size, samples - size * index), whole.number) for index, chunk in enumerate(chunks)]


def _repeated(run: TrainingRun, last: SizedBatch, chunks: int) -> list[SizedBatch]:
    """Return copies of the last chunk that do not count, so that all processes call a sharded model equally often."""
    if run.sharding is None or run.options.mini_batch_chunk_size is None:
        return []
    return [last._replace(samples=0)] * (max(run.processes.gather(chunks)) - chunks)


def _backward_whole(run: TrainingRun, whole: SizedBatch, optimizer: str) -> BatchLoss | None:
    result = _forward(run, whole, optimizer)
    if result is None:
        return None
    loss, weight = result.loss, result.weight
    if weight is None or not run.processes.several:
        run.precision.backward(loss)
    else:
        share = _ratio(weight, _mean_over_processes(run, weight))
        run.precision.backward(_counted(loss, weight) * share)
    weight = whole.samples if weight is None else weight
    parts = LossParts()
    parts.add(result.parts, weight)
    return BatchLoss(loss.detach(), weight, parts)


def _forward(run: TrainingRun, batch: SizedBatch, optimizer: str) -> Forward | None:
    with run.precision.autocast():
        return run.forward(batch.batch, optimizer, batch.number)


class _Accumulation:
    """The mean loss of the chunks so far, whose gradients the parameters hold.

    A chunk's share of the whole is known beforehand if its weight is its number of samples. Otherwise each chunk makes
    the shares of the earlier ones smaller, and their gradients are scaled down. They could be divided once at the end,
    but would overflow in half precision until then.
    """

    def __init__(self, run: TrainingRun, optimizer: str, samples: int) -> None:
        self.mean, self.parts = MeanLoss(), LossParts()
        self._run = run
        self._optimizer = optimizer
        self._is_empty = True
        self._samples = samples
        self._divisor: Weight = 0
        """The gradients are those of the sum of the losses, each multiplied by its weight, divided by this number."""

    def add(self, chunk: SizedBatch, *, is_last: bool = False) -> bool:
        """Pass a chunk through the model, and add its gradients and its loss.

        Returns:
            False if `forward_for` returned None for the first chunk, so that there is nothing to accumulate.

        Raises:
            UsageError: if it returned None for a later chunk.
        """
        run = self._run
        result = _forward(run, chunk, self._optimizer)
        if result is None:
            if self._is_empty:
                return False
            raise UsageError("forward_for returned None for some batches or chunks of a step, and not for others")
        self._is_empty = False
        loss, weight = result.loss, result.weight
        if not chunk.samples:
            loss, weight = _counted(loss, 0), None if weight is None else 0
        if weight is None:
            weight = chunk.samples
            run.precision.backward(loss * (weight / self._samples))
        elif not self._adds_nothing(weight, is_last):
            run.precision.backward(_counted(loss, weight) * self._share(weight, is_last))
            if is_last and run.sharding is not None:
                total = _mean_over_processes(run, self.mean.weight + weight)
                _scale_gradients(run.optimizers[self._optimizer], _ratio(run.options.mini_batch_size, total))
        self.mean.add(loss.detach(), weight)
        self.parts.add(result.parts, weight)
        return True

    def _share(self, weight: Weight, is_last: bool) -> Weight:
        """Return the factor of the loss of the next chunk, after scaling the gradients of the earlier ones.

        Those of a sharded model are in none of its parameters until the last chunk, and are scaled after it.
        """
        if self._run.sharding is not None:
            return weight / self._run.options.mini_batch_size
        before, total = self._divisor, self.mean.weight + weight
        self._divisor = _mean_over_processes(self._run, total) if is_last else total
        _scale_gradients(self._run.optimizers[self._optimizer], _ratio(before, self._divisor))
        return _ratio(weight, self._divisor)

    def _adds_nothing(self, weight: Weight, is_last: bool) -> bool:
        """Return whether a chunk adds nothing and can be left out: its gradients may be NaN.

        The last one is needed if the processes average the gradients in it, or if it would be the only one; and each
        one of a sharded model, whose parameters are gathered in it.
        """
        if isinstance(weight, Tensor) or weight or self._run.sharding is not None:
            return False
        return not (is_last and (self._run.processes.several or self.mean.weight == 0))


def _mean_over_processes(run: TrainingRun, weight: Weight) -> Weight:
    """Return the mean of all processes' weights: a number on the CPU, otherwise a tensor, which is not read."""
    if not run.processes.several:
        return weight
    value = torch.zeros((), dtype=torch.float64, device=run.device).add_(weight)
    mean = run.processes.average(value)
    return mean.item() if mean.device.type == "cpu" else mean


def _counted(loss: Tensor, weight: Weight) -> Tensor:
    """Return the loss or, if its weight is 0, a loss without gradients: the mean of nothing is NaN."""
    if isinstance(weight, Tensor):
        return loss.where(weight != 0, 0.0)
    return loss if weight else loss.nan_to_num(0.0, 0.0, 0.0)


def _ratio(part: Weight, whole: Weight) -> Weight:
    """Return how large a part is of a whole; 0 if both are 0."""
    if isinstance(whole, Tensor):
        return part / whole.masked_fill(whole == 0, 1.0)
    return part / whole if whole else 0.0


def _scale_gradients(optimizer: Optimizer, factor: Weight) -> None:
    """Multiply the gradients, which may be on several devices, by a factor."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for parameter in optimizer_parameters(optimizer):
        if parameter.grad is not None:
            values = gradient_values(parameter)
            groups[values.device, values.dtype].append(values)
    for (device, kind), gradients in groups.items():
        if isinstance(factor, Tensor):
            torch._foreach_mul_(gradients, factor.to(device, kind))
        else:
            torch._foreach_mul_(gradients, factor)
