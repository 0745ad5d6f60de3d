"""What `torch.load(weights_only=True)` can load: the conversion of other values when they are saved, and back."""

from __future__ import annotations

import dataclasses
import datetime
import io
import sys
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from trainwire.training.distributed.sharding import is_sharded
from trainwire_protocol.errors import UsageError

_LOADABLE: Final = {
    type(None), bool, int, float, complex, str, bytes, bytearray, Tensor, nn.Parameter, torch.Size, torch.dtype,
    torch.device,
}  # fmt: skip
_MAPS: Final = (dict, OrderedDict, Counter)
_SEQUENCES: Final = (list, tuple, set)


class _Conversion(NamedTuple):
    """How values of a class are saved, and how one is made again from what was saved and a value of the same class."""

    kind: type | tuple[type, ...]
    save: Callable[[Any], Any]
    load: Callable[[Any, Any], Any]


def _same_class(saved: Any, like: Any) -> Any:
    return type(like)(saved)


_CONVERSIONS: Final = (
    _Conversion(Enum, lambda value: value.value, _same_class),
    _Conversion(PurePath, str, _same_class),
    _Conversion(
        (datetime.date, datetime.time), lambda value: value.isoformat(), lambda saved, like: like.fromisoformat(saved)
    ),
    _Conversion(datetime.timedelta, lambda value: value.total_seconds(), lambda saved, like: type(like)(seconds=saved)),
    _Conversion((Namespace, SimpleNamespace), lambda value: dict(vars(value)), lambda saved, like: type(like)(**saved)),
    _Conversion(defaultdict, dict, lambda saved, like: defaultdict(like.default_factory, saved)),
    _Conversion(OrderedDict, OrderedDict, _same_class),
    _Conversion(Mapping, dict, _same_class),
    _Conversion(deque, list, lambda saved, like: deque(saved, like.maxlen)),
    _Conversion(frozenset, set, _same_class),
    _Conversion(
        tuple, tuple, lambda saved, like: type(like)(*saved) if hasattr(like, "_fields") else type(like)(saved)
    ),
    *(_Conversion(kind, kind, _same_class) for kind in (list, set, int, float, complex, str, bytes)),
)
_ARRAY: Final = _Conversion(object, lambda value: _plain_array(value), lambda saved, like: _array_like(saved, like))
_DATACLASS: Final = _Conversion(
    object,
    lambda value: {field.name: getattr(value, field.name) for field in dataclasses.fields(value)},
    lambda saved, like: type(like)(**saved),
)


def savable(value: Any, place: str, *, copy: bool = False) -> Any:
    """Return the value in a form that can be loaded without executing code.

    Numbers of NumPy become numbers of Python, its arrays tensors, enums their values, paths and dates strings,
    dataclasses and namespaces maps, and objects of derived classes those of the built-in class.

    Args:
        place: What the value is, for the error.
        copy: Copy the tensors to the CPU.

    Raises:
        UsageError: if something in the value cannot be saved; the message names its place.
    """
    kind = type(value)
    if isinstance(value, Tensor) and copy:
        value = value.detach().to("cpu", copy=True)
    if kind in _LOADABLE or is_sharded(value):
        return value
    if kind in _MAPS:
        return _like_map(
            value,
            [
                (savable(key, f"a key of {place}"), savable(item, f"{place}[{key!r}]", copy=copy))
                for key, item in value.items()
            ],
        )
    if kind in _SEQUENCES:
        return kind(savable(item, f"{place}[{index}]", copy=copy) for index, item in enumerate(value))
    conversion = _conversion_of(value)
    if conversion:
        return savable(conversion.save(value), place, copy=copy)
    if not _is_loadable(value):
        raise UsageError(
            f"{place} is a {kind.__module__}.{kind.__qualname__}, which cannot be loaded without executing code; use "
            "numbers, strings, tensors, and lists and maps of them"
        )
    return value


def as_before(saved: Any, like: Any) -> Any:
    """Return what `savable` returned in the classes that it had before.

    Args:
        saved: The value, which was saved and loaded.
        like: A value of the same structure, from before the saving. Where it differs, `saved` is kept as it is.
    """
    if type(like) in _MAPS and isinstance(saved, Mapping):
        known = {savable(key, "a key"): key for key in like}
        items = [
            (known.get(key, key), as_before(item, like[known[key]]) if key in known else item)
            for key, item in saved.items()
        ]
        return _like_map(saved, items)
    if type(like) in (list, tuple) and type(saved) is type(like):
        missing = saved[len(like) :]
        return type(like)([*map(as_before, saved, like), *missing])
    conversion = None if type(like) in _LOADABLE else _conversion_of(like)
    if conversion is not None:
        plain = conversion.save(like)
        with suppress(Exception):
            if type(saved) is type(savable(plain, "it")):
                return conversion.load(as_before(saved, plain), like)
    return saved


def python_numbers(value: Any) -> Any:
    """Return numbers of NumPy as numbers of Python, also within lists, tuples and maps."""
    if isinstance(value, Mapping):
        return {key: python_numbers(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(python_numbers, value))
    return _plain_array(value) if _is_of_numpy(value) and value.ndim == 0 else value


def _like_map(original: Any, items: list[tuple[Any, Any]]) -> Any:
    """Return a map of the same class, with its attributes, such as the versions in a module's `state_dict`."""
    result = type(original)(dict(items)) if type(original) in _MAPS else dict(items)
    getattr(result, "__dict__", {}).update(getattr(original, "__dict__", {}))
    return result


def _conversion_of(value: Any) -> _Conversion | None:
    if isinstance(value, Tensor):
        return None
    if _is_of_numpy(value):
        return _ARRAY
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _DATACLASS
    return next((conversion for conversion in _CONVERSIONS if isinstance(value, conversion.kind)), None)


def _is_of_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray))


def _plain_array(value: Any) -> Any:
    """Return an array of numbers as a tensor, and other arrays and numbers as lists and numbers of Python."""
    if value.ndim:
        with suppress(TypeError, ValueError):  # strings, objects, or numbers that torch does not have
            return torch.tensor(value.astype(value.dtype.newbyteorder("=")))
    plain = value.tolist()
    return float(plain) if type(plain) is type(value) else plain  # a number that Python does not have


def _array_like(saved: Any, like: Any) -> Any:
    numpy = sys.modules["numpy"]
    array = numpy.asarray(saved, dtype=like.dtype)
    return array if isinstance(like, numpy.ndarray) else array[()]


def _is_loadable(value: Any) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True
