"""In which precision a model is trained: single, or half where that is safe."""

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
    """Automatic mixed precision, or none: what differs in a step.

    In fp16 small gradients would vanish, so the loss is scaled up before the backward pass, and the gradients down
    after it (`torch.amp.GradScaler`). An update whose gradients are not finite is then left out, and counted as a step.
    """

    def __init__(self, device: torch.device, wanted: bool | Literal["bf16", "fp16"] = False) -> None:
        self._device = device
        self._type: torch.dtype | None = None
        if wanted is not False:
            self._type = _TYPES["bf16" if _has_bf16(device) else "fp16"] if wanted is True else _TYPES[wanted]
        self.scaler = GradScaler(device.type) if self._type is torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the model is called: its operations choose their precision."""
        return torch.autocast(self._device.type, self._type) if self._type else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]  # torch's own

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring the gradients back to their size."""
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def update(self, optimizer: Optimizer) -> None:
        """Let the optimizer make its update; with scaled gradients only if they are finite."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def give_up(self) -> None:
        """Forget this step's gradients, which are not going to be used."""
        if self.scaler:
            self.scaler.update()

    def metrics(self) -> dict[str, Tensor]:
        """What is recorded of a step: the scale, on its device."""
        # `get_scale` would wait for the GPU.
        return {"amp/scale": self.scaler.scale(torch.ones((), device=self._device))} if self.scaler else {}

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that scale."""
        if self.scaler and state:
            self.scaler.load_state_dict(dict(state))


def _has_bf16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
