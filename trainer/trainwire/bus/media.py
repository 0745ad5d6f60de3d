"""Histograms, images and sounds: already encoded, or as tensors, arrays and lists.

The thread that records copies arrays, and begins to copy tensors from a GPU; the writer encodes them.
"""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from trainwire.bus.coercion import PendingEncoding, coerce_plain
from trainwire.bus.gpu import copy_to_host
from trainwire_protocol.errors import MissingExtraError

HISTOGRAM_BINS: Final = 64

_IMAGE_FORMATS: Final = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def coerce_histogram(value: Any) -> Any:
    """Return the value of a `histogram` event, from a complete one, or from the numbers in a tensor, array or list.

    A tensor is bucketed on its device, so that only the counts are copied.
    """
    if isinstance(value, Mapping):
        return coerce_plain(value)
    if hasattr(value, "scatter_add"):
        return _bucket_tensor(value)
    if hasattr(value, "dtype"):
        array = value.copy()
        return PendingEncoding(lambda: _bucket_array(array), array.nbytes)
    numbers = list(_flatten(coerce_plain(value)))
    return PendingEncoding(lambda: bucket(numbers), 32 * len(numbers))


def bucket(numbers: Sequence[float]) -> dict[str, Any]:
    """Return the histogram of the finite numbers, in `HISTOGRAM_BINS` bins of equal width."""
    finite = [float(number) for number in numbers if math.isfinite(number)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    counts = [0] * HISTOGRAM_BINS
    for number in finite:
        place = int((number - low) / (high - low) * HISTOGRAM_BINS) if high > low else 0
        counts[min(place, HISTOGRAM_BINS - 1)] += 1
    squares = math.fsum(number * number for number in finite)
    return _histogram(counts, low, high, math.fsum(finite), squares)


def _bucket_array(array: Any) -> dict[str, Any]:
    import numpy as np

    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return bucket([])
    low, high = float(finite.min()), float(finite.max())
    places = ((finite - low) / (high - low) * HISTOGRAM_BINS).astype(np.int64) if high > low else np.zeros(1, np.int64)
    counts = np.bincount(places.clip(0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)
    counts = counts if high > low else counts * finite.size
    return _histogram(counts.tolist(), low, high, float(finite.sum()), float((finite * finite).sum()))


def _bucket_tensor(tensor: Any) -> PendingEncoding:
    """Bucket the values of a tensor with its own operations, without waiting for a GPU."""
    values = tensor.detach().reshape(-1).double()
    finite = values.isfinite()
    kept = values.where(finite, values.new_zeros(()))
    low = values.where(finite, values.new_full((), math.inf)).amin() if len(values) else values.new_zeros(())
    high = values.where(finite, values.new_full((), -math.inf)).amax() if len(values) else values.new_zeros(())
    places = ((kept - low) / (high - low) * HISTOGRAM_BINS).nan_to_num(0.0).long().clamp(0, HISTOGRAM_BINS - 1)
    packed = values.new_zeros(HISTOGRAM_BINS + 4)
    packed[:HISTOGRAM_BINS].scatter_add_(0, places, finite.double())
    for place, number in enumerate((low, high, kept.sum(), (kept * kept).sum())):
        packed[HISTOGRAM_BINS + place] = number
    copy = copy_to_host(packed)
    return PendingEncoding(lambda: _unpack_histogram(copy.numbers()), 8 * len(packed), copy)


def _unpack_histogram(packed: list[float]) -> dict[str, Any]:
    low, high, total, squares = packed[HISTOGRAM_BINS:]
    low, high = (low, high) if math.isfinite(low) else (0.0, 0.0)
    return _histogram([int(count) for count in packed[:HISTOGRAM_BINS]], low, high, total, squares)


def _histogram(counts: list[int], low: float, high: float, total: float, squares: float) -> dict[str, Any]:
    edges = [low + (high - low) * place / HISTOGRAM_BINS for place in range(HISTOGRAM_BINS)] + [high]
    return {"edges": edges, "counts": counts, "min": low, "max": high, "sum": total, "sum_squares": squares}


def coerce_image(value: Any) -> Any:
    """Return the value of an `image` event, from `{data, format, …}`, the bytes of an image file, or pixels.

    Files may be PNG, JPEG, GIF or WebP. Pixels are a tensor, array or list of shape (height, width), (height, width,
    channels) or (channels, height, width) with 1, 3 or 4 channels: integers from 0 to 255, or floats from 0 to 1.
    """
    if isinstance(value, Mapping):
        return coerce_plain(value)
    if isinstance(value, (bytes, bytearray)):
        data = bytes(value)
        kind = next((kind for magic, kind in _IMAGE_FORMATS.items() if data.startswith(magic)), None)
        return {"data": data, "format": kind}
    return _encode_later(value, _encode_pixels)


def _encode_later(value: Any, encode: Callable[[Any], Any]) -> PendingEncoding:
    """Return a value for which the writer calls `encode` with the current contents, as a NumPy array or lists."""
    if hasattr(value, "is_cuda"):
        tensor = value.detach().clone()
        copy = copy_to_host(tensor)
        return PendingEncoding(lambda: encode(copy.array()), tensor.nbytes, copy)
    if hasattr(value, "dtype"):
        array = value.copy()
        return PendingEncoding(lambda: encode(array), array.nbytes)
    plain = coerce_plain(value)
    return PendingEncoding(lambda: encode(plain), 32 * len(list(_flatten(plain))))


def _encode_pixels(pixels: Any) -> dict[str, Any]:
    try:
        import numpy as np
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("an image given as pixels", "media", error.name or "Pillow") from None
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        array = np.nan_to_num(array * 255.0).round()
    array = array.clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(file, "PNG")
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    return {"data": file.getvalue(), "format": "png", "width": width, "height": height, "channels": channels}


def coerce_audio(value: Any) -> Any:
    """Return the value of an `audio` event, from `{data, format, …}`, a WAV file's bytes or `(samples, sample_rate)`.

    Samples are floats from -1 to 1 of shape (frames,) or (channels, frames).
    """
    if isinstance(value, Mapping):
        return coerce_plain(value)
    if isinstance(value, (bytes, bytearray)):
        return {"data": bytes(value), "format": "wav"}
    samples, sample_rate = value
    rate = int(sample_rate)
    return _encode_later(samples, lambda array: _encode_samples(array, rate))


def _encode_samples(samples: Any, sample_rate: int) -> dict[str, Any]:
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise MissingExtraError("audio given as samples", "media", "numpy") from None
    tracks = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    levels = (tracks.clip(-1.0, 1.0) * 32767).round().astype("<i2")
    channels, frames = levels.shape
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(levels.T.tobytes())
    return {
        "data": file.getvalue(), "format": "wav", "sample_rate": sample_rate, "channels": channels, "frames": frames
    }  # fmt: skip


def _flatten(value: Any) -> Sequence[float]:
    return list(chain.from_iterable(map(_flatten, value))) if isinstance(value, list) else [value]
