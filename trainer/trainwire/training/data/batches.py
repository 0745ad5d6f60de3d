"""Batches: how many samples are in one, how it is split into chunks, and how it is moved to a device.

`ModelTrainer` has a method for each of the three, which calls the function here and may be overridden.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from functools import lru_cache
from operator import index
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from trainwire_protocol.errors import UsageError

Counts: TypeAlias = tuple[int, ...]
"""The possible numbers of samples in a part of a batch, the most likely first; empty if the part says nothing."""

Prepared: TypeAlias = dict[int, tuple[Any, Any]]
"""Parts of a batch that are converted before they are split, by their ids, each with what it was converted to."""


class Batches(Protocol):
    """The methods of a `ModelTrainer` that know what a batch is."""

    def samples_in_batch(self, batch: Any) -> int:
        """Return the number of samples in a batch."""

    def split_batch(self, batch: Any, size: int) -> Sequence[Any]:
        """Split a batch into chunks of `size` samples, of which the last one may be smaller."""

    def batch_to_device(self, batch: Any, device: torch.device) -> Any:
        """Return the batch with everything in it on the device."""


def samples_in(batches: Batches, batch: Any) -> int:
    """Return what `samples_in_batch` returns.

    Raises:
        UsageError: if that is not a whole number.
    """
    samples = batches.samples_in_batch(batch)
    try:
        return index(samples)
    except TypeError:
        raise UsageError(f"samples_in_batch returned {samples!r}: return the number of samples, an int") from None


class BatchStructure:
    """What the batches of a trainer consist of: how many samples are in one, and how it is split.

    A batch that is a list of tensors can hold columns, such as inputs and target, or one tensor for each sample. It
    holds samples if their lengths differ, or if the first batch has as many items as the loader's `batch_size`. That is
    remembered, as some batches may have equal lengths by chance.

    Args:
        batch_size: The number of samples in the first batch, if it is known.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        self._batch_size = batch_size
        self._has_no_columns: bool | None = None
        """Whether the batches are lists of samples; None before the first batch."""

    def count(self, batch: Any) -> int | None:
        """Return the number of samples in a batch, or None if it is unknown.

        The parts of a batch are searched for a number that they share: the length of a tensor or of a list of samples.
        If they share none, most of them, or else the first one, determine it.
        """
        if not _is_plain_list(batch):
            counts = _counts(batch)
            return counts[0] if counts else None
        columns = _column_counts(batch)
        if self._has_no_columns is None:
            self._has_no_columns = len(batch) == self._batch_size and len(batch) not in columns
        self._has_no_columns = self._has_no_columns or not columns
        return len(batch) if self._has_no_columns else columns[0]

    def split(self, batch: Any, samples: int, size: int) -> list[Any]:
        """Split a batch into chunks of `size` samples, of which the last one may be smaller.

        Whatever has one row or item for each sample is split; everything else is the same in each chunk.

        Args:
            samples: The number of samples in the batch.

        Raises:
            UsageError: if a part of the batch cannot be split.
        """
        slices = [slice(start, min(start + size, samples)) for start in range(0, samples, size)]
        if _is_plain_list(batch) and self._has_no_columns and len(batch) == samples:
            return [batch[rows] for rows in slices]
        prepared: Prepared = {}
        chunks = [_part(batch, rows, samples, prepared) for rows in slices]
        if len(chunks) > 1 and chunks[0] is batch:
            raise _cannot_split(batch)
        return chunks


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with everything in it on the device; what is there already is not copied.

    Tensors, and objects with a method `to`, are moved, also within lists, tuples, maps, dataclasses and the like.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if batch is None or isinstance(batch, (str, bytes, int, float, type)):
        return batch
    if callable(getattr(batch, "to", None)):
        moved = _moved(batch, device)
        return batch if moved is None else moved  # it was moved in place
    return _rebuilt(batch, lambda part: to_device(part, device))


def _moved(batch: Any, device: torch.device) -> Any:
    arguments, keywords = _arguments_of_to(type(batch), device)  # type: ignore[arg-type]  # classes are hashable
    try:
        return batch.to(*arguments, **keywords)
    except TypeError as error:  # it takes any arguments, and passes them on to something that does not
        if "non_blocking" in keywords and "non_blocking" in str(error):
            return batch.to(*arguments, **{name: value for name, value in keywords.items() if name != "non_blocking"})
        raise


@lru_cache(maxsize=256)
def _arguments_of_to(kind: type, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments for a class's method `to`: the device, and `non_blocking` if it is accepted."""
    possible: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((device,), {"non_blocking": True}), ((device,), {}),
        ((), {"device": device, "non_blocking": True}), ((), {"device": device}),
    ]  # fmt: skip
    try:
        signature = inspect.signature(kind.to)  # type: ignore[attr-defined]  # its instances have it
    except (AttributeError, TypeError, ValueError):  # it belongs to the instance, or is not written in Python
        return possible[1]
    for arguments, keywords in possible:
        try:
            signature.bind(None, *arguments, **keywords)
        except TypeError:
            continue
        return arguments, keywords
    return possible[1]


def _counts(value: Any) -> Counts:
    if isinstance(value, Tensor):
        return (value.size(0),) if value.dim() else ()
    if isinstance(value, PackedSequence):
        return (int(value.batch_sizes[0]),)  # on the CPU, wherever the sequence is
    if value is None or isinstance(value, (str, bytes, int, float)):
        return ()
    if (own := _own_count(value)) is not None:
        return (own,)
    parts = _parts(value)
    if parts is not None:
        return _shared(map(_counts, parts))
    if isinstance(value, (list, tuple)):
        return (*_column_counts(value), len(value)) if value else ()
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):  # such as an array
        return (len(value),) if getattr(value, "shape", None) != () else ()
    attributes = vars(value).values() if hasattr(value, "__dict__") else ()
    return _shared(_counts(part) for part in attributes if isinstance(part, Tensor))


def _is_plain_list(value: Any) -> bool:
    """Return whether this is a list or tuple with items, and not a named tuple."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and not hasattr(value, "_fields")


def _own_count(value: Any) -> int | None:
    """Return the number of samples that an object states itself, as batches of graphs and of `TensorDict` do."""
    for name in ("num_graphs", "batch_size"):
        count = getattr(value, name, None)
        if isinstance(count, torch.Size):
            return count[0] if count else None
        if isinstance(count, int):
            return count
    return None


def _shared(parts: Iterable[Counts], *, strict: bool = False) -> Counts:
    """Return the counts that all parts share; if they share none and this is not `strict`, that of most parts."""
    known = [counts for counts in parts if counts]
    if not known:
        return ()
    shared = tuple(count for count in known[0] if all(count in counts for counts in known))
    if shared or strict:
        return shared
    # `most_common` keeps the order of those that are equally common.
    return (Counter(counts[0] for counts in known).most_common(1)[0][0],)


def _column_counts(items: Sequence[Any]) -> Counts:
    """Return the possible counts if the items are columns, such as inputs and target; empty if each is a sample."""
    first = items[0]
    if isinstance(first, Tensor) and first.dim():
        rows = first.size(0)
        if all(isinstance(item, Tensor) and item.dim() and item.size(0) == rows for item in items):
            return (rows,)
    lengths = set(_lengths(items))
    if len(lengths) == 1 and None not in lengths:  # as if collated by torch
        return _shared(map(_counts, items))
    if all(isinstance(item, (list, tuple)) and not isinstance(item, PackedSequence) for item in items):
        is_each_a_sample = _are_records(items) or _are_lists_of_numbers(items)
        return () if is_each_a_sample else _shared(map(_counts, items), strict=True)
    is_batched = isinstance(items[0], PackedSequence) or _own_count(items[0]) is not None
    if len(set(map(_kind, items))) == 1 and not is_batched:
        return ()
    return _shared(map(_counts, items))


def _are_records(items: Sequence[Sequence[Any]]) -> bool:
    """Return whether the items are samples with the same fields, such as images with their labels."""
    kinds = {tuple(map(_kind, item)) for item in items}
    return len(kinds) == 1 and len(set(kinds.pop())) > 1


def _are_lists_of_numbers(items: Sequence[Any]) -> bool:
    """Return whether the items are rows, such as token ids; columns of numbers would be tensors or tuples."""
    return all(isinstance(item, list) and item and isinstance(item[0], (int, float)) for item in items)


def _lengths(value: Any) -> Iterable[int | None]:
    """Yield the length of each tensor within lists, tuples and maps; None for everything that is not batched."""
    if isinstance(value, (list, tuple)) and not isinstance(value, PackedSequence):
        for item in value:
            yield from _lengths(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _lengths(item)
    else:
        yield len(value) if isinstance(value, Tensor) and value.dim() else None


def _kind(value: Any) -> object:
    """Return what two samples have in common: the type and, of tensors, the number of dimensions."""
    return (value.dtype, value.dim()) if isinstance(value, Tensor) else type(value)


def _part(value: Any, rows: slice, samples: int, prepared: Prepared, *, prefer_rows: bool = False) -> Any:
    """Return some of the samples of a part of a batch; the part itself if it has no rows for the samples."""
    if samples not in _counts(value):
        return value
    if isinstance(value, Tensor):
        return _tensor_rows(value, rows, prepared)
    if isinstance(value, PackedSequence):
        padded, lengths = _once(value, lambda: pad_packed_sequence(value, batch_first=True), prepared)
        return pack_padded_sequence(padded[rows], lengths[rows], batch_first=True, enforce_sorted=False)
    if hasattr(value, "from_data_list") and hasattr(value, "to_data_list"):  # graphs of torch-geometric
        return type(value).from_data_list(_once(value, value.to_data_list, prepared)[rows])
    if isinstance(getattr(value, "batch_size", None), torch.Size):  # a TensorDict
        return value[rows]
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        is_columns = samples in _column_counts(value)
        if len(value) == samples and (prefer_rows or not is_columns):
            return value[rows]
    parts = _parts(value)
    if parts is None and isinstance(value, (list, tuple)):
        parts = list(value)
    if parts is not None:
        has_rows = any(_is_list_of_samples(part, samples) for part in parts)
        return _rebuilt(value, lambda part: _part(part, rows, samples, prepared, prefer_rows=has_rows))
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return value[rows]
    raise _cannot_split(value)


def _is_list_of_samples(value: Any, samples: int) -> bool:
    """Return whether this is certainly a list with one item for each sample: the lists beside it are such lists too."""
    if not isinstance(value, (list, tuple)) or len(value) != samples or samples in _column_counts(value):
        return False
    return not isinstance(value[0], str)  # a column of strings stands beside columns of tensors


def _once(value: Any, convert: Callable[[], Any], prepared: Prepared) -> Any:
    """Return what the value is converted to, which is computed for the first chunk."""
    if id(value) not in prepared:
        prepared[id(value)] = value, convert()
    return prepared[id(value)][1]


def _tensor_rows(value: Tensor, rows: slice, prepared: Prepared) -> Tensor:
    if value.is_nested:
        return torch.nested.as_nested_tensor(list(_once(value, value.unbind, prepared)[rows]), layout=value.layout)
    if value.layout is torch.sparse_coo:
        return value.narrow_copy(0, rows.start, rows.stop - rows.start)
    return value[rows]


def _cannot_split(value: object) -> UsageError:
    return UsageError(
        f"mini_batch_chunk_size: a {type(value).__name__} in a batch cannot be split into chunks: override "
        "ModelTrainer.split_batch, or omit mini_batch_chunk_size"
    )


def _field_names(value: Any) -> list[str] | None:
    """Return the names of the fields of a dataclass, or of a class that is declared in a similar way."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
    elif (declared := getattr(type(value), "__attrs_attrs__", None)) is not None:
        names = [attribute.name for attribute in declared]
    elif isinstance(declared := getattr(type(value), "model_fields", None), Mapping):  # pydantic's
        names = list(declared)
    elif isinstance(value, SimpleNamespace):
        names = list(vars(value))
    else:
        return None
    return [name for name in names if hasattr(value, name)]


def _parts(value: Any) -> list[Any] | None:
    """Return the named parts of a map, a named tuple, a dataclass or the like; None for any other value."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value)
    names = _field_names(value)
    return None if names is None else [getattr(value, name) for name in names]


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a container with its parts changed; the container itself if all parts stay the same objects."""
    if isinstance(value, Mapping):
        return _with_items(value, {key: change(part) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        parts = [change(part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return _sequence_like(value, parts)
    names = _field_names(value)
    if names is None:
        return value
    changed = {name: change(getattr(value, name)) for name in names}
    if all(new is getattr(value, name) for name, new in changed.items()):
        return value
    other = copy(value)
    for name, part in changed.items():
        object.__setattr__(other, name, part)  # it may be frozen
    return other


def _sequence_like(value: list[Any] | tuple[Any, ...], parts: list[Any]) -> list[Any] | tuple[Any, ...]:
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    if isinstance(value, tuple):
        return type(value)(parts)
    other = copy(value)  # a subclass may have attributes
    other[:] = parts
    return other


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    if all(new is value[key] for key, new in items.items()):
        return value
    if not isinstance(value, MutableMapping):
        return items
    other = copy(value)
    for key, part in items.items():
        other[key] = part
    return other
