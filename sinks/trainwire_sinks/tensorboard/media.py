"""Images and sounds, as TensorBoard shows them."""

from __future__ import annotations

import io
import warnings
from typing import Final

from PIL import Image, UnidentifiedImageError

# TensorBoard publishes no types.
from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.audio import plugin_data_pb2  # type: ignore[import-untyped]

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.index import Index

SHOWN_IMAGES: Final = ("PNG", "JPEG", "GIF", "BMP")
"""Formats that TensorBoard hands to the browser as images."""

READ_IMAGES: Final = (*SHOWN_IMAGES, "WEBP")

_ONE: Final = tensor_shape_pb2.TensorShapeProto(dim=[{"size": 1}])
# Told in full, as the fast loader takes the kind of summary that has a field for sounds for one of no known format.
_WAV: Final = summary_pb2.SummaryMetadata(
    data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE,
    plugin_data={
        "plugin_name": "audio",
        "content": plugin_data_pb2.AudioPluginData(encoding="WAV").SerializeToString(deterministic=True),
    },
)


def add_image(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """An image, as it is if TensorBoard shows its format, and otherwise as PNG.

    Raises:
        InvalidEventError: its data is no image of a format that is known here.
    """
    data = event.value["data"]
    try:
        width, height, shown = _read_image(data)
    except UnidentifiedImageError:
        raise InvalidEventError(f"its {len(data)} bytes are no image of {', '.join(READ_IMAGES)}") from None
    except Exception as error:  # a decoder raises whatever broken data makes it raise
        raise InvalidEventError(f"its {len(data)} bytes cannot be shown: {error}") from error
    image = summary_pb2.Summary.Image(width=width, height=height, encoded_image_string=shown)
    summary.value.add(tag=index.tag(event.name, "image"), image=image)


def _read_image(data: bytes) -> tuple[int, int, bytes]:
    """Width, height, and the data that TensorBoard can show."""
    with warnings.catch_warnings():
        # A few bytes may stand for more pixels than there is memory for.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=READ_IMAGES) as image:
            width, height = image.size
            if image.format not in SHOWN_IMAGES:
                file = io.BytesIO()
                image.save(file, "PNG")
                return width, height, file.getvalue()
            image.verify()
    return width, height, data


def add_audio(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """A sound: WAV is what TensorBoard knows.

    Raises:
        InvalidEventError: its data is no WAV file.
    """
    data = event.value["data"]
    if not (data.startswith(b"RIFF") and data[8:12] == b"WAVE"):
        raise InvalidEventError(f"its {len(data)} bytes are no WAV file, and TensorBoard plays no other")
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=_ONE, string_val=[data])
    summary.value.add(tag=index.tag(event.name, "audio"), metadata=_WAV, tensor=tensor)
