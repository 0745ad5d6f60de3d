"""Makes plugins fail where they would make the training thread wait for a GPU, on machines without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from torch.utils._python_dispatch import TorchDispatchMode

from trainwire import Plugin

SomePlugin = TypeVar("SomePlugin", bound=Plugin)

WAITING: Final = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
)
"""Operations whose result, or the size of it, is needed by the CPU: on a GPU it would have to wait."""

STEP_HOOKS: Final = ("before_training_batch", "before_training_optimizer_step", "after_training_batch")


class GpuWaitError(Exception):
    """An operation that would wait for a GPU."""


class GpuWaitGuard(TorchDispatchMode):
    """Raises for operations that would wait for a GPU."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if operation.name().partition(".")[0] in WAITING:
            raise GpuWaitError(f"{operation.name()} waits for the GPU")
        return operation(*args, **(kwargs or {}))


def fail_on_gpu_wait(plugin: SomePlugin) -> SomePlugin:
    """Return the plugin, with its per-step hooks changed to fail where they would wait for a GPU."""
    bindings = plugin.bindings

    def guarded(listener: Callable[[Any], object]) -> Callable[[Any], object]:
        def call(payload: Any) -> object:
            with GpuWaitGuard():
                return listener(payload)

        return call

    plugin.bindings = lambda: [  # type: ignore[method-assign]  # of this one plugin, for a test
        binding._replace(listener=guarded(binding.listener)) if binding.name in STEP_HOOKS else binding
        for binding in bindings()
    ]
    return plugin
