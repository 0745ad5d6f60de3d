"""Images in every form that users have them: the pixels are those that were meant, or a line says why not."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import pixels_of, recorded

pytest.importorskip("PIL")
from PIL import Image

RAMP = torch.linspace(0, 1, 3 * 6 * 8).reshape(3, 6, 8)
"""Pixels of shape (channels, height, width)."""

LEVELS = (RAMP * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
"""The same pixels as they are shown."""


def shown(folder: Path, value: Any) -> np.ndarray[Any, Any]:
    """Record an image, and return its pixels."""
    return pixels_of(recorded(folder, lambda bus: bus.image("x", value, step=1))["x"])


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_floats_of_any_size_are_the_same_picture(tmp_path: Path, caplog: Any, kind: torch.dtype) -> None:
    """The pixels are those that plain PyTorch computes from the same floats."""
    tensor = RAMP.to(kind)
    expected = (tensor.double() * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert np.abs(shown(tmp_path, tensor).astype(int) - expected.numpy()).max() <= 1
    assert not caplog.records


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers_of_any_size_are_levels(tmp_path: Path, caplog: Any, kind: torch.dtype) -> None:
    """Integers from 0 to 255 are shown as they are, whatever their type."""
    assert (shown(tmp_path, torch.from_numpy(LEVELS).to(kind)) == LEVELS).all()
    assert not caplog.records


@pytest.mark.parametrize(
    "value",
    [
        RAMP.permute(1, 2, 0), RAMP.numpy(), RAMP.permute(1, 2, 0).numpy().tolist(), RAMP[None], [RAMP],
        torch.nn.Parameter(RAMP), RAMP.permute(2, 1, 0).contiguous().permute(2, 1, 0), Image.fromarray(LEVELS),
    ],
)  # fmt: skip
def test_layouts_are_recognized(tmp_path: Path, caplog: Any, value: Any) -> None:
    """Channels may come first or last, and a tensor may require gradients or not be contiguous."""
    assert (shown(tmp_path, value) == LEVELS).all()
    assert not caplog.records


def test_in_doubt_tensors_have_their_channels_first_and_arrays_last(tmp_path: Path) -> None:
    """A shape that fits both orders is read as the library's own functions read it."""
    pixels = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)
    assert (shown(tmp_path / "array", pixels) == pixels).all()
    assert (shown(tmp_path / "tensor", torch.from_numpy(pixels)) == pixels.transpose(1, 2, 0)).all()


def test_a_mask_is_black_and_white(tmp_path: Path) -> None:
    """True is white, in arrays, nested lists and images of Pillow with one bit."""
    mask = np.eye(4, dtype=bool)
    for number, value in enumerate((mask, mask.tolist(), torch.from_numpy(mask)[None], Image.fromarray(mask))):
        assert (np.asarray(shown(tmp_path / str(number), value)).astype(int) > 0).tolist() == mask.tolist()
        assert Image.fromarray(shown(tmp_path / f"{number}a", value)).convert("L").getextrema() == (0, 255)


def test_a_mask_of_integers_is_reported(tmp_path: Path, caplog: Any) -> None:
    """Integers that are only 0 and 1 look black, which is said with the remedy."""
    assert shown(tmp_path, torch.eye(4).long()).max() == 1
    assert "'x'" in caplog.text
    assert "booleans" in caplog.text


@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_images_of_pillow_look_the_same(tmp_path: Path, kind: str) -> None:
    """Every mode is shown with the colors that Pillow gives it; a later change does not alter what was recorded."""
    image = Image.fromarray(LEVELS).convert(kind)
    expected = np.asarray(image.convert("RGB"))

    def record(bus: Any) -> None:
        bus.image("x", image, step=1)
        image.paste(0 if kind in ("L", "P") else tuple([0] * len(image.getbands())), (0, 0, 8, 6))

    data = recorded(tmp_path, record)["x"]["data"]
    assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == expected).all()


@pytest.mark.parametrize("name", ["picture.png", "picture.webp", "picture.bmp", "picture.gif"])
def test_a_file_is_recorded_as_it_is(tmp_path: Path, name: str) -> None:
    """A path, its text, an open file and its bytes are the file's contents at the call."""
    path = tmp_path / name
    Image.fromarray(LEVELS).save(path)
    contents = path.read_bytes()

    def record(bus: Any) -> None:
        with path.open("rb") as file:
            for number, value in enumerate(
                (path, str(path), file, contents, bytearray(contents), io.BytesIO(contents))
            ):
                bus.image(f"x/{number}", value, step=1)
        path.unlink()

    values = recorded(tmp_path / "run", record)
    assert [value["data"] for value in values.values()] == [contents] * 6
    assert {value["format"] for value in values.values()} == {path.suffix[1:]}


def test_a_batch_is_a_grid(tmp_path: Path) -> None:
    """Images of a batch stand in rows of eight, with borders between them, in their order."""
    batch = torch.rand(10, 3, 6, 8)
    grid = shown(tmp_path, batch)
    assert grid.shape == (2 * 6 + 2, 8 * 8 + 7 * 2, 3)
    for place, picture in enumerate(batch):
        top, left = place // 8 * 8, place % 8 * 10
        expected = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert (grid[top : top + 6, left : left + 8] == expected).all()
    assert not grid[6:8].any()


@pytest.mark.parametrize(
    "images", [list(torch.rand(3, 1, 5, 4)), list(np.random.default_rng(1).random((3, 5, 4, 1))),
               [Image.new("L", (4, 5), shade) for shade in (0, 100, 200)], list(torch.rand(3, 5, 4)),
               list(np.random.default_rng(1).random((3, 5, 4)))],
)  # fmt: skip
def test_a_list_of_images_is_a_grid_too(tmp_path: Path, images: list[Any]) -> None:
    """Tensors, arrays and images of Pillow may come in a list."""
    assert shown(tmp_path, images).shape[:2] == (5, 3 * 4 + 2 * 2)


class Figure:
    """Draws itself as Matplotlib's figures do."""

    def __init__(self) -> None:
        self.shade = 10

    def savefig(self, file: Any, format: str) -> None:
        Image.new("L", (2, 2), self.shade).save(file, format)


class Axes:
    def get_figure(self) -> Figure:
        return Figure()


def test_a_figure_is_drawn_at_once(tmp_path: Path) -> None:
    """A figure, or its axes, is recorded as it is at the call, since it may be reused."""

    def record(bus: Any) -> None:
        figure = Figure()
        bus.image("figure", figure, step=1)
        figure.shade = 200
        bus.image("axes", Axes(), step=1)

    values = recorded(tmp_path, record)
    assert [pixels_of(value).tolist() for value in values.values()] == [[[10, 10], [10, 10]]] * 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (RAMP * 1.5 - 0.2, "clipped to the range from 0 to 1"),
        (RAMP * 2 - 1, "(value + 1) / 2"),
        (torch.where(RAMP > 0.5, RAMP, torch.nan), "NaN or infinite"),
    ],
)
def test_what_is_changed_is_said(tmp_path: Path, caplog: Any, value: torch.Tensor, said: str) -> None:
    """Pixels that are slightly out of range, or not finite, are recorded with one line that names the event."""
    expected = (value.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (shown(tmp_path, value) == expected).all()
    assert len(caplog.records) == 1
    assert said in caplog.text
    assert "event 'x' of type image" in caplog.text


def test_rounding_errors_are_not_worth_a_line(tmp_path: Path, caplog: Any) -> None:
    """Values that exceed the range by less than half a level are silent."""
    shown(tmp_path, RAMP * 1.001)
    assert not caplog.records


def png_file() -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


PNG = png_file()

PLOTLY = type("Figure", (), {"to_image": lambda self, format: b""})()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (RAMP * 255, "value / 255"),
        ((RAMP - 0.45) / 0.22, "value.min()"),
        (np.full((4, 4), 60000, np.uint16), "value / 65535"),
        (torch.full((4, 4), -1), "integers from -1 to -1"),
        (RAMP * torch.nan, "all NaN"),
        (RAMP.to(torch.complex64), "value.abs()"),
        (RAMP.to("meta"), "device meta"),
        (torch.eye(3).to_sparse(), "to_dense()"),
        (torch.rand(5, 8, 8), "shape (5, 8, 8)"),
        (np.zeros((8, 8, 2)), "1, 3 or 4 channels"),
        (torch.rand(16, 8, 8), "value[:, None]"),
        (torch.rand(2, 5, 3, 8, 8), "batch"),
        (torch.rand(0, 8), "shape (0, 8)"),
        ([RAMP, RAMP[:, :4]], "images 0 and 1 have (3, 6, 8) and (3, 4, 8)"),
        (PNG[:-20], "the PNG file of"),
        ([[0.5], [0.5, 0.5]], "not an array of numbers"),
        (np.array([["a"]]), "not an array of numbers"),
        (None, "None"),
        ("missing.png", "No such file"),
        (Path("/dev/zero"), "not a file"),
        (b"RIFF....WAVEfmt ", "not a PNG"),
        (PLOTLY, "to_image(format='png')"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_with_the_remedy(tmp_path: Path, caplog: Any, value: Any, said: str) -> None:
    """A value that cannot be shown is refused by one line that names the event, and its neighbors are recorded."""

    def record(bus: Any) -> None:
        bus.image("bad", value, step=1)
        bus.image("good", RAMP, step=1)

    assert list(recorded(tmp_path, record)) == ["good"]
    assert len(caplog.records) == 1
    assert "event 'bad' of type image" in caplog.text
    assert said in caplog.text


def test_an_image_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A picture whose file would exceed the limit is refused with its size and the remedy."""
    monkeypatch.setattr("trainwire.bus.values.images.MAX_VALUE_BYTES", 100)
    assert not recorded(tmp_path, lambda bus: bus.image("x", torch.rand(3, 20, 30), step=1))
    assert "30 x 20 pixels" in caplog.text


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, caplog: Any) -> None:
    """A path to a file above the limit is refused by its size."""
    path = tmp_path / "large.png"
    path.touch()
    os.truncate(path, 1 << 40)
    assert not recorded(tmp_path / "run", lambda bus: bus.image("x", path, step=1))
    assert "at most" in caplog.text
