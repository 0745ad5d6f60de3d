"""How a model is called with a batch, and what is taken from its result."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trainwire.training.model.models import name_of, plain_model
from trainwire_protocol.errors import UsageError

TARGETS: Final = ("labels", "label", "targets", "target")
"""The keys that may hold the target in a batch that is a mapping."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Call(NamedTuple):
    """The arguments of the model for a batch, and the batch's target."""

    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}
    target: Any = None


class _Keys(NamedTuple):
    """What happens to the keys of a batch that is a mapping."""

    passed: tuple[str, ...]
    target: str | None


class ModelCalls:
    """Determines the arguments with which a model is called.

    A batch that is a mapping is passed by keyword, and the items of a tuple or list by position. If the trainer has a
    loss, the target is left out, unless the model requires it.

    Args:
        has_loss: Whether the trainer has a loss. Otherwise the model's result has one.
    """

    def __init__(self, model: nn.Module, *, has_loss: bool) -> None:
        self.model = model
        self._has_loss = has_loss
        self._keys: dict[tuple[tuple[Any, ...], bool], _Keys] = {}
        """By the keys of the batch, and whether it is trained or evaluated on."""
        self._lengths: set[int] = set()
        """The lengths of tuples that the model can be called with."""

    def with_target(self, batch: Any) -> Call:
        """Return the arguments for a batch that is trained or evaluated on.

        Raises:
            UsageError: if the model cannot be called with it, or it has no target but the trainer has a loss.
        """
        if is_mapping(batch):
            return self._by_keyword(batch, needs_target=True)
        is_sequence = _is_sequence(batch)
        if not self._has_loss:
            items = tuple(batch) if is_sequence else (batch,)
            self._check_length(items)
            return Call(items, target=batch[-1] if is_sequence and len(batch) > 1 else None)
        if not is_sequence or len(batch) < 2:
            raise UsageError(
                f"a batch is a {type(batch).__name__}, neither inputs followed by a target nor a mapping: override "
                "ModelTrainer.forward"
            )
        return Call(tuple(batch[:-1]), target=batch[-1])

    def without_target(self, batch: Any) -> Call:
        """Return the arguments for a batch that may lack a target. It is left out, unless the model requires it.

        The last of several items is the target, if the model has fewer required arguments than there are items.

        Raises:
            UsageError: if the model cannot be called with the keys of the batch.
        """
        if is_mapping(batch):
            return self._by_keyword(batch, needs_target=False)
        if not _is_sequence(batch):
            return Call((batch,))
        required = [each for each in self._parameters() if each.kind in _POSITIONAL and each.default is each.empty]
        return Call(tuple(batch if len(batch) <= max(1, len(required)) else batch[:-1]))

    def _by_keyword(self, batch: Any, *, needs_target: bool) -> Call:
        names = tuple(batch.keys())
        keys = self._keys.get((names, needs_target))
        if keys is None:
            keys = self._keys[names, needs_target] = self._checked_keys(names, needs_target)
        target = None if keys.target is None else batch[keys.target]
        return Call((), {name: batch[name] for name in keys.passed}, target)

    def _checked_keys(self, names: tuple[Any, ...], needs_target: bool) -> _Keys:
        parameters = self._parameters()
        taken = [each.name for each in parameters if each.kind in _BY_KEYWORD]
        required = [each.name for each in parameters if each.kind in _BY_KEYWORD and each.default is each.empty]
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        targets = [name for name in names if name in TARGETS]
        if self._has_loss and needs_target and len(targets) != 1:
            raise UsageError(
                f"a batch has the keys {_listed(names)}, of which {'several' if targets else 'none'} can be the "
                f"target: give it one of {_listed(TARGETS)}, or override ModelTrainer.forward"
            )
        left_out = set(targets) - set(required) if self._has_loss else set[str]()
        if not needs_target and not takes_all:
            left_out |= set(targets) - set(taken)
        passed = tuple(name for name in names if name not in left_out)
        unknown = [name for name in passed if not isinstance(name, str) or not (takes_all or name in taken)]
        missing = [name for name in required if name not in passed]
        if unknown or missing:
            what = f"the keys {_listed(unknown)}, which" if unknown else f"no {_listed(missing)}, which"
            does = f"{name_of(self.model)}.forward {'does not take' if unknown else 'requires'}"
            raise UsageError(
                f"a batch has {what} {does}: it takes {_listed(taken)}, and the batch has {_listed(names)}; change the "
                "keys in the dataset or its collate function, or override ModelTrainer.forward"
            )
        return _Keys(passed, targets[0] if len(targets) == 1 else None)

    def _check_length(self, items: tuple[Any, ...]) -> None:
        if len(items) in self._lengths:
            return
        try:
            inspect.Signature(self._parameters()).bind(*items)
        except TypeError as error:
            raise UsageError(
                f"there is no loss: give loss=, a function of output and target, or override forward; without a loss, "
                f"{name_of(self.model)} is called with all of the batch, which fails: {error}"
            ) from None
        self._lengths.add(len(items))

    def _parameters(self) -> list[inspect.Parameter]:
        try:
            return list(inspect.signature(plain_model(self.model).forward).parameters.values())
        except (TypeError, ValueError):  # it is not written in Python
            return [
                inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL),
                inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD),
            ]


def is_mapping(value: Any) -> bool:
    """Return whether this is a mapping, or an object that has the methods of one, such as a `TensorDict`."""
    if isinstance(value, (Mapping, Tensor)):
        return isinstance(value, Mapping)
    return all(callable(getattr(value, name, None)) for name in ("keys", "items", "__getitem__"))


def output_of(result: Any) -> Any:
    """Return the output for metrics and predictions: the `logits` of a model's result, or else all of it."""
    logits = _part(result, "logits")
    return result if logits is None else logits


def own_loss_of(result: Any, batch: Any) -> Tensor:
    """Return the `loss` of a model's result.

    Raises:
        UsageError: if it has none.
    """
    loss: Tensor | None = _part(result, "loss")
    if loss is None:
        had = f" from the keys {_listed(batch.keys())}" if is_mapping(batch) else ""
        raise UsageError(
            f"there is no loss: the model returned a {type(result).__name__} without one{had}; give loss=, a function "
            "of output and target, override forward, or add the labels that the model computes its loss from"
        )
    return loss


def _part(result: Any, name: str) -> Any:
    if isinstance(result, Tensor):
        return None
    if is_mapping(result):
        return result[name] if name in result.keys() else None  # noqa: SIM118  # not every mapping has `in`
    return getattr(result, name, None)


def _is_sequence(batch: Any) -> bool:
    return isinstance(batch, (list, tuple)) and not isinstance(batch, PackedSequence)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
