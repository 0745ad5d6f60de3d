"""Records values, and reads them from the journal with decoders of their formats."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import trainwire
from support.run_reader import read_events


def recorded(folder: Path, record: Callable[[trainwire.EventBus], object]) -> dict[str, Any]:
    """Return the values of the events that a function records, by name, without those of the bus itself."""
    with trainwire.open_bus(folder) as bus:
        record(bus)
    return {event.name: event.value for event in read_events(folder) if event.type != "lifecycle"}


def pixels_of(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the pixels of a recorded image."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(value["data"])))


def samples_of(value: dict[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Return the samples of a recorded sound, of shape (frames, channels), and its sample rate."""
    with wave.open(io.BytesIO(value["data"])) as sound:
        levels = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        return levels.reshape(-1, sound.getnchannels()), sound.getframerate()
