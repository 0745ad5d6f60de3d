"""The precision of a training: single precision, or automatic mixed precision."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The parts of a training step that depend on the precision.

    In fp16, small gradients would underflow, so the loss is scaled up before the backward pass, and the gradients are
    scaled down after it (`torch.amp.GradScaler`). An update with gradients that are not finite is skipped, and counted
    as a step.

    Args:
        device: Where the model is.
        use_amp: False for single precision, or the type of mixed precision; True for bf16 if the device supports it,
            otherwise fp16.
    """

    def __init__(self, device: torch.device, use_amp: bool | Literal["bf16", "fp16"] = False) -> None:
        self._device = device
        self._type: torch.dtype | None = None
        if use_amp is True:
            has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
            self._type = _TYPES["bf16" if has_bf16 else "fp16"]
        elif use_amp is not False:
            self._type = _TYPES[use_amp]
        self.scaler = GradScaler(device.type) if self._type is torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which to call the model, where each operation chooses its precision."""
        return torch.autocast(self._device.type, self._type) if self._type else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the loss in the parameters."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]  # torch's own

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale."""
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Make the optimizer's update; with a scaler, only if the gradients are finite."""
        if self.scaler:
            self.scaler.step(optimizer)
        else:
            optimizer.step()

    def end_step(self) -> None:
        """Adapt the scale, after the updates of all optimizers."""
        if self.scaler:
            self.scaler.update()

    def metrics(self) -> dict[str, Tensor]:
        """Return the metrics of a step: the scale, as a tensor on the device."""
        # `get_scale` would synchronize with the GPU.
        return {"amp/scale": self.scaler.scale(torch.ones((), device=self._device))} if self.scaler else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state; empty without a scaler."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scaler's state, if there is one."""
        if self.scaler and state:
            self.scaler.load_state_dict(dict(state))
