"""Records what is made for TensorBoard's event files as events of a bus.

What the bus has a type for is recorded as that, and anything else as the type `summary`, which the sink `tensorboard`
writes unchanged. How the sink writes the values of a name differently from its own way is said once by a *template*.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final
from weakref import WeakKeyDictionary

# TensorBoard publishes no types.
from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2  # type: ignore[import-untyped]

from trainwire.bus.bus import EventBus
from trainwire_protocol.events import MAX_NAME_BYTES, MAX_STRING_BYTES

PART_BYTES: Final = 16 << 20
"""Size of the parts in which a file is recorded."""

TEXT_SUFFIX: Final = "/text_summary"
"""What PyTorch's writer appends to the tag of a text."""

CURVE_ROWS: Final = (
    "true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall",
)  # fmt: skip
"""The rows of the tensor of a precision-recall curve."""

_MAX_FLOAT32: Final = (2 - 2**-23) * 2.0**127

_FORMATS: Final = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}

_PLUGINS: Final = {"simple_value": "scalars", "histo": "histograms", "image": "images", "audio": "audio"}
"""The plugins that show values without metadata."""

_TEMPLATES: WeakKeyDictionary[EventBus, dict[tuple[str, str], tuple[str, bytes]]] = WeakKeyDictionary()
"""For each bus, the run and data of the last template of each type and name."""

_LOCK: Final = threading.RLock()
"""Held from a template to the values that it is for."""


class SummaryRecorder:
    """Records the parts of event files on one bus. Steps are integers, and walltimes seconds since the epoch."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._templates = _TEMPLATES.setdefault(bus, {})

    def add_event(self, event: event_pb2.Event) -> None:
        """Record an event of an event file, with its own step and walltime; each value of a summary is an event."""
        step, walltime = event.step, event.wall_time
        match event.WhichOneof("what"):
            case "summary":
                for value in event.summary.value:
                    self.add_value(value, step, walltime)
            case "graph_def":
                self._add_opaque("graph", {"format": "graph_def", "plugin": "graphs", "data": event.graph_def}, event)
            case "tagged_run_metadata":
                tagged = event.tagged_run_metadata
                value = {"format": "run_metadata", "plugin": "graphs", "data": tagged.run_metadata}
                self._add_opaque(tagged.tag, value, event)
            case "session_log":
                data = event.session_log.SerializeToString()
                self._add_opaque("session", {"format": "session_log", "plugin": "", "data": data}, event)

    def add_value(self, value: summary_pb2.Summary.Value, step: int, walltime: float) -> None:
        """Record a value of a summary as the bus's own type, if there is one for all that it contains."""
        kind = value.WhichOneof("value")
        if kind is None and not value.HasField("metadata"):
            return
        plain: tuple[str, Any] | None = None
        if is_name(value.tag):
            if kind == "tensor":
                if self._add_tensor(value, step, walltime):
                    return
            elif not value.HasField("metadata"):
                plain = _plain_value(value)
        if plain is None:
            self.add_unchanged(value, step, walltime)
        elif plain[0] == "scalar":
            self.add_scalar(value.tag, plain[1], step, walltime)
        else:
            self._bus.publish(value.tag, plain[1], plain[0], step, walltime)

    def add_scalar(
        self, tag: str, number: Any, step: int, walltime: float, like: summary_pb2.Summary.Value = None, run: str = ""
    ) -> None:
        """Record a scalar.

        Args:
            tag: a valid name of an event.
            number: a float, or a tensor of one element on a GPU.
            step: the step.
            walltime: the walltime.
            like: a value with its tag, metadata and type of numbers; None for a value without metadata.
            run: the run below the rank that it belongs to.
        """
        if like is None and not run and ("scalar", tag) not in self._templates:
            self._bus.publish(tag, number, "scalar", step, walltime)
            return
        with _LOCK:
            self._set_template("scalar", tag, like or summary_pb2.Summary.Value(tag=tag), run, step, walltime)
            self._bus.publish(tag, number, "scalar", step, walltime)

    def add_scalars(self, tag: str, numbers: Mapping[str, float], run: str, step: int, walltime: float) -> None:
        """Record numbers by their labels; each belongs to the run `<run>_<label>`, where it has the same tag."""
        if is_name(tag):
            with _LOCK:
                self._set_template("scalars", tag, summary_pb2.Summary.Value(tag=tag), run, step, walltime)
                self._bus.publish(tag, numbers, "scalars", step, walltime)
            return
        for label, number in numbers.items():
            value = summary_pb2.Summary.Value(tag=tag, simple_value=number)
            self.add_unchanged(value, step, walltime, f"{run}_{label}")

    def add_hparams(
        self, hparams: Mapping[str, Any], summaries: Iterable[summary_pb2.Summary], run: str, step: int, walltime: float
    ) -> None:
        """Record hyperparameters, and the summaries that show them as a session of their own in TensorBoard."""
        with _LOCK:
            self._set_template("hparams", "hparams", None, "", step, walltime)
            self._bus.publish("hparams", hparams, "hparams", step, walltime)
        for summary in summaries:
            for value in summary.value:
                self.add_unchanged(value, step, walltime, run)

    def add_unchanged(self, value: summary_pb2.Summary.Value, step: int, walltime: float, run: str = "") -> None:
        """Record a value of a summary as it is."""
        plugin = value.metadata.plugin_data.plugin_name or _PLUGINS.get(value.WhichOneof("value"), "")
        fields: dict[str, Any] = {"format": "summary", "plugin": plugin, "data": value.SerializeToString()}
        fields |= {"run": run} if run else {}
        if plugin == "pr_curves":
            fields |= _readable_curve(value.tensor)
        self._bus.publish(_name_for(value.tag), fields, "summary", step, walltime)

    def add_file(self, path: str, data: bytes, step: int, walltime: float) -> None:
        """Record a file that TensorBoard reads beside the event files, in parts if it is large."""
        for offset in range(0, len(data) or 1, PART_BYTES):
            fields: dict[str, Any] = {"format": "file", "plugin": "projector", "path": path}
            fields |= {"data": data[offset : offset + PART_BYTES], **({"offset": offset} if offset else {})}
            self._bus.publish(_name_for(path), fields, "summary", step, walltime)

    def _add_opaque(self, name: str, fields: Mapping[str, Any], event: event_pb2.Event) -> None:
        self._bus.publish(_name_for(name), fields, "summary", event.step, event.wall_time)

    def _add_tensor(self, value: summary_pb2.Summary.Value, step: int, walltime: float) -> bool:
        """Record a tensor of one number or text; return False if the bus has no type for it."""
        like = summary_pb2.Summary.Value()
        like.CopyFrom(value)
        match value.metadata.plugin_data.plugin_name, _only_item(like.tensor):
            case "scalars", float(number):
                self.add_scalar(value.tag, number, step, walltime, like)
            case "text", bytes(data) if len(data) <= MAX_STRING_BYTES:
                name = value.tag.removesuffix(TEXT_SUFFIX) or value.tag
                with _LOCK:
                    self._set_template("text", name, like, "", step, walltime)
                    self._bus.publish(name, data.decode(errors="replace"), "text", step, walltime)
            case _:
                return False
        return True

    def _set_template(
        self, kind: str, name: str, like: summary_pb2.Summary.Value | None, run: str, step: int, walltime: float
    ) -> None:
        """Record how the values of a type and name are written, unless it has been; None: they are not written."""
        template = run, like.SerializeToString() if like is not None else b""
        if self._templates.get((kind, name)) != template:
            self._templates[kind, name] = template
            fields = {"format": "template", "plugin": "", "type": kind, "data": template[1], "run": run}
            self._bus.publish(name, fields, "summary", step, walltime)


def is_name(tag: str) -> bool:
    """Return whether a tag is a valid name of an event."""
    return 0 < len(tag) <= MAX_NAME_BYTES and (tag.isascii() or len(tag.encode()) <= MAX_NAME_BYTES)


def _name_for(tag: str) -> str:
    """Return a tag as the name of an event, cut if it is too long."""
    return tag.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "summary"


def _plain_value(value: summary_pb2.Summary.Value) -> tuple[str, Any] | None:
    """Return the type and value of the equivalent event, or None if no type of the bus fits."""
    match value.WhichOneof("value"):
        case "simple_value":
            return "scalar", value.simple_value
        case "histo":
            histogram = _histogram(value.histo)
            return ("histogram", histogram) if histogram else None
        case "image":
            image = _image(value.image)
            return ("image", image) if image else None
        case "audio" if value.audio.content_type == "audio/wav" and value.audio.encoded_audio_string[:4] == b"RIFF":
            sound = value.audio
            fields = {"sample_rate": sound.sample_rate, "channels": sound.num_channels, "frames": sound.length_frames}
            return "audio", {"data": sound.encoded_audio_string, "format": "wav", **fields}
    return None


def _histogram(histogram: summary_pb2.HistogramProto) -> dict[str, Any] | None:
    """Return the value of a `histogram` event; None if its limits or sums are not those of finite values."""
    limits, counts = list(histogram.bucket_limit), list(histogram.bucket)
    sums = [histogram.min, histogram.max, histogram.sum, histogram.sum_squares]
    if len(limits) != len(counts) or not any(counts) or not all(map(math.isfinite, [*sums, *limits[:-1]])):
        return None
    edges = [min(histogram.min, limits[0]), *limits]
    if not all(low <= high for low, high in pairwise(edges)):
        return None
    return {"edges": edges, "counts": counts, **dict(zip(("min", "max", "sum", "sum_squares"), sums, strict=True))}


def _image(image: summary_pb2.Summary.Image) -> dict[str, Any] | None:
    """Return the value of an `image` event; None if it is not in a format of its own."""
    data = image.encoded_image_string
    kind = next((kind for magic, kind in _FORMATS.items() if data.startswith(magic)), None)
    if kind is None:
        return None
    width, height = image.width, image.height
    if kind == "png":  # PyTorch's writer gives the size before the image was scaled
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return {"data": data, "format": kind, "width": width, "height": height, "channels": image.colorspace}


def _only_item(tensor: Any) -> float | bytes | None:
    """Remove the only item of a tensor of floats or strings, and return it; None if there is not exactly one."""
    field = {types_pb2.DT_FLOAT: "float_val", types_pb2.DT_DOUBLE: "double_val", types_pb2.DT_STRING: "string_val"}
    items = getattr(tensor, field.get(tensor.dtype, "int_val"))
    if tensor.dtype not in field or len(items) != 1 or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    item: float | bytes = items[0]
    del items[:]
    return item


def _readable_curve(tensor: Any) -> dict[str, Any]:
    """Return a precision-recall curve as lists of numbers; nothing if the tensor is not one."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) != 2 or shape[0] != len(CURVE_ROWS) or len(tensor.float_val) != shape[0] * shape[1]:
        return {}
    count, numbers = shape[1], list(tensor.float_val)
    rows = {name: numbers[row * count : (row + 1) * count] for row, name in enumerate(CURVE_ROWS)}
    return {"curve": {"thresholds": [place / max(count - 1, 1) for place in range(count)], **rows}}
