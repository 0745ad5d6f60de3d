"""Adds images and sounds to summaries."""

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

SHOWN_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP")
"""Image formats that TensorBoard serves to the browser as images."""

READ_FORMATS: Final = (*SHOWN_FORMATS, "WEBP")

_ONE: Final = tensor_shape_pb2.TensorShapeProto(dim=[{"size": 1}])
# Complete metadata, because the fast loader does not recognize the format in a summary's `audio` field.
_WAV: Final = summary_pb2.SummaryMetadata(
    data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE,
    plugin_data={
        "plugin_name": "audio",
        "content": plugin_data_pb2.AudioPluginData(encoding="WAV").SerializeToString(deterministic=True),
    },
)


def add_image(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add an image, converted to PNG if TensorBoard does not show its format.

    Raises:
        InvalidEventError: the data is not an image in a supported format.
    """
    data = event.value["data"]
    try:
        width, height, shown = _read_image(data)
    except UnidentifiedImageError:
        raise InvalidEventError(f"its {len(data)} bytes are not an image in {', '.join(READ_FORMATS)}") from None
    except Exception as error:  # for damaged data, decoders raise errors of many types
        raise InvalidEventError(f"its {len(data)} bytes cannot be decoded: {error}") from error
    image = summary_pb2.Summary.Image(width=width, height=height, encoded_image_string=shown)
    summary.value.add(tag=index.tag(event.name, "image"), image=image)


def _read_image(data: bytes) -> tuple[int, int, bytes]:
    """Return the width, the height and the data that TensorBoard can show."""
    with warnings.catch_warnings():
        # A few bytes can claim more pixels than fit into memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=READ_FORMATS) as image:
            width, height = image.size
            if image.format not in SHOWN_FORMATS:
                file = io.BytesIO()
                image.save(file, "PNG")
                return width, height, file.getvalue()
            image.verify()
    return width, height, data


def add_audio(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a sound in WAV, the only format that TensorBoard plays.

    Raises:
        InvalidEventError: the data is not a WAV file.
    """
    data = event.value["data"]
    if not (data.startswith(b"RIFF") and data[8:12] == b"WAVE"):
        raise InvalidEventError(f"its {len(data)} bytes are not a WAV file, the only format that TensorBoard plays")
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=_ONE, string_val=[data])
    summary.value.add(tag=index.tag(event.name, "audio"), metadata=_WAV, tensor=tensor)
