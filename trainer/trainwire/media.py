"""Histograms, images and sounds as the bus takes them: encoded already, or as tensors, arrays and lists."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from trainwire.deferred import transfer
from trainwire.values import Encoded, read_plain

HISTOGRAM_BINS: Final = 64

_IMAGE_FORMATS: Final = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def read_histogram(value: Any) -> Any:
    """A histogram: one that is made already, or of the values of a tensor, array or list.

    A tensor is bucketed where it lives, so that only the counts travel.
    """
    if isinstance(value, Mapping):
        return read_plain(value)
    if hasattr(value, "scatter_add"):
        return _bucket_tensor(value)
    numbers = list(_flatten(read_plain(value)))
    return Encoded(lambda: bucket(numbers))


def bucket(numbers: Sequence[float]) -> dict[str, Any]:
    """The histogram of finite numbers, in `HISTOGRAM_BINS` bins of one width; others are left out."""
    finite = [float(number) for number in numbers if math.isfinite(number)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    counts = [0] * HISTOGRAM_BINS
    for number in finite:
        place = int((number - low) / (high - low) * HISTOGRAM_BINS) if high > low else 0
        counts[min(place, HISTOGRAM_BINS - 1)] += 1
    squares = math.fsum(number * number for number in finite)
    return {
        "edges": _edges(low, high), "counts": counts,
        "min": low, "max": high, "sum": math.fsum(finite), "sum_squares": squares,
    }  # fmt: skip


def _bucket_tensor(tensor: Any) -> Encoded:
    """As `bucket`, with the tensor's own operations; nothing here waits for a GPU."""
    values = tensor.detach().reshape(-1).double()
    finite = values.isfinite()
    kept = values.where(finite, values.new_zeros(()))
    low = values.where(finite, values.new_full((), math.inf)).amin() if len(values) else values.new_zeros(())
    high = values.where(finite, values.new_full((), -math.inf)).amax() if len(values) else values.new_zeros(())
    places = ((kept - low) / (high - low) * HISTOGRAM_BINS).nan_to_num(0.0).long().clamp(0, HISTOGRAM_BINS - 1)
    counts = values.new_zeros(HISTOGRAM_BINS).scatter_add(0, places, finite.double())
    packed = counts.new_zeros(HISTOGRAM_BINS + 4)
    packed[:HISTOGRAM_BINS] = counts
    for place, number in enumerate((low, high, kept.sum(), (kept * kept).sum())):
        packed[HISTOGRAM_BINS + place] = number
    arriving = transfer(packed)
    return Encoded(lambda: _unpack_histogram(arriving.numbers()), arriving)


def _unpack_histogram(packed: list[float]) -> dict[str, Any]:
    low, high, total, squares = packed[HISTOGRAM_BINS:]
    low, high = (low, high) if math.isfinite(low) else (0.0, 0.0)
    counts = [int(count) for count in packed[:HISTOGRAM_BINS]]
    return {
        "edges": _edges(low, high), "counts": counts, "min": low, "max": high, "sum": total, "sum_squares": squares
    }  # fmt: skip


def _edges(low: float, high: float) -> list[float]:
    return [low + (high - low) * place / HISTOGRAM_BINS for place in range(HISTOGRAM_BINS)] + [high]


def read_image(value: Any) -> Any:
    """An image: `{data, format, …}`, the bytes of a PNG, JPEG, GIF or WebP file, or pixels.

    Pixels are a tensor, array or list of shape (height, width), (height, width, channels) or (channels, height,
    width) with 1, 3 or 4 channels: integers from 0 to 255, or floats from 0 to 1.
    """
    if isinstance(value, Mapping):
        return read_plain(value)
    if isinstance(value, (bytes, bytearray)):
        data = bytes(value)
        kind = next((kind for magic, kind in _IMAGE_FORMATS.items() if data.startswith(magic)), None)
        return {"data": data, "format": kind}
    pixels = read_plain(value.detach() if hasattr(value, "detach") else value)
    return Encoded(lambda: _encode_pixels(pixels))


def _encode_pixels(pixels: list[Any]) -> dict[str, Any]:
    from PIL import Image

    rows = _channels_last(pixels)
    height, width, channels = len(rows), len(rows[0]), len(rows[0][0])
    if any(len(row) != width for row in rows):
        raise ValueError("its rows have different lengths")
    numbers = [number for row in rows for pixel in row for number in pixel]
    scale = 255.0 if any(type(number) is float for number in numbers) else 1
    raw = bytes(min(255, max(0, round(number * scale))) for number in numbers)
    file = io.BytesIO()
    Image.frombytes({1: "L", 3: "RGB", 4: "RGBA"}[channels], (width, height), raw).save(file, "PNG")
    return {"data": file.getvalue(), "format": "png", "width": width, "height": height, "channels": channels}


def _channels_last(pixels: list[Any]) -> list[list[list[float]]]:
    if not isinstance(pixels[0][0], list):
        return [[[number] for number in row] for row in pixels]
    if len(pixels) in (1, 3, 4) and len(pixels[0][0]) not in (1, 3, 4):
        return [[list(pixel) for pixel in zip(*rows, strict=True)] for rows in zip(*pixels, strict=True)]
    return pixels


def read_audio(value: Any) -> Any:
    """A sound: `{data, format, sample_rate, …}`, the bytes of a WAV file, or `(samples, sample_rate)`.

    Samples are floats from -1 to 1 of shape (frames,) or (channels, frames).
    """
    if isinstance(value, Mapping):
        return read_plain(value)
    if isinstance(value, (bytes, bytearray)):
        return {"data": bytes(value), "format": "wav"}
    samples, sample_rate = value
    channels = read_plain(samples.detach() if hasattr(samples, "detach") else samples)
    return Encoded(lambda: _encode_samples(channels, int(sample_rate)))


def _encode_samples(channels: list[Any], sample_rate: int) -> dict[str, Any]:
    tracks = channels if isinstance(channels[0], list) else [channels]
    frames = list(zip(*tracks, strict=True))
    levels = (round(min(1.0, max(-1.0, sample)) * 32767) for sample in chain.from_iterable(frames))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(len(tracks))
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(b"".join(level.to_bytes(2, "little", signed=True) for level in levels))
    return {
        "data": file.getvalue(), "format": "wav",
        "sample_rate": sample_rate, "channels": len(tracks), "frames": len(frames),
    }  # fmt: skip


def _flatten(value: Any) -> Sequence[float]:
    return list(chain.from_iterable(map(_flatten, value))) if isinstance(value, list) else [value]
