"""Images: image files, figures, images of Pillow, and pixels, which the writer encodes as PNG.

Pixels are floats from 0 to 1, integers from 0 to 255, or booleans. How the numbers are read never depends on the
numbers themselves, so that the images of all steps are comparable; numbers out of the range are reported.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any, Final

from trainwire.bus.values.files import read_file
from trainwire.bus.values.pending import Noted, PendingEncoding
from trainwire.bus.values.plain import coerce_plain
from trainwire.bus.values.tensors import describe, encode_later, is_array, is_tensor, readable
from trainwire_protocol.errors import MissingExtraError, UnsupportedValueError
from trainwire_protocol.events import MAX_VALUE_BYTES

CHANNELS: Final = (1, 3, 4)
"""Numbers of channels: gray, RGB, RGB with alpha."""

GRID_COLUMNS: Final = 8
GRID_BORDER: Final = 2
"""A batch of images is shown in rows of at most this number of images, with borders of this number of pixels."""

_SHAPES: Final = (
    "(height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4 channels, or a batch of "
    "these with the number of images before them"
)

_FORMATS: Final = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}

_ENDS: Final = {"png": b"IEND", "jpeg": b"\xff\xd9"}
"""The mark at the end of a file, by its format."""

_PNG_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that are encoded as PNG without a change."""

_ROUNDING: Final = 0.5 / 255
"""How far floats may exceed the range from 0 to 1 without a note: less than the step between two levels."""

_NEAR: Final = (-1.0, 2.0)
"""Range of floats that are taken for pixels from 0 to 1, some of them out of range, and not for another scale."""


def coerce_image(value: Any) -> Any:
    """Return the value of an `image` event: from `{data, format, …}`, a file, a figure, an image of Pillow, or pixels.

    Raises:
        UnsupportedValueError: it is something else, or not in a supported format.
        MissingExtraError: a package that is needed to encode it is not installed.
    """
    if isinstance(value, Mapping):
        return coerce_plain(value)
    data = read_file(value)
    if data is not None:
        return {"data": data, "format": _checked_format(data)}
    if is_tensor(value):
        return _encode_later(value, is_tensor=True)
    if is_array(value) and not _is_pillow(value):
        return _encode_later(value, is_tensor=False)
    if isinstance(value, (list, tuple)):
        return _coerce_list(value)
    if _is_pillow(value):
        return _coerce_pillow(value)
    return _coerce_figure(value)


def _checked_format(data: bytes) -> str:
    """Return the format of an image file.

    Raises:
        UnsupportedValueError: it is not a supported one, or the end of the file is missing.
    """
    kind = _format_of(data)
    if kind in _ENDS and _ENDS[kind] not in data:
        raise UnsupportedValueError(f"the {kind.upper()} file of {len(data)} bytes is incomplete: its end is missing")
    return kind


def _format_of(data: bytes) -> str:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    found = next((kind for magic, kind in _FORMATS.items() if data.startswith(magic)), None)
    if found is None:
        raise UnsupportedValueError(
            f"the value is {describe(data)}, not a PNG, JPEG, GIF, WebP or BMP file; pass one of these, or pixels"
        )
    return found


def _coerce_figure(figure: Any) -> dict[str, Any]:
    """Return a figure of Matplotlib, or of a library with the same method, as PNG.

    It is drawn at once, since a figure may be changed or closed after the call.
    """
    if not hasattr(figure, "savefig") and callable(getattr(figure, "get_figure", None)):  # the axes of a figure
        figure = figure.get_figure()
    if callable(getattr(figure, "savefig", None)):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return {"data": file.getvalue(), "format": "png"}
    if callable(getattr(figure, "to_image", None)):  # Plotly starts a browser for this
        raise UnsupportedValueError(f"the value is {describe(figure)}; pass value.to_image(format='png')")
    raise UnsupportedValueError(f"the value is {describe(figure)}; pass pixels, a figure, or an image file or its path")


def _is_pillow(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _coerce_pillow(image: Any) -> PendingEncoding:
    """Return an image of Pillow, to be encoded by the writer."""
    if image.mode in ("I", "F"):  # numbers without a fixed range
        import numpy as np

        return _encode_later(np.asarray(image), is_tensor=False)
    copy = image.copy() if image.mode in _PNG_MODES else image.convert("RGB")

    def encode() -> dict[str, Any]:
        return _png(copy, len(copy.getbands()))

    return PendingEncoding(encode, copy.width * copy.height * len(copy.getbands()))


def _coerce_list(images: list[Any] | tuple[Any, ...]) -> PendingEncoding:
    """Return pixels in nested lists, or a list of images of the same size."""
    # Gray images get a channel, so that three of them are not taken for one image with three channels.
    try:
        if images and all(map(is_tensor, images)):
            tensors = sys.modules["torch"].stack([readable(image) for image in images])
            return _encode_later(tensors[:, None] if tensors.ndim == 3 else tensors, is_tensor=True)
        if images and all(map(_is_pillow, images)):
            images = [image.convert("RGB") for image in images]
        if images and all(_is_pillow(image) or is_array(image) for image in images):
            import numpy as np

            arrays = np.stack(list(map(np.asarray, images)))
            return _encode_later(arrays[..., None] if arrays.ndim == 3 else arrays, is_tensor=False)
    except (RuntimeError, ValueError):
        shapes = [tuple(getattr(image, "shape", None) or image.size) for image in images]
        other = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), 0)
        raise UnsupportedValueError(
            f"the images of a list must have the same shape, and images 0 and {other} have {shapes[0]} and "
            f"{shapes[other]}; record each by itself"
        ) from None
    return _encode_later(images, is_tensor=False)


def _encode_later(pixels: Any, is_tensor: bool) -> PendingEncoding:
    return encode_later(pixels, "an image given as pixels", lambda array: _encode_pixels(array, is_tensor))


def _encode_pixels(pixels: Any, is_tensor: bool) -> Noted:
    """Return pixels as PNG.

    Args:
        pixels: an array of NumPy.
        is_tensor: in doubt the channels come first, as usual for tensors, and not last, as usual for arrays.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingExtraError("an image given as pixels", "media", "Pillow") from None
    levels, notes = _to_levels(_channels_last(pixels, is_tensor))
    picture = _make_grid(levels) if levels.ndim == 4 else levels
    channels = picture.shape[2]
    image = Image.fromarray(picture[:, :, 0] if channels == 1 else picture)
    return Noted(_png(image, channels), notes)


def _png(image: Any, channels: int) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    width, height = image.size
    if len(file.getvalue()) > MAX_VALUE_BYTES:
        raise UnsupportedValueError(
            f"the image of {width} x {height} pixels has {len(file.getvalue())} bytes as PNG, and at most "
            f"{MAX_VALUE_BYTES} are allowed; pass a smaller one, or the bytes of a JPEG file"
        )
    return {"data": file.getvalue(), "format": "png", "width": width, "height": height, "channels": channels}


def _channels_last(pixels: Any, is_tensor: bool) -> Any:
    """Return pixels as an array of shape (height, width, channels), or (images, height, width, channels)."""
    shape = pixels.shape
    if not pixels.size or not 2 <= pixels.ndim <= 4:
        raise UnsupportedValueError(f"the pixels have the shape {shape}; pass {_SHAPES}")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    is_first, is_last = shape[-3] in CHANNELS, shape[-1] in CHANNELS
    if not is_first and not is_last:
        hint = "; a batch of gray images is value[:, None]" if pixels.ndim == 3 else ""
        raise UnsupportedValueError(f"the pixels have the shape {shape}; pass {_SHAPES}{hint}")
    if is_first and (is_tensor or not is_last):
        return pixels.swapaxes(-3, -2).swapaxes(-2, -1)
    return pixels


def _make_grid(pictures: Any) -> Any:
    """Return a batch of pictures as one picture."""
    import numpy as np

    count, height, width, channels = pictures.shape
    columns = min(count, GRID_COLUMNS)
    rows = -(-count // columns)
    size = rows * (height + GRID_BORDER) - GRID_BORDER, columns * (width + GRID_BORDER) - GRID_BORDER
    grid = np.zeros((*size, channels), pictures.dtype)
    for place, picture in enumerate(pictures):
        top, left = place // columns * (height + GRID_BORDER), place % columns * (width + GRID_BORDER)
        grid[top : top + height, left : left + width] = picture
    return grid


def _to_levels(pixels: Any) -> tuple[Any, dict[str, str]]:
    """Return pixels as levels from 0 to 255, and notes on what was changed."""
    import numpy as np

    if pixels.dtype.kind == "f":
        return _floats_to_levels(pixels)
    low, high = int(pixels.min()), int(pixels.max())
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255, {}
    if low < 0 or high > 255:
        raise UnsupportedValueError(
            f"the pixels are integers from {low} to {high}; pass integers from 0 to 255 or floats from 0 to 1, "
            f"such as {_advice(low, high)}"
        )
    note = "the pixels are only 0 and 1 of 255, and look black; pass a mask as booleans: value == 1"
    return pixels.astype(np.uint8), {"dark": note} if high == 1 else {}


def _floats_to_levels(pixels: Any) -> tuple[Any, dict[str, str]]:
    import numpy as np

    notes = dict[str, str]()
    is_finite = np.isfinite(pixels)
    finite = pixels[is_finite]
    if not finite.size:
        raise UnsupportedValueError("the pixels are all NaN or infinite; pass floats from 0 to 1")
    low, high = float(finite.min()), float(finite.max())
    if low < _NEAR[0] or high > _NEAR[1]:
        raise UnsupportedValueError(
            f"the pixels are floats from {low:.6g} to {high:.6g}; pass floats from 0 to 1, such as "
            f"{_advice(low, high)}, or integers from 0 to 255"
        )
    if finite.size < pixels.size:
        notes["not finite"] = f"{pixels.size - finite.size} numbers of the pixels are NaN or infinite, and shown as 0"
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        advice = "; if they are from -1 to 1, pass (value + 1) / 2" if low < 0 else ""
        notes["clipped"] = f"the pixels from {low:.6g} to {high:.6g} are clipped to the range from 0 to 1{advice}"
    return (np.where(is_finite, pixels, 0.0).clip(0.0, 1.0) * 255.0).round().astype(np.uint8), notes


def _advice(low: float, high: float) -> str:
    """Return an expression with which numbers in a range are floats from 0 to 1."""
    if low < 0:
        return "(value - value.min()) / (value.max() - value.min())"
    return f"value / {255 if high <= 255 else 65535 if high <= 65535 else 'value.max()'}"
