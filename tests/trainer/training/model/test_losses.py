"""The weights of losses: what each of torch's losses is a mean over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.tiny_training import linear
from torch import Tensor, nn
from torch.nn import functional

from trainwire import Forward, ModelTrainer
from trainwire.training.forward import checked_forward
from trainwire.training.model.losses import NotedLosses, TorchLoss, checked_loss, checked_weight
from trainwire_protocol.errors import OptionError, UsageError

CLASSES = torch.tensor([0.1, 1.0, 10.0])
LABELS = torch.tensor([0, -100, 2, 1, -100, 0, 2])
TOKENS = torch.tensor([[0, 1, -100, 2], [2, -100, -100, -100], [1, 1, 0, 2]])


def scores(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def numbers(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


def probabilities(*shape: int) -> Tensor:
    return numbers(*shape).softmax(1)


LOSSES: list[tuple[Callable[..., Any], dict[str, Any], Tensor, Tensor]] = [
    (nn.CrossEntropyLoss, {}, scores(7, 3), LABELS.clamp(min=0)),
    (nn.CrossEntropyLoss, {}, scores(7, 3), LABELS),
    (nn.CrossEntropyLoss, {"ignore_index": 0}, scores(7, 3), LABELS.abs() % 3),
    (nn.CrossEntropyLoss, {"weight": CLASSES}, scores(7, 3), LABELS),
    (nn.CrossEntropyLoss, {"weight": CLASSES, "label_smoothing": 0.2}, scores(7, 3), LABELS),
    (nn.CrossEntropyLoss, {"label_smoothing": 0.2}, scores(3, 3, 4), TOKENS),
    (nn.CrossEntropyLoss, {"weight": CLASSES}, scores(3, 3, 4), TOKENS),
    (nn.CrossEntropyLoss, {}, scores(7, 3), probabilities(7, 3)),
    (nn.CrossEntropyLoss, {"weight": CLASSES, "label_smoothing": 0.1}, scores(2, 3, 5), probabilities(2, 3, 5)),
    (nn.CrossEntropyLoss, {}, scores(3), torch.tensor(2)),
    (nn.NLLLoss, {"weight": CLASSES}, scores(7, 3), LABELS),
    (nn.MSELoss, {}, scores(7, 3), numbers(7, 3)),
    (nn.L1Loss, {}, scores(2, 3, 4), numbers(2, 3, 4)),
    (nn.SmoothL1Loss, {}, scores(5), numbers(5)),
    (nn.HuberLoss, {}, scores(5), numbers(5)),
    (nn.BCELoss, {}, numbers(4, 2), numbers(4, 2)),
    (nn.BCEWithLogitsLoss, {"pos_weight": CLASSES, "weight": CLASSES}, scores(7, 3), numbers(7, 3)),
    (nn.KLDivLoss, {}, scores(7, 3), probabilities(7, 3)),
    (nn.KLDivLoss, {"reduction": "batchmean"}, scores(7, 3), probabilities(7, 3)),
    (nn.SoftMarginLoss, {}, scores(5, 2), numbers(5, 2).round() * 2 - 1),
    (nn.PoissonNLLLoss, {}, scores(5, 2), numbers(5, 2)),
    (functional.cross_entropy, {"weight": CLASSES, "ignore_index": 1}, scores(7, 3), LABELS % 3),
    (functional.nll_loss, {}, scores(7, 3), LABELS),
    (functional.mse_loss, {}, scores(7, 3), numbers(7, 3)),
    (functional.binary_cross_entropy_with_logits, {}, scores(7, 3), numbers(7, 3)),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize(("kind", "settings", "output", "target"), LOSSES)
def test_a_mean_times_its_weight_is_the_sum(
    kind: Callable[..., Any], settings: dict[str, Any], output: Tensor, target: Tensor
) -> None:
    """This holds for the losses of torch as modules and as functions, with all their arguments."""

    def make(**more: Any) -> Callable[..., Tensor]:
        made: Callable[..., Tensor] = (kind if isinstance(kind, type) else partial(partial, kind))(**settings | more)
        return made

    loss = make()
    known = checked_loss(loss)
    assert known is not None
    weight = known.weight(output, target)
    assert weight is not None
    torch.testing.assert_close(loss(output, target) * weight, make(reduction="sum")(output, target))


@pytest.mark.parametrize(
    ("function", "target"),
    [
        (functional.cross_entropy, LABELS),
        (partial(functional.cross_entropy, weight=CLASSES, ignore_index=0), LABELS.abs() % 3),
        (lambda output, target: functional.nll_loss(output.log_softmax(1), target.flatten()), LABELS),
        (functional.mse_loss, numbers(7, 3)),
        (functional.binary_cross_entropy_with_logits, numbers(7, 3)),
    ],
)
def test_a_loss_function_is_recognized_by_its_result(function: Callable[..., Tensor], target: Tensor) -> None:
    """The result of a function of torch tells with which arguments it was called, unless gradients are disabled."""
    output = scores(7, 3)
    known = TorchLoss.behind(function(output, target), target)
    expected = TorchLoss.of(function) or TorchLoss.of(nn.NLLLoss())
    assert known is not None
    assert expected is not None
    assert checked_weight(known.weight(output, target)) == checked_weight(expected.weight(output, target))
    with torch.no_grad():
        assert TorchLoss.behind(function(output, target), target) is None
    with torch.no_grad(), NotedLosses() as losses:
        loss = function(output, target)
    noted = losses.behind(loss, target)
    assert noted is not None
    assert not loss.requires_grad
    assert checked_weight(noted.weight(output, target)) == checked_weight(expected.weight(output, target))


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: functional.cross_entropy(output, target) * 0.5,
        lambda output, target: functional.cross_entropy(output, target.clone()),
        lambda output, target: functional.cross_entropy(output, target, reduction="sum"),
        lambda output, target: functional.cross_entropy(output, target, label_smoothing=0.1),
    ],
)
def test_other_results_are_not_recognized(loss: Callable[..., Tensor]) -> None:
    """A loss with another term, of another target or with a sum is not taken for a mean over the target."""
    assert TorchLoss.behind(loss(scores(7, 3), LABELS), LABELS) is None
    assert TorchLoss.behind(loss(scores(7, 3), LABELS), None) is None
    with torch.no_grad(), NotedLosses() as losses:
        result = loss(scores(7, 3), LABELS)
    assert losses.behind(result, LABELS) is None
    assert losses.behind(result, None) is None


class Focal(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target) ** 2


class Named(nn.CrossEntropyLoss):
    pass


def test_only_the_losses_of_torch_are_known() -> None:
    """A subclass is known if it computes the same; functions of others, and means over samples, have no weight."""
    assert [checked_loss(loss) for loss in (None, Focal(), lambda output, target: output, print)] == [None] * 4
    known = checked_loss(Named(ignore_index=1))
    assert known is not None
    assert checked_weight(known.weight(scores(7, 3), LABELS % 3)) == int((LABELS % 3 != 1).sum())
    assert known.weight({"scores": scores(7, 3)}, LABELS) is None
    margin = checked_loss(nn.MultiMarginLoss())
    assert margin is not None
    assert margin.weight(scores(7, 3), LABELS) is None


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(reduction="sum"), nn.MSELoss(reduction="none"), partial(functional.l1_loss, reduction="sum")],
)
def test_a_sum_is_refused(loss: Any) -> None:
    """A loss that is not a mean cannot be averaged; the message says what to change."""
    with pytest.raises(OptionError, match=r"Loss with reduction='(sum|none)': .* use reduction='mean'"):
        ModelTrainer(linear(), loss=loss)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(3, 3.0), (0, 0.0), (True, 1.0), (torch.tensor(2.5), 2.5), (torch.tensor([4]), 4.0)],
)
def test_a_weight_is_one_number(weight: Any, expected: float) -> None:
    """It is given as a number or as a tensor, whose value is read if it is on the CPU."""
    assert checked_forward(Forward(torch.tensor(1.0), weight=weight)).weight == expected


@pytest.mark.parametrize(
    ("weight", "message"),
    [(-1, "-1"), (float("nan"), "nan"), ("3", "'3'"), (torch.ones(2), r"a tensor of shape \(2,\)")],
)
def test_an_invalid_weight_is_refused(weight: Any, message: str) -> None:
    """A weight is neither negative nor NaN, nor several numbers."""
    with pytest.raises(UsageError, match=f"the weight that forward returned is {message}; it must be one number, 0 or"):
        checked_forward(Forward(torch.tensor(1.0), weight=weight))


def test_a_weight_on_another_device_is_not_read() -> None:
    """Reading it would synchronize with the GPU."""
    weight = checked_forward(Forward(torch.tensor(1.0), weight=torch.ones(1, device="meta"))).weight
    assert isinstance(weight, Tensor)
    assert (weight.device.type, weight.dim()) == ("meta", 0)
