"""PyTorch's `SummaryWriter`, publishing onto the bus instead of writing event files.

    from trainwire.integrations.tensorboard import SummaryWriter

`docs/from-summary-writer.md` says what is recorded, and what differs.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from trainwire.bus.bus import EventBus
from trainwire.integrations.requirement import require
from trainwire.integrations.shared_bus import SharedBus, close_shared, is_launched, open_shared, parse_sinks
from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import HIGHEST_STEP, LOWEST_STEP

require("torch", "2.6", extra="torch", integration="tensorboard")
require("tensorboard", "2.17", extra="tensorboard")

import torch  # noqa: E402  # `require` explains why it cannot be imported

# TensorBoard publishes no types.
from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]  # noqa: E402
from torch.utils.tensorboard import SummaryWriter as TorchSummaryWriter  # noqa: E402
from torch.utils.tensorboard import summary as summaries  # noqa: E402
from torch.utils.tensorboard._convert_np import make_np  # noqa: E402
from torch.utils.tensorboard._utils import _prepare_video  # noqa: E402

from trainwire.integrations.summaries import SummaryRecorder, is_name  # noqa: E402

logger = logging.getLogger("trainwire")


class BusFileWriter:
    """What `SummaryWriter.file_writer` is: it has the methods of PyTorch's `FileWriter`, and records onto a bus."""

    def __init__(self, log_dir: str, bus: EventBus, shared: SharedBus | None) -> None:
        self.bus = bus
        self.recorder = SummaryRecorder(bus)
        self._log_dir = log_dir
        self._shared = shared

    def get_logdir(self) -> str:
        """Return the run's folder, as it was given."""
        return self._log_dir

    def add_event(self, event: event_pb2.Event, step: Any = None, walltime: Any = None) -> None:
        """Record an event of an event file."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.recorder.add_event(event)

    def add_summary(self, summary: summary_pb2.Summary, global_step: Any = None, walltime: Any = None) -> None:
        """Record the values of a summary."""
        self.add_event(event_pb2.Event(summary=summary), global_step, walltime)

    def add_graph(self, graph_profile: tuple[Any, Any], walltime: Any = None) -> None:
        """Record a graph and the statistics of its steps."""
        graph, statistics = graph_profile
        self.add_onnx_graph(graph, walltime)
        tagged = event_pb2.TaggedRunMetadata(tag="step1", run_metadata=statistics.SerializeToString())
        self.add_event(event_pb2.Event(tagged_run_metadata=tagged), None, walltime)

    def add_onnx_graph(self, graph: Any, walltime: Any = None) -> None:
        """Record a graph."""
        self.add_event(event_pb2.Event(graph_def=graph.SerializeToString()), None, walltime)

    def flush(self) -> None:
        """Wait until the journal has what was recorded."""
        if self.bus.is_open and not self.bus.flush():
            logger.warning("the journal in %s does not have everything yet that was recorded", self.bus.folder)

    def close(self, error: BaseException | None = None) -> None:
        """Close the bus, unless another writer uses it or it was passed to the writer."""
        if self._shared is not None:
            shared, self._shared = self._shared, None
            close_shared(shared, error)

    def reopen(self) -> None:
        """Do nothing: `SummaryWriter` opens a new one."""


class _ProjectorFiles(TorchSummaryWriter):
    """PyTorch's writer of the files of embeddings, into a folder of its own."""

    def __init__(self) -> None:
        self.folder = ""

    def _get_file_writer(self) -> Any:
        return self

    def get_logdir(self) -> str:
        return self.folder


class SummaryWriter(TorchSummaryWriter):
    """PyTorch's `SummaryWriter`, which records events of a run instead of writing event files.

    All methods have the signatures and defaults of PyTorch's, and raise the same errors. The sink `tensorboard` writes
    the event files, beside the training or later; other sinks and commands read the run as any other.

    Args:
        log_dir: the run's folder. Default: `runs/<date>_<host><comment>`. In the folder of an earlier run, the writer
            adds to it. Writers of one process that have the same folder share a bus.
        comment: appended to the default of `log_dir`.
        purge_step: TensorBoard hides what earlier writers have recorded in this folder from this step on.
        max_queue: without effect: what is recorded is written at once.
        flush_secs: without effect, for the same reason.
        filename_suffix: without effect: the sink names the event files.
        sinks: sinks to start beside the training, each as after `trainwire sink`: `("tensorboard",)`. The last writer
            of the folder that is closed waits for them.
        bus: the open bus to record onto, such as a training's, in place of `log_dir` and `sinks`; it stays open.

    Raises:
        OptionError: an argument is invalid.
        RunInUseError: another process, or another part of this one, records into the folder.
    """

    file_writer: Any
    """The open `BusFileWriter`; None after `close`."""
    all_writers: Any
    purge_step: Any

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
        *,
        sinks: Iterable[str] = (),
        bus: EventBus | None = None,
    ) -> None:
        self._sinks = parse_sinks(sinks)
        if bus is not None and (log_dir or self._sinks or not isinstance(bus, EventBus)):
            raise OptionError("SummaryWriter: pass log_dir and sinks, or an open bus in their place")
        if "://" in os.fspath(log_dir or ""):
            raise OptionError(f"SummaryWriter: {log_dir} is not a local folder, and runs are recorded in local folders")
        self._bus = bus
        self._projector = _ProjectorFiles()
        self._projector_lock = threading.Lock()
        folder = bus.folder if bus is not None else log_dir
        super().__init__(folder, comment, purge_step, max_queue, flush_secs, filename_suffix)

    def _get_file_writer(self) -> BusFileWriter:
        """Return the writer onto the bus; one that was closed is opened again, and adds to the run."""
        if self.all_writers is None or self.file_writer is None:
            self.file_writer = self._open()
            self.all_writers = {self.file_writer.get_logdir(): self.file_writer}
            if self.purge_step is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self.file_writer.add_event(event_pb2.Event(step=self.purge_step, session_log=start))
                self.purge_step = None
        writer: BusFileWriter = self.file_writer
        return writer

    def _open(self) -> BusFileWriter:
        if not any(sink.name == "tensorboard" for sink in self._sinks) and not is_launched("tensorboard"):
            _report_no_event_files(str(self.log_dir))
        if self._bus is None:
            shared = open_shared(self.log_dir, self._sinks)
            return BusFileWriter(str(self.log_dir), shared.bus, shared)
        return BusFileWriter(str(self.log_dir), self._bus, None)

    def add_scalar(
        self, tag: Any, scalar_value: Any, global_step: Any = None, walltime: Any = None, new_style: bool = False,
        double_precision: bool = False,
    ) -> None:  # fmt: skip
        """Record a scalar; one on a GPU is read without waiting for it.

        Args:
            tag: its name.
            scalar_value: a number, or a tensor or array of one element.
            global_step: the step. Default: 0.
            walltime: in seconds since the epoch. Default: now.
            new_style: the event file has it as a tensor.
            double_precision: the tensor has 64 bits. The bus always has 64 bits.
        """
        number = scalar_value if _is_scalar_on_gpu(scalar_value) else _number(scalar_value)
        like = _tensor_like(tag, double_precision) if new_style else None
        step, walltime = _step(global_step), _walltime(walltime)
        recorder = self._get_file_writer().recorder
        if type(tag) is str and tag.isascii() and is_name(tag):
            recorder.add_scalar(tag, number, step, walltime, like)
            return
        tag = summary_pb2.Summary.Value(tag=tag).tag  # which raises what PyTorch's writer raises
        if is_name(tag):
            recorder.add_scalar(tag, number, step, walltime, like)
        else:
            summary = summaries.scalar(tag, scalar_value, None, new_style, double_precision)  # type: ignore[no-untyped-call]
            recorder.add_unchanged(summary.value[0], step, walltime)

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, walltime: Any = None
    ) -> None:
        """Record several scalars that are shown in one chart; in TensorBoard each is a run of its own."""
        run = main_tag.replace("/", "_")
        numbers = {"" + label: _number(value) for label, value in tag_scalar_dict.items()}
        step, walltime = _step(global_step), _walltime(walltime)
        tag = summary_pb2.Summary.Value(tag=main_tag).tag
        recorder = self._get_file_writer().recorder
        if numbers:
            recorder.add_scalars(tag, numbers, run, step, walltime)

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: Mapping[str, list[Any]] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """Record hyperparameters and metrics to be compared; in TensorBoard each call is a run of its own."""
        if type(hparam_dict) is not dict or type(metric_dict) is not dict:
            raise TypeError("hparam_dict and metric_dict must be dicts")
        made = summaries.hparams(hparam_dict, metric_dict, hparam_domain_discrete)  # type: ignore[no-untyped-call]
        numbers = {tag: _number(value) for tag, value in metric_dict.items()}
        step, walltime, run = _step(global_step), time.time(), str(run_name or time.time())
        recorder = self._get_file_writer().recorder
        plain = {name: _first(value) for name, value in hparam_dict.items()}
        recorder.add_hparams(plain, made, run, step, walltime)
        for tag, number in numbers.items():
            value = summary_pb2.Summary.Value(tag=tag)
            if is_name(tag):
                recorder.add_scalar(tag, number, step, walltime, value, run)
            else:
                value.simple_value = number
                recorder.add_unchanged(value, step, walltime, run)

    def add_embedding(
        self, mat: Any, metadata: Any = None, label_img: Any = None, global_step: Any = None, tag: str = "default",
        metadata_header: Any = None,
    ) -> None:  # fmt: skip
        """Record the files of an embedding, which the projector shows."""
        recorder, step = self._get_file_writer().recorder, _step(global_step)
        with self._projector_lock, tempfile.TemporaryDirectory() as folder:
            self._projector.folder = folder
            self._projector.add_embedding(mat, metadata, label_img, global_step, tag, metadata_header)
            paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            # The configuration comes last: it names the others.
            for path in sorted(paths, key=lambda path: path.parent == Path(folder)):
                recorder.add_file(path.relative_to(folder).as_posix(), path.read_bytes(), step, time.time())

    def add_video(
        self, tag: Any, vid_tensor: Any, global_step: Any = None, fps: float = 4, walltime: Any = None
    ) -> None:
        """Record a video as a GIF, which Pillow encodes; PyTorch's writer needs moviepy below 2 for it."""
        frames = _prepare_video(make_np(vid_tensor))  # type: ignore[no-untyped-call]
        frames = (frames.astype("float32") * (1 if frames.dtype == "uint8" else 255)).clip(0, 255).astype("uint8")
        _, height, width, channels = frames.shape
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=_encode_gif(frames, fps)
        )
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)])
        self._get_file_writer().add_summary(summary, global_step, walltime)

    def close(self) -> None:
        """Close the run, unless another writer of this process records into it, and wait for the sinks."""
        self._close(None)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Close the run, with the status and reason of an exception that ended the block."""
        self._close(exc_val)

    def _close(self, error: BaseException | None) -> None:
        if self.file_writer is not None:
            writer, self.file_writer, self.all_writers = self.file_writer, None, None
            writer.close(error)


@cache
def _reports() -> list[str]:
    """Return the folders for which this process has said that no event files are written: at most one."""
    return []


def _report_no_event_files(log_dir: str) -> None:
    if _reports():
        return
    _reports().append(log_dir)
    logger.warning(
        "SummaryWriter records into %s and writes no event files: `trainwire sink tensorboard %s` writes them, during "
        "the training or after it, and SummaryWriter(sinks=('tensorboard',)) starts this sink",
        log_dir, log_dir,
    )  # fmt: skip


def _is_scalar_on_gpu(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_cuda and value.numel() == 1 and not value.is_complex()


def _number(value: Any) -> float:
    """Return a number, or the only element of a tensor or array.

    Raises:
        AssertionError: it has several elements, or none.
        NotImplementedError: it is neither a number nor an array or tensor.
    """
    if type(value) is float:
        return value
    array = make_np(value).squeeze()
    if array.ndim != 0:
        raise AssertionError(f"the value has {array.size} elements in {array.ndim} dimensions; pass one number")
    return float(array)


def _first(value: Any) -> Any:
    """Return the first element of a tensor, and anything else unchanged."""
    return float(make_np(value).reshape(-1)[0]) if isinstance(value, torch.Tensor) else value


def _step(step: Any) -> int:
    """Return a step as an integer, as it is in an event file; None is 0.

    Raises:
        ValueError: it has more than 64 bits, or is not a number.
    """
    number = 0 if step is None else int(step)
    if not LOWEST_STEP <= number <= HIGHEST_STEP:
        raise ValueError(f"Value out of range: the step {number}")
    return number


def _walltime(walltime: Any) -> float:
    """Return a walltime as it is in an event file; None is now.

    Raises:
        TypeError: it is not a number.
    """
    number: float = time.time() if walltime is None else event_pb2.Event(wall_time=walltime).wall_time
    return number


def _tensor_like(tag: Any, double_precision: bool) -> summary_pb2.Summary.Value:
    """Return a scalar in the new style without its number."""
    value = summaries.scalar(tag, 0.0, None, True, double_precision).value[0]  # type: ignore[no-untyped-call]
    del value.tensor.float_val[:], value.tensor.double_val[:]
    return value


def _encode_gif(frames: Any, fps: float) -> bytes:
    from PIL import Image

    images = list(map(Image.fromarray, frames[..., 0] if frames.shape[-1] == 1 else frames))
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=1000 / fps, loop=0)
    return file.getvalue()
