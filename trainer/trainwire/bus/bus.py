"""The event bus, with which a training loop records events. Recording never blocks and never raises."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from trainwire.bus import logging_context
from trainwire.bus.batcher import Batcher
from trainwire.bus.bus_thread import BusThread
from trainwire.bus.logging_handler import BusHandler
from trainwire.bus.process_end import status_of
from trainwire.bus.queue import FLOATS, Logged, RecordQueue
from trainwire.bus.values.coercion import coerce_labelled, coerce_number, coerce_scalars, whole_number
from trainwire.bus.values.histograms import coerce_histogram
from trainwire.bus.values.images import coerce_image
from trainwire.bus.values.pending import size_of
from trainwire.bus.values.plain import coerce_hparams, coerce_plain, coerce_text
from trainwire.bus.values.rejections import Rejections, short_repr
from trainwire.bus.values.sounds import coerce_audio
from trainwire.bus.values.tables import coerce_table
from trainwire.bus.values.tensors import is_on_gpu
from trainwire.bus.watchers import Handler, Watchers
from trainwire.bus.writer import Writer
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import InvalidEventError, RequestError
from trainwire_protocol.events import EVENT_TYPES, LAST_EVENTS
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.transport.server import Server

ENDING_SECONDS: Final = 1.0
"""Time beyond its timeout that `close` may take, to write the last events and to close the sockets."""

FLUSH_TIMEOUT: Final = 60.0
"""Default time that `flush` waits, in seconds."""

_RESERVED: Final = LAST_EVENTS | {MARK, "run/started", "run/resumed"}
"""Lifecycle events that only the bus itself records."""

_COERCIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "scalar": coerce_number, "scalars": coerce_labelled, "histogram": coerce_histogram,
    "image": coerce_image, "audio": coerce_audio, "table": coerce_table,
    "hparams": coerce_hparams, "text": coerce_text,
}  # fmt: skip


class EventBus:
    """Records the events of one attempt of one rank. Open it with `trainwire.open_bus`.

    All methods may be called from any thread. A value that cannot be recorded is reported through `logging`, once for
    each name and reason, and counted in `rejections`.
    """

    def __init__(
        self, folder: Path, attempt: Attempt, session: str, open_server: Callable[[EventBus], Server],
        interval: float, close_timeout: float,
    ) -> None:  # fmt: skip
        self.folder = folder
        """The run's folder."""
        self.run = attempt.run
        self.rank = attempt.rank
        self.attempt = attempt.number
        self.session = session
        """Random identifier of this process's session."""
        self.close_timeout = close_timeout
        """Seconds that `close` waits by default."""
        self.state = "running"
        """State of the run, as reported by heartbeats."""
        self.hyperparameters: dict[str, Any] = {}
        """Hyperparameters that were recorded."""
        self._rejections = Rejections()
        self._queue = RecordQueue()
        self._watchers = Watchers()
        self._on_command: Callable[[Command], None] | None = None
        self._open = True
        self._is_disowned = False
        self._close_deadline: float | None = None
        """Time of the monotonic clock until which `close` waits; None before it is called."""
        self._marks = itertools.count(1)
        batcher = Batcher(attempt.run, attempt.rank, attempt.number, self._rejections)
        self._thread = BusThread(
            partial(open_server, self),
            partial(Writer, attempt, session, self._queue, batcher, self._watchers, self._rejections, interval),
        )
        self._on_close: list[Callable[[], object]] = []

    def start(self, fields: Mapping[str, Any], resumed: Mapping[str, Any] | None) -> None:
        """Record the first event and start the bus thread; called by `open_bus`. Returns once the sockets are bound.

        Args:
            fields: the fields of the first event.
            resumed: further fields of `run/resumed`; None: the first event is `run/started`.

        Raises:
            UsageError: they cannot be bound.
        """
        if resumed is None:
            self._queue.append("run/started", coerce_plain(fields), "lifecycle", 0)
        else:
            self._queue.append("run/resumed", coerce_plain({**fields, **resumed}), "lifecycle", resumed["from_step"])
        logging_context.enter(self)
        logging_context.in_this_context(self._thread).start()
        self._thread.started.wait()
        if self._thread.failure:
            logging_context.leave(self)
            raise self._thread.failure

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record scalars.

        Args:
            metrics: numbers or tensors of one element, by name. Tensors on a GPU are read without synchronization. In
                a nested map, `{"dev": {"f1": 0.9}}` is named `dev/f1`.
            step: number of completed optimizer updates. Default: the largest step that was passed.
        """
        if not self._open:
            self._refuse(metrics)
            return
        try:
            values, kind = dict(metrics), FLOATS
            for value in values.values():
                if value.__class__ is not float:
                    values, kind = coerce_scalars(values), Logged.ANY
                    break
            self._queue.append("", values, kind, step, len(values) or 1)
        except Exception as error:
            self._rejections.add_call(metrics, error)

    def publish(self, name: str, value: Any, type: str, step: int | None = None, walltime: float | None = None) -> None:
        """Record an event of any type; most other methods call this one.

        Args:
            name: the event's name.
            value: depends on the type.
            type: one of those in `docs/wire-protocol.md`, or a type of your own.
            step: as in `log`.
            walltime: when it happened, in seconds since the epoch. Default: now.
        """
        if not self._open and not (type == "log" and self.is_open):
            if type != "log":  # a handler of `logging` may stay attached
                self._refuse(name)
            return
        try:
            if not isinstance(type, str) or not type or (type == "lifecycle" and name in _RESERVED):
                raise InvalidEventError("this name and type are reserved for the bus")
            plain = _COERCIONS.get(type, coerce_plain)(value)
            self._queue.append(name, plain, type, step, 1, size_of(plain), walltime)
            if type == "hparams":
                self.hyperparameters = self.hyperparameters | plain.value
        except Exception as error:
            self._rejections.add_event(name, type, error)

    def scalars(self, name: str, value: Any, step: int | None = None) -> None:
        """Record several numbers, to be shown in one chart: a sequence, a tensor, or a map of labels to numbers."""
        self.publish(name, value, "scalars", step)

    def text(self, name: str, value: str, step: int | None = None) -> None:
        """Record a text, to be shown as Markdown."""
        self.publish(name, value, "text", step)

    def histogram(self, name: str, value: Any, step: int | None = None) -> None:
        """Record the distribution of the finite numbers in a tensor, array, list or iterator.

        A tensor is bucketed on its device. The counts and edges that `numpy.histogram` returns are recorded as given.
        """
        self.publish(name, value, "histogram", step)

    def image(self, name: str, value: Any, step: int | None = None) -> None:
        """Record an image: a PNG, JPEG, GIF, WebP or BMP file, an image of Pillow, a figure of Matplotlib, or pixels.

        A file is passed as its bytes or its path, and is read at once; a figure is drawn at once. Pixels are a tensor,
        array or list of shape (height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4
        channels: floats from 0 to 1, integers from 0 to 255, or booleans. If the shape fits both orders, the channels
        of a tensor come first, and those of an array last. A batch of images, with a dimension before these, is shown
        as a grid.
        """
        self.publish(name, value, "image", step)

    def audio(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a sound: the bytes or the path of a WAV file, or `(samples, sample_rate)`.

        Samples are floats from -1 to 1, or integers of 8, 16 or 32 bits, of shape (frames,), (channels, frames) or
        (frames, channels), with more frames than channels; the rate is in Hz.
        """
        self.publish(name, value, "audio", step)

    def table(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a table: a data frame, `{"columns": […], "rows": [[…], …]}`, an array, or a list of maps or rows.

        A map of columns to lists of cells is a table too. Columns without a name are numbered from 0.
        """
        self.publish(name, value, "table", step)

    def hparams(self, values: Any) -> None:
        """Record the run's hyperparameters: a mapping, or an object with fields, such as an `argparse.Namespace`.

        Nested objects become maps, and items of other types texts.
        """
        self.publish("hparams", values, "hparams")

    def lifecycle(self, name: str, step: int | None = None, **value: Any) -> None:
        """Record a lifecycle event; `docs/wire-protocol.md` lists the names and fields."""
        self.publish(name, value, "lifecycle", step)

    def start_epoch(self, epoch: int, max_epochs: int | None = None) -> None:
        """Record that a loop of one's own begins an epoch, so that monitors show its progress.

        Args:
            epoch: its number, from 1.
            max_epochs: how many epochs there will be, from which the remaining time is estimated.
        """
        try:
            fields = {"epoch": whole_number(epoch, "epoch")}
            fields |= {} if max_epochs is None else {"max_epochs": whole_number(max_epochs, "max_epochs")}
            self.lifecycle("epoch/started", **fields)
        except Exception as error:
            self._rejections.add_event("epoch/started", "lifecycle", error)

    def finish_epoch(
        self, epoch: int, metrics: Mapping[str, Any] | None = None, best: tuple[str, Any, int] | None = None
    ) -> None:
        """Record the end of an epoch: the sink `loss-file` then adds a row to loss.tsv.

        Args:
            epoch: its number.
            metrics: recorded as by `log`, such as the scores of an evaluation. What was logged during the epoch need
                not be repeated.
            best: the best epoch so far, as its metric, score and number: `("dev/loss", 0.25, 3)`. Its score is read at
                once, also from a GPU.
        """
        try:
            fields: dict[str, Any] = {"epoch": whole_number(epoch, "epoch")}
            if metrics:
                self.log(metrics)
                numbers = coerce_scalars({name: value for name, value in metrics.items() if not is_on_gpu(value)})
                fields["metrics"] = {name: value for name, value in numbers.items() if type(value) in (int, float)}
            if best is not None:
                metric, score, number = best
                fields["best"] = {"metric": metric, "score": float(score), "epoch": whole_number(number, "epoch")}
            self.lifecycle("epoch/finished", **fields)
        except Exception as error:
            self._rejections.add_event("epoch/finished", "lifecycle", error)

    def logging_handler(self, level: int = logging.INFO) -> logging.Handler:
        """Return a handler that records the messages of Python's `logging`; add it to a logger.

        If several buses are open, each message is recorded by one of them: see `BusHandler`.
        """
        return BusHandler(self, level)

    @property
    def is_open(self) -> bool:
        """Whether log messages are recorded: also while the bus closes, since they may be about the last values."""
        is_closing = self._close_deadline is not None and not self._thread.writer.is_finished
        return self._open or is_closing

    def watch(self, handler: Handler) -> None:
        """Call an `async def` function with every event, on a thread that the training does not wait for.

        Raises:
            UsageError: it is not an `async def` function.
        """
        self._watchers.add(handler)

    def on_command(self, handler: Callable[[Command], None] | None) -> None:
        """Set the handler of commands from outside (`trainwire send`); None refuses them from now on.

        The handler is called on the bus thread. It should only store the command for the training loop, which then
        records `command/applied` or `command/rejected`.
        """
        self._on_command = handler

    def receive_command(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        """Record a command that was received by the server, and pass it to the handler.

        Raises:
            RequestError: there is no handler.
        """
        handler = self._on_command
        if handler is None:
            raise RequestError("this training accepts no commands")
        self.lifecycle("command/received", id=identifier, verb=verb, arguments=dict(arguments))
        handler(Command(identifier, verb, arguments))

    def state_dict(self) -> dict[str, Any]:
        """Record a mark, and return its position, to be stored in a checkpoint.

        `open_bus(folder, state=…)` continues from there; what was recorded after the mark is then superseded.
        """
        mark, step = next(self._marks), self._queue.last_step
        if self._open:
            self._queue.append(MARK, {"mark": mark}, "lifecycle", None)
        return {"run": self.run, "attempt": self.attempt, "mark": mark, "step": step}

    def wait_until_journaled(self, state: Mapping[str, Any], timeout: float) -> bool:
        """Wait until the mark of a `state_dict` is in the journal; return False if it is not in `timeout` seconds.

        A checkpoint is complete only then. Do not call this on the training thread.
        """
        return self._thread.writer.wait_for_mark(state["mark"], timeout)

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait until the journal has what was recorded before; return False if it has not in `timeout` seconds.

        The journal has it within `flush_interval` in any case, so that a training need not call this.
        """
        if self._open:
            return self._thread.writer.wait_until_written(timeout)
        self.close()  # waits for a close in another thread
        return not self._is_disowned

    def close(self, timeout: float | None = None, status: str = "finished", reason: str | None = None) -> None:
        """Record the last event, `run/<status>`, and close the bus; further calls only wait until it is closed.

        Args:
            timeout: maximum seconds to wait for the journal's disk and for sinks that read live; the last events and
                the watchers may take one second more. Default: the `close_timeout` that was passed to `open_bus`.
            status: `finished`, `failed` or `interrupted`.
            reason: why the training ended.
        """
        if self._open:
            self._open = False
            logging_context.leave(self)
            timeout = self.close_timeout if timeout is None else timeout
            status = status if f"run/{status}" in LAST_EVENTS else "finished"
            self.state = status
            self._close_deadline = time.monotonic() + timeout + ENDING_SECONDS
            # Characters that cannot be encoded are replaced.
            reason = reason and reason[:1000].encode(errors="replace").decode()
            self._thread.end(status, reason, timeout)
        if self._close_deadline is None:
            return
        try:
            self._thread.wait(self._close_deadline)
            self._watchers.close(max(self._close_deadline - time.monotonic(), 0))
        finally:
            while self._on_close:
                self._on_close.pop()()

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call a function at the end of `close`; the last one added is called first."""
        self._on_close.append(callback)

    def disown(self) -> None:
        """Record nothing more in this process; called in a fork, because the bus's threads run only in the parent."""
        self._is_disowned, self._open, self._close_deadline = True, False, None

    def _refuse(self, value: object) -> None:
        """Report that a value is not recorded, because the bus is closed or belongs to the process before a fork."""
        if self._is_disowned:
            message = "nothing is recorded in this forked process: record in its parent, or open a bus of its own here"
            self._rejections.add("forked", message)
        else:
            message = "not recorded, as the bus of %s is closed: %s; record before close, or inside the with block"
            self._rejections.add("closed", message, self.folder, short_repr(value))

    def __copy__(self) -> Self:
        """Return the bus itself: a copy would record into the same run."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the bus itself, as `copy` does."""
        return self

    def __reduce__(self) -> str:
        """Refuse to be sent to another process.

        Raises:
            TypeError: always, as pickle expects.
        """
        raise TypeError(
            "an event bus cannot be pickled or sent to another process: leave it out of the object that is sent (a "
            "Dataset, a callback), and record in the process that opened it; or call trainwire.open_bus in the other "
            "process, with a rank or folder of its own"
        )

    @property
    def rejections(self) -> Mapping[str, int]:
        """Number of values that could not be recorded, by kind: usually the name of the event."""
        return self._rejections.counts

    def describe(self) -> dict[str, Any]:
        """Return what heartbeats report about the training thread."""
        queue = self._queue
        return {
            "state": self.state, "step": queue.last_step, "step_walltime": queue.last_walltime,
            "dropped": queue.dropped,
        }  # fmt: skip

    def __enter__(self) -> Self:
        """Return the bus itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bus, with the status and reason of an exception that ended the block."""
        status, reason = status_of(error)
        self.close(status=status, reason=reason)


assert _COERCIONS.keys() <= EVENT_TYPES
