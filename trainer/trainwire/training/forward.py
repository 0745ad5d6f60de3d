"""The forward pass: what it returns, and how the training step calls it in one process or in several."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Real
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainwire.training.data.failures import note_batch
from trainwire.training.distributed.processes import SINGLE, Processes
from trainwire.training.distributed.sharding import Sharding
from trainwire.training.model.losses import NotedLosses, TorchLoss, checked_weight
from trainwire.training.model.models import plain_model
from trainwire.training.model.parameters import TrainedModules
from trainwire_protocol.errors import UsageError

logger = logging.getLogger("trainwire")

RESERVED: Final = frozenset({"loss", "batch_loss", "gradient_norm"})
"""Names of training metrics, which parts of a loss cannot have."""


class Forward(NamedTuple):
    """The result of a forward pass on a batch: see `ModelTrainer.forward`."""

    loss: Tensor
    """The mean loss of the batch: a tensor without dimensions."""
    output: Any = None
    """The first argument of the metrics."""
    target: Any = None
    """The second argument of the metrics."""
    weight: float | Tensor | None = None
    """What the loss is a mean over, as a number or a tensor: for instance, the number of tokens that are not padding.

    The losses of batches and of chunks are averaged with these weights. None: what the trainer's loss is a mean over,
    if it is one of torch's, otherwise the number of samples.
    """
    parts: Mapping[str, Any] = MappingProxyType({})
    """Named parts of the loss, such as `{"ce": …, "kl": …}`: numbers, or tensors without dimensions.

    They are recorded as `train/batch_loss/ce`, and their means, weighted as the loss is, as `train/ce` and `dev/ce`.
    """


def checked_forward(result: object, loss: TorchLoss | None = None, taken: Collection[str] = ()) -> Forward:
    """Return the result of a `forward`, if it is valid, with a checked weight.

    Args:
        loss: The trainer's loss, if it is one of torch's: it determines a weight that is None.
        taken: Names that parts of the loss cannot have, such as those of the metrics.

    Raises:
        UsageError: if it is not a `Forward`, or its loss is not a tensor without dimensions, or its weight or a part is
            invalid.
    """
    if not isinstance(result, Forward):
        what = "a tuple" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise UsageError(f"forward returned {what}: return trainwire.Forward(loss, output, target)")
    value: object = result.loss
    if not isinstance(value, Tensor) or value.dim() != 0:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"the loss is {what}; it must be the batch's mean, a tensor without dimensions")
    weight = loss.weight(result.output, result.target) if result.weight is None and loss else result.weight
    parts = _checked_parts(result.parts, value, taken) if result.parts else {}
    return result._replace(weight=None if weight is None else checked_weight(weight), parts=parts)


def _checked_parts(parts: object, loss: Tensor, taken: Collection[str]) -> dict[str, Tensor]:
    """Return the parts of a loss as detached tensors on its device."""
    if not isinstance(parts, Mapping):
        raise UsageError(
            f"the parts of the loss are a {type(parts).__name__}; they must be a mapping of names to values"
        )
    checked: dict[str, Tensor] = {}
    for name, part in parts.items():
        if not isinstance(name, str) or not name or name in RESERVED or name in taken:
            raise UsageError(f"a part of the loss cannot be named {name!r}: this name is taken, or it is not a name")
        if isinstance(part, Tensor) and part.dim() == 0:
            checked[name] = part.detach()
        elif isinstance(part, Real):
            # It is filled in on the device: a copy from the CPU could synchronize.
            kind = torch.float32 if loss.device.type == "mps" else torch.float64
            checked[name] = torch.full((), float(part), dtype=kind, device=loss.device)
        else:
            what = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise UsageError(
                f"the part {name!r} of the loss is {what}; it must be the batch's mean, a tensor without dimensions"
            )
    return checked


class EvaluationForward:
    """`ModelTrainer.forward` as one evaluation calls it, in this process only.

    An evaluation depends on nothing that was found out in a training: a resumed training repeats it, and there need not
    be a training at all.

    Args:
        loss: The trainer's loss, if it is one of torch's. None: find out in the first batch.
        taken: Names that parts of the loss cannot have.
    """

    def __init__(
        self, forward: Callable[[Any], Forward], loss: TorchLoss | None = None, taken: Collection[str] = ()
    ) -> None:
        self._forward = forward
        self._loss = loss
        self._taken = taken
        self._is_known = loss is not None

    def __call__(self, batch: Any) -> Forward:
        """Return the checked result of `forward` on a batch.

        Raises:
            UsageError: if it is invalid.
        """
        if self._is_known:
            return checked_forward(self._forward(batch), self._loss, self._taken)
        with NotedLosses() as losses:
            result = self._forward(batch)
        if isinstance(result, Forward):
            self._loss, self._is_known = losses.behind(result.loss, result.target), True
        return checked_forward(result, self._loss, self._taken)


class TrainingForward:
    """`ModelTrainer.forward_for` as the training step calls it; in several processes, in DistributedDataParallel.

    Args:
        forward: Called in evaluations.
        forward_for: Called in training, with the name of an optimizer.
        loss: The trainer's loss, if it is one of torch's. None: find out in the first training batch.
        first: Called with the result of the first call for each optimizer.
        after: Called with the optimizer's name, the batch's number, the batch and its result; returns the loss to
            continue with.
        taken: Names that parts of the loss cannot have.
        sharding: How the modules are divided among the processes, if they are: they average the gradients themselves.
        processes: Those that train together.
    """

    def __init__(
        self,
        modules: TrainedModules,
        forward: Callable[[Any], Forward],
        forward_for: Callable[[str, Any], Forward | None],
        loss: TorchLoss | None = None,
        first: Callable[[Forward], None] | None = None,
        after: Callable[[str, int, Any, Forward], Tensor] | None = None,
        taken: Collection[str] = (),
        sharding: Sharding | None = None,
        processes: Processes = SINGLE,
    ) -> None:
        self._modules = modules
        self._forward = forward
        self._forward_for = forward_for
        self._loss = loss
        self._losses: dict[str, TorchLoss | None] = {}
        """The loss of each optimizer that has made an update, if it is one of torch's."""
        self._first = first
        self._after = after
        self._taken = taken
        self._parallel: DistributedDataParallel | None = None
        self._sharding = sharding
        self._processes = processes
        self._returns_weight: dict[str, bool] = {}
        self._has_weight: dict[str, bool] = {}
        """Whether the results for an optimizer have weights in every process."""
        self._arguments: Mapping[str, Any] = {}
        self._parameters = list(modules.parameters())
        self._trainable: list[bool] = []

    def alone(self, batch: Any) -> Forward:
        """Return the checked result of `forward` in this process only, of which the weight does not matter."""
        return checked_forward(self._forward(batch), self._loss, self._taken)

    def _train(self, batch: Any, optimizer: str, number: int) -> Forward | None:
        """Return the checked result of `forward_for` in this process only."""
        result = self._forward_for(optimizer, batch)
        if result is None and optimizer:
            return None
        if optimizer not in self._losses and isinstance(result, Forward):
            self._losses[optimizer] = self._loss or TorchLoss.behind(result.loss, result.target)
        checked = checked_forward(result, self._losses.get(optimizer), self._taken)
        if self._after is None:
            return checked
        return checked._replace(loss=self._after(optimizer, number, batch, checked))

    def distribute(self, arguments: Mapping[str, Any]) -> None:
        """Give every process the first one's weights, and average the gradients from now on.

        Args:
            arguments: Those of DistributedDataParallel. By default, parameters may be unused in a step, unless the
                graph is static, or activations are checkpointed, which in torch may exclude each other.
        """
        is_checkpointing = getattr(plain_model(self._modules.model), "is_gradient_checkpointing", False)
        finds_unused = not is_checkpointing and not arguments.get("static_graph")
        self._arguments = {"find_unused_parameters": finds_unused, **arguments}
        self._wrap()

    def release(self) -> None:
        """Release what averages the gradients, at the end of a training.

        Workers of a later loader are forks of this process, in which gloo's threads do not run: if the garbage
        collection released it there, it would wait for them for ever.
        """
        if self._parallel is not None:
            self._parallel = None
            gc.collect()  # it is part of reference cycles

    @contextmanager
    def evaluation(self) -> Iterator[EvaluationForward]:
        """Return a context for the forward passes of an evaluation, after which a sharded model has its shards."""
        try:
            yield EvaluationForward(self._forward, self._loss, self._taken)
        finally:
            if self._sharding:
                self._sharding.reshard()

    def include_new_parameters(self) -> None:
        """Average the gradients of parameters that were added to the modules too."""
        self._parameters = list(self._modules.parameters())

    def _wrap(self) -> None:
        # DistributedDataParallel averages the gradients of the parameters that are trainable when it is created.
        self._parallel = None  # if there was one, its hooks on the parameters are removed with it
        self._trainable = [parameter.requires_grad for parameter in self._parameters]
        self._parallel = DistributedDataParallel(_ForwardModule(self._modules, self._train), **self._arguments)

    def _in_all(self, batch: Any, optimizer: str, number: int) -> Forward | None:
        if self._trainable != [parameter.requires_grad for parameter in self._parameters]:
            self._wrap()
        assert self._parallel is not None
        loss = self._parallel(batch, optimizer, number)
        module: _ForwardModule = self._parallel.module
        result = module.take_result()
        return result and result._replace(loss=loss)

    def __call__(self, batch: Any, optimizer: str = "", number: int = 1) -> Forward | None:
        """Return the checked result of `forward_for` on a batch: None if the optimizer makes no update.

        Args:
            number: The number of the batch in its epoch, for plugins.

        Raises:
            UsageError: if it is invalid, or it has a weight for some batches and none for others.
        """
        try:
            train = self._in_all if self._parallel else self._train
            result = train(batch, optimizer, number)
        except Exception as error:
            note_batch(error, "train", batch)
            raise
        if result is None:
            return None
        is_first, has_weight = optimizer not in self._returns_weight, result.weight is not None
        if self._returns_weight.setdefault(optimizer, has_weight) != has_weight:
            raise UsageError("forward returned a weight for some batches and none for others: return one for each")
        if is_first:
            self._has_weight[optimizer] = self._agreed(has_weight)
            if self._first:
                self._first(result)
        return result if self._has_weight[optimizer] else result._replace(weight=None)

    def _agreed(self, has_weight: bool) -> bool:
        """Return whether there is a weight in every process: only then do they exchange their weights.

        What a loss is a mean over is found out from each process's own first batch.
        """
        all_have = self._processes.gather(has_weight)
        if len(set(all_have)) > 1:
            logger.warning(
                "the weight of the loss is known in some processes and not in others, so batches are weighted by their "
                "samples: override forward, and return a weight"
            )
        return all(all_have)

    def has_weight(self, optimizer: str) -> bool:
        """Return whether the results for an optimizer, which has made an update, have weights."""
        return self._has_weight[optimizer]

    def without_averaging(self) -> AbstractContextManager[Any]:
        """Return a context in which gradients are accumulated in this process, and not averaged over all."""
        if self._sharding:
            return self._sharding.without_reduction()
        return self._parallel.no_sync() if self._parallel else nullcontext()


class _ForwardModule(nn.Module):
    """A trainer's `forward_for` as a module that has the parameters that are trained.

    It returns only the loss. DistributedDataParallel would expect a gradient of every parameter that the output depends
    on, even if the loss does not.
    """

    def __init__(self, model: nn.Module, forward: Callable[[Any, str, int], Forward | None]) -> None:
        super().__init__()
        # It contains all of `forward`, so that this may call the model in any way.
        self.model = model
        self._forward = forward
        self._result: Forward | None = None

    def forward(self, batch: Any, optimizer: str, number: int) -> Tensor | None:
        self._result = self._forward(batch, optimizer, number)
        return self._result.loss if self._result else None

    def take_result(self) -> Forward | None:
        """Return the result of the last call, and release it."""
        result, self._result = self._result, None
        return result
