"""The weight of a batch's loss: what its mean is a mean over, such as samples, elements or unmasked tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trainwire_protocol.errors import OptionError, UsageError

Weight: TypeAlias = "float | Tensor"
"""A number or, if it is on another device than the CPU, a tensor without dimensions."""

IGNORED: Final = -100
"""The target that the functions of torch ignore by default."""

CLASSIFICATION: Final = {"CrossEntropyLoss", "NLLLoss", "NLLLoss2d", "LinearCrossEntropyLoss"}
"""Losses that are means over targets, weighted by their class."""

ELEMENTWISE: Final = {
    "BCELoss", "BCEWithLogitsLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss",
}  # fmt: skip
"""Losses that are means over elements. All others are means over samples."""

FUNCTIONS: Final = {
    "binary_cross_entropy": "BCELoss", "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "cross_entropy": "CrossEntropyLoss", "hinge_embedding_loss": "HingeEmbeddingLoss", "huber_loss": "HuberLoss",
    "kl_div": "KLDivLoss", "l1_loss": "L1Loss", "mse_loss": "MSELoss", "nll_loss": "NLLLoss",
    "poisson_nll_loss": "PoissonNLLLoss", "smooth_l1_loss": "SmoothL1Loss", "soft_margin_loss": "SoftMarginLoss",
}  # fmt: skip
"""The same losses as functions of `torch.nn.functional`."""

NODES: Final = {
    "BinaryCrossEntropyBackward0": "BCELoss", "BinaryCrossEntropyWithLogitsBackward0": "BCEWithLogitsLoss",
    "HuberLossBackward0": "HuberLoss", "MseLossBackward0": "MSELoss",
    "NllLossBackward0": "NLLLoss", "NllLoss2DBackward0": "NLLLoss",
    "SmoothL1LossBackward0": "SmoothL1Loss", "SoftMarginLossBackward0": "SoftMarginLoss",
}  # fmt: skip
"""The nodes of the autograd graph that some of these losses are."""

NOTED: Final = {
    getattr(functional, name) for name, kind in FUNCTIONS.items() if kind in {*NODES.values(), "CrossEntropyLoss"}
}
"""The functions that return such a node."""

MEAN: Final = 1
"""The reduction of a node whose loss is a mean."""


@dataclass(frozen=True, slots=True)
class TorchLoss:
    """One of torch's losses, given as a module, as a function, or as a partial of one."""

    name: str
    """The name of the module's class."""
    given: Any

    @classmethod
    def of(cls, loss: object) -> TorchLoss | None:
        """Return the description of a loss, or None if it is not one of torch's."""
        given = getattr(loss, "_orig_mod", loss)  # of a compiled module
        if isinstance(given, nn.Module):
            kind = next((base for base in type(given).__mro__ if base.__module__ == nn.modules.loss.__name__), None)
            is_same = kind is not None and type(given).forward is vars(kind).get("forward")
            return cls(kind.__name__, given) if kind is not None and is_same else None
        function = given.func if isinstance(given, partial) else given
        name = getattr(function, "__name__", "")
        is_same = name in FUNCTIONS and function is getattr(functional, name)
        return cls(FUNCTIONS[name], given) if is_same else None

    @classmethod
    def behind(cls, loss: Tensor, target: object) -> TorchLoss | None:
        """Return torch's loss function that has returned this tensor and had this target; None if it is unknown.

        Autograd has noted the function and its arguments, if gradients are enabled.
        """
        node: Any = getattr(loss, "grad_fn", None)
        name = NODES.get(type(node).__name__)
        if name is None or not isinstance(target, Tensor) or node._saved_reduction != MEAN:
            return None
        saved: Tensor = node._saved_target
        if saved.data_ptr() != target.data_ptr() or saved.numel() != target.numel():
            return None
        if name not in CLASSIFICATION:
            return cls(name, None)
        # A negative number is returned as if it were an unsigned one.
        ignored = (node._saved_ignore_index + 2**63) % 2**64 - 2**63
        return cls(name, partial(functional.nll_loss, ignore_index=ignored, weight=node._saved_weight))

    def setting(self, name: str, default: Any = None) -> Any:
        """Return the value of one of the loss's arguments."""
        if isinstance(self.given, nn.Module):
            return getattr(self.given, name, default)
        return self.given.keywords.get(name, default) if isinstance(self.given, partial) else default

    def weight(self, output: Any, target: Any) -> Weight | None:
        """Return what the loss of a batch is a mean over; None if that is its samples."""
        if not isinstance(target, Tensor) or not isinstance(output, Tensor):
            return None
        if self.name in CLASSIFICATION:
            return self._weight_of_classes(target)
        if self.name in ELEMENTWISE:
            return output.size(0) if self.setting("reduction") == "batchmean" else _elements(output, target)
        return None

    def _weight_of_classes(self, target: Tensor) -> Weight:
        if target.is_floating_point():  # the probability of each class
            return target.numel() / target.size(1 if target.dim() > 1 else 0)
        ignored, classes = self.setting("ignore_index", IGNORED), self.setting("weight")
        counts = target != (IGNORED if ignored is None else ignored)
        if classes is None:
            return counts.sum()
        weights: Tensor = classes[target.where(counts, 0).long()]
        return weights.where(counts, 0.0).sum()


class NotedLosses(TorchFunctionMode):
    """A context without gradients in which torch's losses are recognized by their results, as they are in training.

    Autograd notes the calls of these functions alone: the activations of the model are not kept for it, and it does not
    matter whether the parameters are frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._results: list[tuple[Tensor, Tensor]] = []
        """What each function returned, without and with its node."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Collection[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        keywords = dict(kwargs or {})
        if func not in NOTED or torch.compiler.is_compiling():
            return func(*args, **keywords)
        noted = _noted(func, args, keywords)
        if noted is None:
            return func(*args, **keywords)
        self._results.append((noted.detach(), noted))
        return self._results[-1][0]

    def behind(self, loss: object, target: object) -> TorchLoss | None:
        """Return torch's loss function that has returned this tensor object and had this target, if it is known."""
        return next((TorchLoss.behind(noted, target) for result, noted in self._results if result is loss), None)


def _noted(function: Callable[..., Tensor], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """Return the result of a loss function with its node; None if autograd cannot note it."""
    given = {**keywords, **dict(zip(("input",), args, strict=False))}
    output = given.pop("input", None)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    try:
        with torch.enable_grad():
            return function(output.detach().requires_grad_(), *args[1:], **given)
    except RuntimeError:  # such as in inference mode or in `torch.vmap`; if it is another error, it is raised again
        return None


def _elements(output: Tensor, target: Tensor) -> int:
    """Return the number of elements that are compared."""
    if output.shape == target.shape:
        return output.numel()
    try:
        return math.prod(torch.broadcast_shapes(output.shape, target.shape))  # type: ignore[no-untyped-call]  # torch's own
    except RuntimeError:  # the output for the metrics is not the one of which the loss was computed
        return target.numel()


def checked_loss(loss: Callable[..., Tensor] | None) -> TorchLoss | None:
    """Return the description of a loss if it is one of torch's.

    Raises:
        OptionError: if its result is not a mean.
    """
    known = TorchLoss.of(loss)
    reduction = known.setting("reduction", "mean") if known else "mean"
    if known and reduction not in ("mean", "batchmean"):
        raise OptionError(
            f"loss is a {known.name} with reduction={reduction!r}: the loss of a batch must be a mean, "
            "so that batches can be split and averaged; use reduction='mean'"
        )
    return known


def checked_weight(weight: object) -> Weight:
    """Return the weight that a `forward` returned: a tensor on the CPU as a number, since reading it costs little.

    Raises:
        UsageError: if it is neither a number from 0 on nor a tensor with one element.
    """
    if isinstance(weight, Tensor) and weight.numel() == 1:
        weight = weight.detach().reshape(())
        if weight.device.type != "cpu":
            return weight  # its value is not read, as that would synchronize
        weight = weight.item()
    number = float(weight) if isinstance(weight, Real) else -1.0
    if not 0 <= number < math.inf:
        what = f"a tensor of shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
        raise UsageError(f"the weight that forward returned is {what}; it must be one number, 0 or larger")
    return number


class TokenLoss:
    """The weight of the loss that a model of tokens computes itself, which is a mean over labels.

    Labels outside the classes, such as -100, are ignored. A causal model predicts each token from those before it, so
    that its loss leaves out the first label of each sample. Whether it does is found out from the first batch: its loss
    is computed in both ways, and the model's is the one to which it is closer.
    """

    def __init__(self) -> None:
        self._is_shifted: bool | None = None
        self._is_other = False
        """Whether the loss is another one, such as a mean over samples."""

    def weight(self, loss: Tensor, logits: object, labels: object) -> Tensor | None:
        """Return the number of labels that the loss is a mean over; None if that is unknown.

        Synchronizes with the GPU in the first batch.

        Args:
            logits: One dimension more than the labels, of which the last is that of the classes.
            labels: At least two dimensions, samples and tokens.
        """
        if not _are_of_tokens(logits, labels) or self._is_other:
            return None
        assert isinstance(logits, Tensor)
        assert isinstance(labels, Tensor)
        counted = (labels >= 0) & (labels < logits.size(-1))
        if self._is_shifted is None:
            self._compare(loss.detach(), logits.detach(), labels.where(counted, IGNORED))
        return None if self._is_other else (counted[..., 1:] if self._is_shifted else counted).sum()

    @torch.no_grad()
    def _compare(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        means = torch.stack(
            [_mean_over_tokens(logits, labels), _mean_over_tokens(logits[..., :-1, :], labels[..., 1:])]
        )
        differences = (means - loss).abs()
        same, shifted, size = torch.stack([*differences, loss.abs()]).tolist()
        if math.isnan(size) or math.isnan(same) or math.isnan(shifted):
            return  # all labels are ignored, or the loss is not finite
        # A loss per token may include more, such as a term for regularization; one per sample is several times larger.
        self._is_other = min(same, shifted) > size / 2
        self._is_shifted = shifted < same


def _are_of_tokens(logits: object, labels: object) -> bool:
    """Return whether these are logits and labels with one class for each token."""
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point():
        return False
    return labels.dim() > 1 and labels.dtype is not torch.bool and logits.shape[:-1] == labels.shape


def _mean_over_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy, a sample at a time, as a batch of logits in single precision may not fit in memory."""
    pairs = zip(logits, labels, strict=True)
    losses = [
        functional.cross_entropy(
            each.float().flatten(0, -2), own.flatten().long(), ignore_index=IGNORED, reduction="sum"
        )
        for each, own in pairs
    ]
    return torch.stack(losses).sum() / (labels != IGNORED).sum()
