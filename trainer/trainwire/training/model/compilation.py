"""The compilation of the model by `torch.compile`, for the time of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainwire.training.model.models import is_callable, name_of, plain_model
from trainwire_protocol.errors import OptionError


def checked_compilation(
    model: nn.Module, choice: bool | Mapping[str, Any], device: torch.device
) -> Mapping[str, Any] | None:
    """Return the arguments of `torch.compile`; None if the model is not compiled.

    A small function is compiled first, so that a missing compiler is reported before the first batch.

    Raises:
        OptionError: if the model is compiled already or has no `forward`, or the arguments or the compiler do not work.
    """
    if choice is False:
        return None
    arguments: Mapping[str, Any] = {} if choice is True else choice
    if plain_model(model) is not model or model._compiled_call_impl is not None:
        raise OptionError("compile is given, but the model is compiled or wrapped already: pass the plain model")
    if not is_callable(model):
        raise OptionError(f"compile has no effect, as {name_of(model)} has no forward: call compile() of its parts")
    try:
        torch.compile(_double, **arguments)(torch.zeros(1, device=device))
    except Exception as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise OptionError(
            f"compile: torch.compile fails with {dict(arguments)} on {device}: {reason}; the default backend needs a "
            "C++ compiler on a CPU, and Triton on a GPU: install it, or omit compile"
        ) from error
    return arguments


@contextmanager
def compiled(model: nn.Module, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """Compile the model in place, so that the names of its parameters stay the same, and undo it at the end.

    Args:
        arguments: Those of `torch.compile`; None to do nothing.
    """
    if arguments is None:
        yield
        return

    def call(*inputs: Any, **keywords: Any) -> Any:
        return model._call_impl(*inputs, **keywords)  # type: ignore[no-untyped-call]  # torch's own

    # `model.compile` would leave out modules of torch.nn itself, such as a Sequential.
    model._compiled_call_impl = torch.compile(call, **arguments)
    try:
        yield
    finally:
        model._compiled_call_impl = None


def _double(numbers: torch.Tensor) -> torch.Tensor:
    return numbers + numbers
