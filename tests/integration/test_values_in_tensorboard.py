"""What users pass to the bus is what TensorBoard's loader returns: the same pixels, samples, counts and texts."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import torch

pytest.importorskip("tensorboard")

from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import trainwire
from trainwire_sinks.cli import app


@pytest.fixture(scope="module")
def accumulator(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """Record values of every kind, write them with the sink, and load the files."""
    folder = tmp_path_factory.mktemp("run")
    with trainwire.open_bus(folder) as bus:
        record(bus)
    assert app.run(["sink", "tensorboard", str(folder)]) == 0
    return EventAccumulator(str(folder / "tensorboard" / "rank-0"), {"tensors": 0}).Reload()


PICTURE = torch.linspace(0, 1, 3 * 5 * 7).reshape(3, 5, 7)
TONE = torch.sin(torch.linspace(0, 99, 500)) / 3
WEIGHTS = torch.cat([torch.linspace(-3, 5, 1000), torch.tensor([torch.nan, torch.inf])])


def record(bus: trainwire.EventBus) -> None:
    """Record values as users have them."""
    bus.image("bfloat16", PICTURE.bfloat16(), step=1.0)  # type: ignore[arg-type]  # schedulers count in floats
    bus.image("mask", PICTURE[0] > 0.1, step=1)
    bus.image("batch", torch.stack([PICTURE, 1 - PICTURE]), step=1)
    bus.audio("int16", (8000, (TONE * 32767).round().short().numpy()), step=1)
    bus.audio("float16", (torch.stack([TONE, -TONE], 1).half(), 8000.0), step=1)
    bus.histogram("weights", WEIGHTS.bfloat16(), step=1)
    bus.histogram("range", torch.tensor([-3.4e38, 0.0, 3.4e38]), step=1)
    bus.histogram("beyond", [-1.7e308, 0.0, 1.7e308], step=1)
    bus.table("table", {"class": ["cat", "dog"], "f1": torch.tensor([0.5, 0.25])}, step=1)
    bus.log({"dev": {"f1": 0.5}}, step=1)


def pixels(accumulator: EventAccumulator, tag: str) -> np.ndarray:
    _, _, data = make_ndarray(accumulator.Tensors(tag)[0].tensor_proto)
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def samples(accumulator: EventAccumulator, tag: str) -> np.ndarray:
    (data,) = make_ndarray(accumulator.Tensors(tag)[0].tensor_proto).reshape(-1)[:1]
    with wave.open(io.BytesIO(data)) as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2").reshape(-1, sound.getnchannels()).astype(int)


def levels(picture: torch.Tensor) -> np.ndarray:
    return (picture.double() * 255).round().int().permute(1, 2, 0).numpy()


def test_images(accumulator: EventAccumulator) -> None:
    """The pixels are those that PyTorch computes."""
    assert np.abs(pixels(accumulator, "bfloat16") - levels(PICTURE.bfloat16())).max() <= 1
    assert (pixels(accumulator, "mask") == (PICTURE[0] > 0.1).numpy() * 255).all()
    grid = pixels(accumulator, "batch")
    assert (grid[:, :7] == levels(PICTURE)).all()
    assert np.abs(grid[:, 9:] - levels(1 - PICTURE)).max() <= 1


def test_sounds(accumulator: EventAccumulator) -> None:
    """The samples are as loud as those passed."""
    assert (samples(accumulator, "int16")[:, 0] == (TONE * 32767).round().int().numpy()).all()
    expected = (torch.stack([TONE, -TONE], 1) * 32767).numpy()
    assert np.abs(samples(accumulator, "float16") - expected).max() < 10


def test_histograms(accumulator: EventAccumulator) -> None:
    """The buckets contain the finite values, as far as TensorBoard can store them."""
    buckets = make_ndarray(accumulator.Tensors("weights")[0].tensor_proto)
    finite = WEIGHTS.bfloat16().double()
    finite = finite[finite.isfinite()]
    assert buckets[:, 2].tolist() == torch.histc(finite, len(buckets)).tolist()
    assert make_ndarray(accumulator.Tensors("range")[0].tensor_proto)[:, 2].sum() == 3
    assert "beyond" not in accumulator.Tags()["tensors"]


def test_tables_and_scalars(accumulator: EventAccumulator) -> None:
    """Columns and nested metrics are where people look for them."""
    text = accumulator.Tensors("table")[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| class | f1 |"
    assert text.splitlines()[2:] == ["| cat | 0.5 |", "| dog | 0.25 |"]
    assert make_ndarray(accumulator.Tensors("dev/f1")[0].tensor_proto).item() == 0.5
