"""Converts any value into one made of None, bools, numbers, strings, bytes, lists and maps.

One item that cannot be recorded becomes a text, and the others are kept.
"""

from __future__ import annotations

import dataclasses
import types
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, TypeAlias

from trainwire.bus.values.coercion import text_keys
from trainwire.bus.values.gpu import DeviceCopy, copy_to_host
from trainwire.bus.values.pending import Noted, PendingEncoding, size_of
from trainwire.bus.values.rejections import short_repr
from trainwire.bus.values.tensors import TIME_KINDS, describe, dtype_kind, is_on_gpu, is_tensor, readable
from trainwire_protocol.errors import UnsupportedValueError
from trainwire_protocol.events import MAX_NESTING, MAX_STRING_BYTES

MAX_HPARAMS_BYTES: Final = 16 << 20
"""Maximum size of hyperparameters that are recorded together, in bytes; the largest ones beyond it become texts."""

_CONVERSIONS: Final = ("_asdict", "model_dump", "to_dict", "flag_values_dict")
"""Methods that return the fields of a named tuple, and of the configurations of pydantic, of Hugging Face and
ml_collections, and of Abseil."""

_LEAVES: Final = frozenset({type(None), bool, float, bytes})
_NUMBERS: Final = _LEAVES | {int}
_COLLECTIONS: Final = frozenset({dict, list, tuple})

_Path: TypeAlias = "tuple[_Path, object] | None"
"""The place of an item in a value: the place of the map or list that contains it, and its key."""


def coerce_plain(value: Any) -> Any:
    """Return a deep copy of a value, made of None, bools, numbers, strings, bytes, lists and maps.

    Tensors and arrays become lists, configuration objects maps, and anything else a string. If the copy of a tensor
    from a GPU is not complete yet, the result is a `PendingEncoding`.
    """
    reading = _Reading()
    plain = reading.read(value)
    copies, notes = reading.copies, reading.notes
    if copies:
        return PendingEncoding(lambda: Noted(_fill(plain), notes), sum(copy.size for copy in copies), copies)
    return Noted(plain, notes) if notes else plain


def coerce_text(value: Any) -> Any:
    """Return the value of a `text` event.

    Raises:
        UnsupportedValueError: it is neither a text nor a path.
    """
    if not isinstance(value, (str, PurePath)):
        raise UnsupportedValueError(f"the value is {describe(value)}; pass a text, such as str(value)")
    return coerce_plain(value)


def coerce_hparams(value: Any) -> Noted:
    """Return hyperparameters as a map: those of a mapping, or the fields of an object.

    Raises:
        UnsupportedValueError: it is neither a mapping nor an object with fields.
    """
    fields = fields_of(value)
    if fields is None:
        fields = _attributes_of(value)
    if fields is None:
        raise UnsupportedValueError(
            f"the value is {describe(value)}; pass a mapping, such as vars(arguments) or asdict(options)"
        )
    reading = _Reading(reads_gpu=False)
    plain = reading.read(fields)
    reading.shrink(plain)
    return Noted(plain, reading.notes)


def fields_of(value: Any) -> Mapping[Any, Any] | None:
    """Return the items of a mapping or the fields of a configuration object; None for any other value."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if isinstance(value, (Namespace, types.SimpleNamespace)):
        return vars(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if hasattr(type(value), "__attrs_attrs__"):
        return {field.name: getattr(value, field.name, None) for field in type(value).__attrs_attrs__}
    convert = next((found for name in _CONVERSIONS if callable(found := getattr(value, name, None))), None)
    fields = convert() if convert else None
    return fields if isinstance(fields, Mapping) else None


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the public attributes of an object or class of the user; None if it has none."""
    if not hasattr(value, "__dict__") or callable(value) != isinstance(value, type) or hasattr(value, "__array__"):
        return None
    attributes = {name: getattr(value, name, None) for name in dir(value) if not name.startswith("_")}
    plain = {
        name: item for name, item in attributes.items() if not callable(item) and not isinstance(item, types.ModuleType)
    }
    return plain or None


class _Reading:
    """The conversion of one value, with what has to be reported about it."""

    def __init__(self, reads_gpu: bool = True) -> None:
        self.notes: dict[str, str] = {}
        self.copies: list[DeviceCopy] = []
        """Copies from a GPU, which take the place of their lists until `_fill`."""
        self._reads_gpu = reads_gpu

    def read(self, value: Any, path: _Path = None, depth: int = 0) -> Any:
        """Return the plain form of the item at a path."""
        kind = type(value)
        if kind in _LEAVES:
            return value
        if kind is str and len(value) <= MAX_STRING_BYTES and value.isascii():
            return value
        try:
            return self._convert(value, path, depth)
        except Exception as error:  # whatever a library or a user's class does
            return self._replace(path, f"cannot be read ({short_repr(error)})", f"<{type(value).__name__}>")

    def _convert(self, value: Any, path: _Path, depth: int) -> Any:
        if type(value) in _COLLECTIONS and depth < MAX_NESTING:  # before the checks for other types, which take longer
            if type(value) is dict:
                return self._read_map(value, path, depth)
            return self._read_items(value, path, depth)
        if isinstance(value, Enum):
            return self.read(value.value, path, depth)
        if isinstance(value, str):
            return self._read_text(str(value), path)
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, int):
            return int(value) if _fits(value) else self._read_text(str(value), path)
        if isinstance(value, float):
            return float(value)
        if is_tensor(value):
            return self._read_tensor(value, path, depth)
        if depth == MAX_NESTING:
            return self._read_text(short_repr(value), path)
        if hasattr(value, "tolist"):
            # NumPy's times become integers otherwise.
            is_time = dtype_kind(value) in TIME_KINDS
            return self.read(value.astype(str).tolist() if is_time else value.tolist(), path, depth)
        fields = fields_of(value)
        if fields is not None:
            return self._read_map(fields, path, depth)
        if isinstance(value, Sequence) and not isinstance(value, (list, tuple, range)):
            return [self._read_item(value, place, (path, place), depth) for place in range(len(value))]
        items = _items_of(value)
        if items is None:
            return self._read_text(_text_of(value), path)
        return self._read_items(items, path, depth)

    def _read_items(self, items: list[Any] | tuple[Any, ...], path: _Path, depth: int) -> list[Any]:
        kinds = set(map(type, items))
        if kinds <= _NUMBERS and (int not in kinds or all(type(item) is not int or _fits(item) for item in items)):
            return list(items)  # a tenth of the time
        return [self.read(item, (path, place), depth + 1) for place, item in enumerate(items)]

    def _read_map(self, fields: Mapping[Any, Any], path: _Path, depth: int) -> dict[str, Any]:
        if type(fields) is dict and set(map(type, fields)) == {str}:  # most maps: half of the time
            return {
                name if name.isascii() else self._read_text(name, (path, name)): item
                if type(item) in _LEAVES
                else self.read(item, (path, name), depth + 1)
                for name, item in fields.items()
            }
        plain = dict[str, Any]()
        for name, key in text_keys(fields).items():
            place = (path, name)
            if str(key) != name:
                self._note(place, f"another key of the map is {str(key)!r} too, as a text; this one is renamed")
            plain[self._read_text(name, place)] = self._read_item(fields, key, place, depth)
        return plain

    def _read_item(self, container: Any, key: Any, path: _Path, depth: int) -> Any:
        try:
            item = container[key]
        except Exception as error:  # a mandatory value of OmegaConf that is missing
            return self._replace(path, f"cannot be read ({short_repr(error)})", f"<{type(error).__name__}>")
        return self.read(item, path, depth + 1)

    def _read_tensor(self, tensor: Any, path: _Path, depth: int) -> Any:
        try:
            tensor = readable(tensor)
        except UnsupportedValueError:
            return self._read_text(describe(tensor), path)
        if depth + tensor.dim() > MAX_NESTING:
            return self._read_text(describe(tensor), path)
        if not is_on_gpu(tensor):
            return tensor.tolist()
        if not self._reads_gpu:
            return self._replace(path, "is on a GPU; pass value.tolist()", describe(tensor))
        self.copies.append(copy_to_host(tensor.clone()))
        return self.copies[-1]

    def _read_text(self, text: str, path: _Path) -> str:
        """Return a text with what cannot be encoded escaped, and cut if it is too long."""
        encoded = text.encode(errors="backslashreplace")
        if len(encoded) > MAX_STRING_BYTES:
            self._note(path, f"its text of {len(encoded)} bytes is cut to {MAX_STRING_BYTES}")
        elif len(encoded) == len(text) or text == encoded.decode():
            return text
        else:
            self._note(path, "its text cannot be encoded as UTF-8, and is recorded with escapes")
        return encoded[:MAX_STRING_BYTES].decode(errors="ignore")

    def shrink(self, plain: dict[str, Any]) -> None:
        """Replace the largest items of a map by texts, until it is not too large to be recorded."""
        sizes = {name: size_of(item) for name, item in plain.items()}
        total = sum(sizes.values())
        if total <= MAX_HPARAMS_BYTES:
            return
        for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
            if total <= MAX_HPARAMS_BYTES:
                return
            total -= sizes[name]
            problem = f"has about {sizes[name]} bytes, too many for a hyperparameter"
            plain[name] = self._replace((None, name), problem, describe(plain[name]))

    def _replace(self, path: _Path, problem: str, text: str) -> str:
        self._note(path, f"it {problem}; the text {text!r} is recorded in its place")
        return text

    def _note(self, path: _Path, note: str) -> None:
        keys = list[str]()
        while path is not None:
            path, key = path
            keys.insert(0, str(key))
        place = "/".join(keys)
        self.notes.setdefault(place, f"{place!r:.100}: {note}" if place else note)


def _items_of(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """Return the items of a collection; None for any other value."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)  # sets of strings have a different order in each process
    return list(value) if isinstance(value, Collection) and not isinstance(value, range) else None


def _fits(number: int) -> bool:
    """Return whether a number fits into 64 bits."""
    return -(2**63) <= number < 2**63


def _text_of(value: Any) -> str:
    """Return a class or function by its name, and anything else as a text."""
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def _fill(plain: Any) -> Any:
    """Return a value with the copies in it replaced by their numbers."""
    if isinstance(plain, DeviceCopy):
        return plain.numbers()
    if isinstance(plain, dict):
        return {name: _fill(item) for name, item in plain.items()}
    return [_fill(item) for item in plain] if isinstance(plain, list) else plain
