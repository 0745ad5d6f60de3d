"""Tensors and arrays of any library: what they are, and copies of them that nothing else changes.

Nothing is imported here: whoever passes a tensor or an array has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sized
from typing import Any, Final

from trainwire.bus.values.gpu import copy_to_host
from trainwire.bus.values.pending import PendingEncoding
from trainwire.bus.values.rejections import short_repr
from trainwire_protocol.errors import MissingExtraError, UnsupportedValueError

READABLE_DEVICES: Final = ("cpu", "cuda")
"""Devices whose tensors are read without waiting; those on other devices are copied to the CPU at once."""

TIME_KINDS: Final = ("m", "M")
"""NumPy's kinds of dtypes whose values are durations or times."""

_NUMERIC_KINDS: Final = "buif"
"""NumPy's kinds of dtypes whose values are real numbers."""


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_on_gpu(value: object) -> bool:
    """Return whether a value is a tensor on a CUDA device."""
    return getattr(value, "is_cuda", False) is True


def is_array(value: object) -> bool:
    """Return whether a value can be converted to an array of NumPy, as those of most libraries can."""
    return hasattr(value, "__array__") and not isinstance(value, type)


def dtype_kind(value: object) -> str:
    """Return the kind of the values of an array of NumPy; empty for anything else."""
    return str(getattr(getattr(value, "dtype", None), "kind", ""))


def describe(value: object) -> str:
    """Return what a value is, for messages: its type, and its shape, length or text."""
    try:
        if value is None or isinstance(value, (bool, int, float, complex)):
            return short_repr(value)
        if isinstance(value, str):
            return f"the text {short_repr(value)}"
        if isinstance(value, bytes):
            return f"{len(value)} bytes that begin with {value[:8]!r}"
        name, shape, dtype = type(value).__name__, getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple) and shape:
            return f"a {name} of shape {tuple(shape)}" + (f" and type {dtype}" if dtype is not None else "")
        return f"a {name} of {len(value)} items" if isinstance(value, Sized) else f"a {name}"
    except Exception:
        return f"a {type(value).__name__}"


def check_tensor(tensor: Any) -> None:
    """Raise UnsupportedValueError if the values of a tensor cannot be read, or are not real numbers."""
    torch = sys.modules["torch"]
    if tensor.is_meta:
        raise UnsupportedValueError("the value is a tensor on the device meta, which has no values")
    if tensor.layout is not torch.strided:
        raise UnsupportedValueError(f"the value is a tensor of layout {tensor.layout}; pass value.to_dense()")
    if tensor.is_quantized:
        raise UnsupportedValueError("the value is a quantized tensor; pass value.dequantize()")
    if tensor.is_complex():
        raise UnsupportedValueError("the value is complex; pass value.abs(), value.real or value.imag")


def readable(tensor: Any) -> Any:
    """Return a tensor whose values can be read and copied without waiting; the same one if it is such a tensor.

    Raises:
        UnsupportedValueError: its values cannot be read, or are not real numbers.
    """
    check_tensor(tensor)
    return tensor.detach() if tensor.device.type in READABLE_DEVICES else tensor.detach().cpu()


def encode_later(value: Any, what: str, encode: Callable[[Any], Any]) -> PendingEncoding:
    """Return a value for which the writer calls `encode` with the current contents, as an array of NumPy.

    Args:
        value: a tensor, or anything of which NumPy makes an array.
        what: what is encoded, for messages.
        encode: returns the event's value.

    Raises:
        UnsupportedValueError: it contains anything but real numbers.
        MissingExtraError: NumPy is not installed.
    """
    if is_tensor(value):
        tensor = readable(value)
        # NumPy has no floats of 8 bits and no bfloat16.
        is_small = tensor.is_floating_point() and tensor.element_size() < 4
        tensor = tensor.float() if is_small else tensor.clone()
        copy = copy_to_host(tensor)
        return PendingEncoding(lambda: encode(copy.array()), tensor.nbytes, [copy])
    array = copy_array(value, what)
    return PendingEncoding(lambda: encode(array), array.nbytes)


def copy_array(value: Any, what: str) -> Any:
    """Return a copy of a value as an array of real numbers of NumPy.

    Raises:
        UnsupportedValueError: it contains anything but real numbers.
        MissingExtraError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise MissingExtraError(what, "media", "numpy") from None
    try:
        array = np.array(value)
    except Exception:  # libraries raise errors of many types
        raise UnsupportedValueError(f"the value is {describe(value)}, which is not an array of numbers") from None
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedValueError("the value is a masked array; pass value.filled(…) or value.compressed()")
    if array.dtype.kind == "c":
        raise UnsupportedValueError("the value is complex; pass abs(value), value.real or value.imag")
    if array.dtype.kind == "V" and array.dtype.names is None:  # the small floats of ml_dtypes, which JAX uses
        array = array.astype(np.float32)
    if array.dtype.kind not in _NUMERIC_KINDS:
        raise UnsupportedValueError(f"the value is {describe(value)}, which is not an array of numbers")
    return array.astype(np.float32) if array.dtype == np.float16 else array
