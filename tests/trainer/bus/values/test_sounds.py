"""Sounds in every form that users have them: as loud and as long as they are, or refused by a line."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import recorded, samples_of

TONE = torch.sin(torch.linspace(0, 500, 4000, dtype=torch.float64)) / 4
"""A tone at a quarter of full scale."""


def wav_file() -> bytes:
    """Return a sound of an odd number of bytes as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 1, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(range(255)))
    return file.getvalue()


WAV = wav_file()

LEVELS = (TONE * 32767).round()[:, None].numpy()


def heard(folder: Path, value: Any) -> tuple[np.ndarray[Any, Any], int]:
    """Record a sound, and return its samples and its sample rate."""
    return samples_of(recorded(folder, lambda bus: bus.audio("x", value, step=1))["x"])


@pytest.mark.parametrize(
    ("samples", "precision"),
    [
        (TONE.bfloat16(), 40), (TONE.half(), 5), (TONE.float(), 1), (TONE.requires_grad_(False).numpy(), 0),
        ((TONE * 127).to(torch.int8), 350), ((TONE * 2**31).to(torch.int32), 2), ((TONE * 32767).short().numpy(), 2),
        ((TONE * 127 + 128).to(torch.uint8), 350), (TONE.tolist(), 0),
    ],
)  # fmt: skip
def test_samples_of_any_type_are_equally_loud(tmp_path: Path, caplog: Any, samples: Any, precision: int) -> None:
    """Integers are read in the range of their type, floats from -1 to 1."""
    found, rate = heard(tmp_path, (samples, 8000))
    assert rate == 8000
    assert np.abs(found - LEVELS).max() <= precision
    assert not caplog.records


STEREO = torch.stack([TONE, TONE / 2])


@pytest.mark.parametrize("samples", [STEREO, STEREO.T, STEREO.T.numpy(), STEREO[None], STEREO.numpy().T[::1]])
def test_channels_are_the_shorter_dimension(tmp_path: Path, samples: Any) -> None:
    """Samples may be channels by frames, as torchaudio has them, or frames by channels, as soundfile does."""
    found, _ = heard(tmp_path, (samples, 44100.0))
    assert found.shape == (4000, 2)
    assert np.abs(found - (STEREO.T.numpy() * 32767).round()).max() == 0


def test_the_rate_may_come_first(tmp_path: Path) -> None:
    """`scipy.io.wavfile.read` returns it first, datasets of Hugging Face return a map; it may be a whole float."""
    values: list[Any] = [(rate, TONE) for rate in (16000, 16000.0, np.int32(16000), torch.tensor(16000))]
    for number, value in enumerate([*values, {"array": TONE.numpy(), "sampling_rate": 16000, "path": None}]):
        found, sample_rate = heard(tmp_path / str(number), value)
        assert (sample_rate, len(found)) == (16000, 4000)


def test_a_file_is_recorded_as_it_is(tmp_path: Path) -> None:
    """The path, an open file and the bytes of a WAV file are its contents."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\x00\x01" * 10)
    path = tmp_path / "tone.wav"
    path.write_bytes(file.getvalue())

    def record(bus: Any) -> None:
        for number, value in enumerate((path, str(path), file, file.getvalue())):
            bus.audio(f"x/{number}", value, step=1)

    assert [value["data"] for value in recorded(tmp_path / "run", record).values()] == [file.getvalue()] * 4


@pytest.mark.parametrize(
    ("samples", "said"),
    [(TONE * 5, "up to 1.25"), (torch.where(TONE > 0.2, torch.inf, TONE), "NaN or infinite")],
)
def test_what_is_changed_is_said(tmp_path: Path, caplog: Any, samples: torch.Tensor, said: str) -> None:
    """Samples that are slightly too loud, or not finite, are recorded with one line that names the event."""
    expected = torch.where(samples.isfinite(), samples, 0).clamp(-1, 1)
    found, _ = heard(tmp_path, (samples, 8000))
    assert np.abs(found[:, 0] - (expected * 32767).round().numpy()).max() == 0
    assert len(caplog.records) == 1
    assert "event 'x' of type audio" in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (((TONE * 32767).float(), 8000), "value / 32768"),
        (((TONE * 32767).int(), 8000), "fit into 16 bits"),
        (((TONE * 32767).long(), 8000), "int64"),
        ((TONE > 0, 8000), "bool"),
        ((TONE * torch.nan, 8000), "all NaN"),
        ((TONE.to(torch.complex64), 8000), "complex"),
        ((torch.zeros(0), 8000), "shape (0,)"),
        ((torch.rand(80, 300), 8000), "16 channels"),
        ((torch.zeros((1 << 24) + 1, dtype=torch.int8), 16000), "at most 1049 seconds"),
        ((torch.rand(4, 1, 300), 8000), "one sound"),
        ((TONE, 0), "sample_rate is 0"),
        ((TONE, 44100.5), "sample_rate is 44100.5"),
        ((TONE, None), "sample_rate is None"),
        ((TONE, 10**9), "sample_rate is 1000000000"),
        (torch.rand(2, 100), "(samples, sample_rate)"),
        (TONE, "(samples, sample_rate)"),
        (b"ID3 an mp3 file", "not a WAV file"),
        (WAV[:100], "the WAV file of 100 bytes is incomplete or damaged"),
        (WAV[:-1], "incomplete or damaged"),
        (WAV[:12] + WAV[36:], "incomplete or damaged"),
        ({"data": b"RIFF....WEBP", "format": "wav"}, "not a WAV file"),
        ("missing.wav", "No such file"),
        (None, "None"),
    ],
)
def test_what_is_refused_is_said_with_the_remedy(tmp_path: Path, caplog: Any, value: Any, said: str) -> None:
    """A value that is no sound is refused by one line that names the event and the argument."""
    assert not recorded(tmp_path, lambda bus: bus.audio("x", value, step=1))
    assert len(caplog.records) == 1
    assert "event 'x' of type audio" in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize(
    "data", [WAV, WAV[:40] + b"\xff" * 4 + WAV[44:], WAV[:12] + b"LIST\x04\x00\x00\x00INFO" + WAV[12:], WAV + b"tail"]
)
def test_a_complete_wav_file_is_recorded_unchanged(tmp_path: Path, caplog: Any, data: bytes) -> None:
    """Also one written as a stream, whose size is unknown, and one with further chunks before or after the samples."""
    assert recorded(tmp_path, lambda bus: bus.audio("x", data, step=1))["x"]["data"] == data
    assert not caplog.records
