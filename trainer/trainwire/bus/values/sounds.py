"""Sounds: the contents of WAV files, or samples, which the writer encodes."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from typing import Any, Final, Literal

from trainwire.bus.values.coercion import whole_number
from trainwire.bus.values.files import read_file
from trainwire.bus.values.pending import Noted
from trainwire.bus.values.plain import coerce_plain
from trainwire.bus.values.tensors import describe, encode_later, is_array, is_tensor
from trainwire_protocol.errors import UnsupportedValueError
from trainwire_protocol.events import MAX_VALUE_BYTES

MAX_CHANNELS: Final = 16
"""Maximum number of channels; more are several sounds, or a spectrogram."""

MAX_SAMPLE_RATE: Final = 10_000_000
"""Maximum sample rate, in hertz."""

_ADVICE: Final = "pass (samples, sample_rate), or the bytes or the path of a WAV file"

_LEVELS: Final = {"int8": (0, 256), "uint8": (128, 256), "int16": (0, 1), "int32": (0, 2**-16)}
"""For each type of integer, the level that is silent, and the factor to 16 bits."""

_ROUNDING: Final = 1e-3
"""How far floats may exceed the range from -1 to 1 without a note: rounding errors, which are not heard."""

_MAX_PEAK: Final = 2.0
"""Largest float that is taken for a sample from -1 to 1 that is too loud, not for one of another scale."""


def coerce_audio(value: Any) -> Any:
    """Return the value of an `audio` event: from `{data, format, …}`, a WAV file, or `(samples, sample_rate)`.

    Raises:
        UnsupportedValueError: it is something else, or the file is not complete.
    """
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():  # a sample of Hugging Face's datasets
        value = value["array"], value["sampling_rate"]
    if isinstance(value, Mapping):
        if value.get("format") == "wav":
            _check_wav(value.get("data"))
        return coerce_plain(value)
    data = read_file(value)
    if data is not None:
        _check_wav(data)
        return {"data": data, "format": "wav"}
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise UnsupportedValueError(f"the value is {describe(value)}; {_ADVICE}")
    samples, sample_rate = value
    if _is_number(samples) and not _is_number(sample_rate):  # the order of scipy.io.wavfile
        samples, sample_rate = sample_rate, samples
    rate = whole_number(sample_rate, "sample_rate")
    if not 0 < rate <= MAX_SAMPLE_RATE:
        raise UnsupportedValueError(f"sample_rate is {rate}; it must be from 1 to {MAX_SAMPLE_RATE} Hz")
    return encode_later(samples, "audio given as samples", lambda array: _encode(array, rate))


def _is_number(value: object) -> bool:
    is_scalar = (is_tensor(value) or is_array(value)) and not getattr(value, "shape", None)
    return isinstance(value, (int, float)) or is_scalar


def _check_wav(data: object) -> None:
    if not isinstance(data, bytes) or not data.startswith((b"RIFF", b"RIFX", b"RF64")) or data[8:12] != b"WAVE":
        raise UnsupportedValueError(f"the value is {describe(data)}, not a WAV file; {_ADVICE}")
    order: Literal["little", "big"] = "big" if data.startswith(b"RIFX") else "little"
    position, chunks = 12, dict[bytes, int]()
    while position + 8 <= len(data) and b"data" not in chunks:
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], order)
        chunks[name], position = size, position + 8 + size + size % 2
    # A program that writes a stream does not know its size, and writes the largest number instead.
    missing = position - chunks.get(b"data", 0) % 2 - len(data) if chunks.get(b"data") != 2**32 - 1 else 0
    if b"fmt " not in chunks or b"data" not in chunks or missing > 0:
        raise UnsupportedValueError(f"the WAV file of {len(data)} bytes is incomplete or damaged; {_ADVICE}")


def _encode(samples: Any, sample_rate: int) -> Noted:
    tracks = _channels_first(samples)
    channels, frames = tracks.shape
    if 2 * tracks.size > MAX_VALUE_BYTES:
        seconds = MAX_VALUE_BYTES / 2 / channels / sample_rate
        raise UnsupportedValueError(f"the sound has {frames} frames; pass a part of at most {seconds:.0f} seconds")
    levels, notes = _to_levels(tracks)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(levels.astype("<i2").T.tobytes())
    fields = {"sample_rate": sample_rate, "channels": channels, "frames": frames}
    return Noted({"data": file.getvalue(), "format": "wav", **fields}, notes)


def _channels_first(samples: Any) -> Any:
    """Return samples as an array of channels by frames; there are more frames than channels."""
    shape = samples.shape
    while samples.ndim > 2 and samples.shape[0] == 1:  # a batch of one sound
        samples = samples[0]
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        samples = samples.T
    if samples.ndim != 2 or not samples.size or samples.shape[0] > MAX_CHANNELS:
        raise UnsupportedValueError(
            f"the samples have the shape {shape}; pass one sound of shape (frames,), (channels, frames) or "
            f"(frames, channels) with at most {MAX_CHANNELS} channels"
        )
    return samples


def _to_levels(tracks: Any) -> tuple[Any, dict[str, str]]:
    """Return samples as levels from -32768 to 32767, and notes on what was changed."""
    import numpy as np

    kind = tracks.dtype.name
    if kind in _LEVELS:
        silence, factor = _LEVELS[kind]
        levels = tracks.astype(np.float64) - silence
        if kind == "int32" and tracks.any() and abs(levels).max() <= 2**15:
            raise UnsupportedValueError("the samples are int32, but fit into 16 bits; pass them as int16")
        return np.floor(levels * factor), {}
    if tracks.dtype.kind != "f":
        raise UnsupportedValueError(f"the samples are of type {kind}; pass floats from -1 to 1, or int16")
    tracks, notes = tracks.astype(np.float64), dict[str, str]()
    is_finite = np.isfinite(tracks)
    missing = int(tracks.size - is_finite.sum())
    if missing == tracks.size:
        raise UnsupportedValueError("the samples are all NaN or infinite; pass floats from -1 to 1")
    peak = float(abs(tracks[is_finite]).max())
    if peak > _MAX_PEAK:
        advice = "value / 32768" if peak <= 2**15 else "value / abs(value).max()"
        raise UnsupportedValueError(f"the samples are floats of up to {peak:.6g}; pass floats from -1 to 1: {advice}")
    if missing:
        notes["not finite"] = f"{missing} samples are NaN or infinite, and recorded as silence"
    if peak > 1 + _ROUNDING:
        notes["clipped"] = f"the samples of up to {peak:.6g} are clipped to the range from -1 to 1"
    return (np.where(is_finite, tracks, 0.0).clip(-1.0, 1.0) * 32767).round(), notes
