"""Sharding: a model whose parameters, gradients and optimizer state are divided among processes by `fully_shard`.

`torch.distributed.fsdp` is imported only where a model is sharded, because that takes seconds.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.optim import LBFGS, Optimizer

from trainwire.training.distributed.processes import Processes
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

Policy: TypeAlias = "bool | type[nn.Module] | Sequence[type[nn.Module]] | Callable[..., bool]"
"""Which modules are units of their own, besides the model: see the option `fsdp`."""

ARGUMENTS: Final = ("mesh", "reshard_after_forward", "shard_placement_fn", "mp_policy", "offload_policy")
"""The arguments of `fully_shard` that may be given."""

_SHORT_NAMES: Final = {"mp_policy": "bf16", "offload_policy": "cpu"}


@dataclass(frozen=True, slots=True)
class Sharding:
    """The sharded modules of a training."""

    mesh: DeviceMesh
    group: ProcessGroup
    """A gloo group for the thread that writes checkpoints, which must not share one with the training."""
    units: tuple[FSDPModule, ...]
    """The modules whose parameters are gathered together, each before its forward pass."""

    def reshard(self) -> None:
        """Release gathered parameters, so that each module has its shards.

        After a forward pass without a backward pass, the whole model still has the gathered parameters of its own unit.
        """
        for unit in self.units:
            unit.reshard()

    @contextmanager
    def without_reduction(self) -> Iterator[None]:
        """Return a context in which gradients are accumulated in this process, as whole tensors."""
        self._reduce(False)
        try:
            yield
        finally:
            self._reduce(True)

    def _reduce(self, requires: bool) -> None:
        for unit in self.units:
            unit.set_requires_gradient_sync(requires, recurse=False)


def is_policy(value: object) -> bool:
    """Return whether the value can be the option `fsdp`."""
    if isinstance(value, bool) or _is_module_class(value):
        return True
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_module_class, value))
    return callable(value) and not isinstance(value, (type, nn.Module))


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the names of the arguments for `fully_shard`, and the short names of policies.

    Raises:
        OptionError: if one is unknown.
    """
    for name, value in arguments.items():
        if name not in ARGUMENTS:
            raise OptionError(f"fsdp_arguments contains {name!r}; the arguments are {', '.join(ARGUMENTS)}")
        if isinstance(value, str) and value != _SHORT_NAMES.get(name):
            short = f"; its only short name is {_SHORT_NAMES[name]!r}" if name in _SHORT_NAMES else ""
            raise OptionError(f"fsdp_arguments contains {name}={value!r}{short}")


def check_model(model: nn.Module, policy: Policy) -> None:
    """Check that a model can be sharded, before processes are connected.

    Raises:
        OptionError: if a part of it cannot be sharded, or the policy selects nothing.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise OptionError("fsdp: parameters of the model are on the meta device: create the model with data")
    for name, module in model.named_modules():
        if any(child == "_orig_mod" for child, _ in module.named_children()):
            raise OptionError(
                f"fsdp: {name or 'the model'} is compiled by torch.compile: compile parts in place with Module.compile"
            )
        if isinstance(module, (nn.parallel.DataParallel, nn.parallel.DistributedDataParallel)):
            raise OptionError(f"fsdp: {name or 'the model'} is a {type(module).__name__}: omit this wrapper")
        if getattr(module, "sparse", False) is True and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            raise OptionError(f"fsdp: {name} has sparse gradients, which cannot be sharded: omit sparse=True")
    modules_of_units(model, policy)


def modules_of_units(model: nn.Module, policy: Policy) -> list[nn.Module]:
    """Return the modules inside the model that are units of their own, in the order of `Module.modules`.

    Raises:
        OptionError: if the policy selects none that has parameters.
    """
    if policy is True:
        return _repeated_modules(model)
    found = [module for name, module in model.named_modules() if name and _selects(policy, name, module)]
    with_parameters = [module for module in found if any(True for _ in module.parameters())]
    if not with_parameters:
        classes = ", ".join(sorted({type(module).__name__ for module in model.modules() if module is not model}))
        raise OptionError(
            f"fsdp selects {'only modules without parameters' if found else 'no module of the model'}; the classes in "
            f"the model are {classes or 'none'}: choose some of them, or pass fsdp=True"
        )
    return with_parameters


def _selects(policy: Policy, name: str, module: nn.Module) -> bool:
    if isinstance(policy, (type, list, tuple)):
        return isinstance(module, policy if isinstance(policy, type) else tuple(policy))
    assert callable(policy)
    try:
        inspect.signature(policy).bind(name, module)
    except TypeError:
        return bool(policy(module))
    return bool(policy(name, module))


def _repeated_modules(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model: what it names in `_no_split_modules`, or else the modules in its ModuleLists."""
    names = getattr(model, "_no_split_modules", None) or ()
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
        inside = {id(inner) for each in lists for item in each for inner in item.modules()}
        layers = [item for each in lists if id(each) not in inside for item in each]
        layers = [layer for layer in layers if not isinstance(layer, (nn.ModuleList, nn.ModuleDict))]
    return [layer for layer in dict.fromkeys(layers) if any(True for _ in layer.parameters())]


def shard(
    modules: Iterable[nn.Module], policy: Policy, arguments: Mapping[str, Any], device: torch.device,
    processes: Processes,
) -> Sharding:  # fmt: skip
    """Divide the parameters of modules among the processes, in place, after giving each process the first one's.

    Args:
        modules: The model, and other modules with parameters, each of which is one unit.
        processes: All of which must call this.

    Raises:
        OptionError: if torch cannot shard a module, or an argument is invalid.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    model, *others = modules
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        given = _resolved(arguments, device, processes)
        for whole_module in (model, *others):
            _copy_from_first(whole_module, processes)
        for module in [*reversed(modules_of_units(model, policy)), model, *others]:
            fully_shard(module, **given)
    except (ValueError, TypeError, NotImplementedError, AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(f"fsdp: the model cannot be sharded: {reason}") from error
    group = distributed.new_group(backend="gloo")
    assert group is not None
    units = tuple(unit for module in (model, *others) for unit in module.modules() if isinstance(unit, FSDPModule))
    return Sharding(given["mesh"], group, units)


def _resolved(arguments: Mapping[str, Any], device: torch.device, processes: Processes) -> dict[str, Any]:
    """Return the arguments of `fully_shard`, with the policies that short names stand for."""
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

    given = dict(arguments)
    if given.get("mp_policy") == "bf16":
        given["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if given.get("offload_policy") == "cpu":
        given["offload_policy"] = CPUOffloadPolicy()
    kinds = {"mp_policy": MixedPrecisionPolicy, "offload_policy": OffloadPolicy, "mesh": DeviceMesh}
    for name, kind in kinds.items():
        if name in given and not isinstance(given[name], kind):
            raise OptionError(f"fsdp_arguments contains {name}={given[name]!r}; it must be a {kind.__name__}")
    if device.type == "cpu" and isinstance(given.get("offload_policy"), CPUOffloadPolicy):
        raise OptionError("fsdp_arguments: offload_policy moves shards from a GPU to the host, but device is cpu")
    mesh = given.setdefault("mesh", init_device_mesh(device.type, (processes.world_size,)))
    if mesh.size() != processes.world_size or mesh.ndim > 2 or mesh.device_type != device.type:
        raise OptionError(
            f"fsdp_arguments: mesh is {mesh}; it must contain all {processes.world_size} processes, have one dimension "
            f"or two (copies, shards), and be for {device.type}"
        )
    return given


def _copy_from_first(module: nn.Module, processes: Processes) -> None:
    if processes.several:
        for tensor in (*module.parameters(), *module.buffers()):
            group = processes.group if tensor.device.type == "cpu" else None
            distributed.broadcast(tensor.detach(), 0, group=group)


def check_optimizer(optimizer: Optimizer, sharding: Sharding) -> None:
    """Make an update of one small sharded parameter, to find out whether the optimizer's class can do that.

    Raises:
        OptionError: if it cannot.
    """
    from torch.distributed.tensor import distribute_tensor

    kind, settings = type(optimizer), dict(optimizer.defaults)
    about = f"the optimizer {kind.__name__} cannot update parameters that fsdp has sharded"
    if issubclass(kind, LBFGS):
        raise OptionError(about)
    values = torch.ones(2 * sharding.mesh.size() + 1, 3)
    placements = placements_in(sharding.mesh, values.dim())
    parameter = nn.Parameter(distribute_tensor(values, sharding.mesh, placements, src_data_rank=None))
    parameter.grad = parameter.detach().clone()
    known = inspect.signature(kind).parameters
    try:
        kind([parameter], **{name: value for name, value in settings.items() if name in known}).step()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(f"{about}: {reason}; AdamW, Adam and SGD can") from error


def placements_in(mesh: DeviceMesh, dimensions: int) -> list[Any]:
    """Return how a tensor of so many dimensions is divided over a mesh: by rows, in the last dimension of the mesh."""
    from torch.distributed.tensor import Replicate, Shard

    copies: list[Any] = [Replicate()] * (mesh.ndim - 1)
    return [*copies, Shard(0) if dimensions else Replicate()]


def is_sharded(value: object) -> bool:
    """Return whether the value is a tensor that is divided among processes."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor or, if it is sharded, the whole of it, which all processes must request."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor


def divided_like(value: Any, current: Any) -> Any:
    """Return the value or, if it is a whole tensor and `current` a sharded one, this process's shard of it."""
    if not is_sharded(current) or not isinstance(value, Tensor) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach(), current.device_mesh, current.placements, src_data_rank=None)


def without_shards(state: Any, *, keep: bool) -> Any:
    """Return a state with whole tensors, on the CPU, instead of sharded ones; all processes must call this.

    Args:
        keep: Whether this process needs the result. Otherwise it only takes part, one tensor at a time.
    """

    def gathered(_: tuple[str, ...], tensor: Tensor) -> Tensor | None:
        full = whole(tensor)
        return full.cpu() if keep else None

    return replace_tensors(state, is_sharded, gathered)


def replace_tensors(
    state: Any, applies: Callable[[object], bool], function: Callable[[tuple[str, ...], Tensor], Any],
    path: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """Return a state, of maps, lists and tuples, in which `function(path, tensor)` replaces those that `applies` to."""
    if applies(state):
        return function(path, state)
    if isinstance(state, Mapping):
        changed = {key: replace_tensors(value, applies, function, (*path, str(key))) for key, value in state.items()}
        if all(changed[key] is state[key] for key in changed):
            return state
        result = OrderedDict(changed) if isinstance(state, OrderedDict) else changed
        getattr(result, "__dict__", {}).update(getattr(state, "__dict__", {}))  # the versions in a `state_dict`
        return result
    if type(state) in (list, tuple):
        items = [replace_tensors(item, applies, function, (*path, str(at))) for at, item in enumerate(state)]
        return type(state)(items)
    return state


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
