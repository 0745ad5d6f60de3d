"""The bus: what a training loop calls to record events. It never blocks, and never raises for what it is given."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from trainwire.bus.batcher import Batcher
from trainwire.bus.coercion import coerce_labelled, coerce_number, coerce_plain, coerce_scalars, coerce_table, size_of
from trainwire.bus.logging_handler import BusHandler
from trainwire.bus.media import coerce_audio, coerce_histogram, coerce_image
from trainwire.bus.queue import FLOATS, Logged, RecordQueue
from trainwire.bus.rejections import Rejections, shown
from trainwire.bus.thread import BusThread
from trainwire.bus.watchers import Handler, Watchers
from trainwire.bus.writer import Writer
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import InvalidEventError, RequestError
from trainwire_protocol.events import EVENT_TYPES, LAST_EVENTS, Event, validate
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.transport.server import Server

ENDING_SECONDS: Final = 1.0
"""How much longer `close` may take, to write its last events and to close its sockets."""

_OWN_EVENTS: Final = LAST_EVENTS | {MARK, "run/started", "run/resumed"}

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "scalar": coerce_number, "scalars": coerce_labelled, "histogram": coerce_histogram,
    "image": coerce_image, "audio": coerce_audio, "table": coerce_table,
}  # fmt: skip


class EventBus:
    """Records the events of one attempt of one rank. Open it with `trainwire.open_bus`.

    All methods may be called from any thread. What they are given and cannot record is reported once through
    `logging`, and counted in `rejections`.
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
        """Random: two processes never have the same."""
        self.close_timeout = close_timeout
        """Seconds that `close` waits by default."""
        self.state = "running"
        """What heartbeats tell of the run."""
        self.hyperparameters: dict[str, Any] = {}
        """What `hparams` was given."""
        self._rejections = Rejections()
        self._queue = RecordQueue()
        self._watchers = Watchers()
        self._on_command: Callable[[Command], None] | None = None
        self._open = True
        self._is_disowned = False
        self._marks = itertools.count(1)
        batcher = Batcher(attempt.run, attempt.rank, attempt.number, self._rejections)
        self._thread = BusThread(
            partial(open_server, self),
            partial(Writer, attempt, session, self._queue, batcher, self._watchers, interval),
        )
        self._on_close: list[Callable[[], object]] = []

    def start(self, name: str, value: Mapping[str, Any], step: int) -> None:
        """Record the first event, start the bus thread, and wait until its sockets are bound; `open_bus` does this."""
        self._queue.append(name, coerce_plain(value), "lifecycle", step)
        self._thread.start()
        self._thread.started.wait()
        if self._thread.failure:
            raise self._thread.failure

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record scalars by name: numbers, or tensors of one element, those of a GPU without waiting for it.

        `step` is the number of optimizer updates that are finished; left out, it is the last one given.
        """
        if not self._open:
            self._refuse()
            return
        try:
            values, kind = dict(metrics), FLOATS
            for value in values.values():
                if value.__class__ is not float:
                    values, kind = coerce_scalars(values), Logged.ANY
                    break
            self._queue.append("", values, kind, step, len(values) or 1)
        except Exception as error:
            self._rejections.add("log", "log cannot record %s: %s", shown(metrics), shown(error))

    def publish(self, name: str, value: Any, type: str, step: int | None = None) -> None:
        """Record an event of any type; the other methods stand on this one."""
        if not self._open:
            self._refuse()
            return
        try:
            if not isinstance(type, str) or not type or (type == "lifecycle" and name in _OWN_EVENTS):
                raise InvalidEventError("the bus records events of that name and type by itself")
            plain = _READERS.get(type, coerce_plain)(value)
            self._queue.append(name, plain, type, step, 1, size_of(plain))
        except Exception as error:
            told = "not recorded: event %s of type %s: %s"
            self._rejections.add(shown(name), told, shown(name), shown(type), shown(error))

    def scalars(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a list of numbers, or a map of label to number, that belong in one chart."""
        self.publish(name, value, "scalars", step)

    def text(self, name: str, value: str, step: int | None = None) -> None:
        """Record a text, which is shown as Markdown."""
        self.publish(name, value, "text", step)

    def histogram(self, name: str, value: Any, step: int | None = None) -> None:
        """Record the distribution of a tensor, array or list; a tensor is bucketed where it lives."""
        self.publish(name, value, "histogram", step)

    def image(self, name: str, value: Any, step: int | None = None) -> None:
        """Record an image: the bytes of a PNG, JPEG, GIF or WebP file, or pixels (see `trainwire.bus.media`)."""
        self.publish(name, value, "image", step)

    def audio(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a sound: the bytes of a WAV file, or `(samples, sample_rate)`."""
        self.publish(name, value, "audio", step)

    def table(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a table: `{"columns": […], "rows": [[…], …]}`, or a list of maps."""
        self.publish(name, value, "table", step)

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Record the run's hyperparameters."""
        try:
            plain = coerce_plain(values)
            self.hyperparameters |= validate(Event("hparams", plain, "hparams", 0.0, 0)).value
            self.publish("hparams", plain, "hparams")
        except Exception as error:
            self._rejections.add("hparams", "hparams cannot record %s: %s", shown(values), shown(error))

    def lifecycle(self, name: str, step: int | None = None, **value: Any) -> None:
        """Record that something happened; `docs/wire-protocol.md` lists the names."""
        self.publish(name, value, "lifecycle", step)

    def logging_handler(self, level: int = logging.INFO) -> logging.Handler:
        """A handler that records what goes through Python's `logging`; add it to a logger of your choice."""
        return BusHandler(self, level)

    def watch(self, handler: Handler) -> None:
        """Have an `async def` function called with every event, on a thread that training never waits for.

        Raises:
            UsageError: it is no `async def` function.
        """
        self._watchers.add(handler)

    def on_command(self, handler: Callable[[Command], None] | None) -> None:
        """Have commands from outside (`trainwire send`) handed in; None: refuse them from now on.

        The handler is called on the bus's thread: let it put the command where the training loop looks, and answer
        with the lifecycle events `command/applied` or `command/rejected` once it has looked.
        """
        self._on_command = handler

    def receive_command(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        """Take a command that has come over the wire.

        Raises:
            RequestError: nobody here takes commands.
        """
        handler = self._on_command
        if handler is None:
            raise RequestError("this training takes no commands")
        about = {"id": identifier, "verb": verb, "arguments": dict(arguments)}
        self.publish("command/received", about, "lifecycle")
        handler(Command(identifier, verb, arguments))

    def state_dict(self) -> dict[str, Any]:
        """Record a mark, and return its position: keep it with a checkpoint of what you have trained so far.

        `open_bus(folder, state=…)` goes on from there: what was recorded after the mark is then superseded.
        """
        mark, step = next(self._marks), self._queue.last_step
        if self._open:
            self._queue.append(MARK, {"mark": mark}, "lifecycle", None)
        return {"run": self.run, "attempt": self.attempt, "mark": mark, "step": step}

    def wait_until_journaled(self, state: Mapping[str, Any], timeout: float) -> bool:
        """Wait until the mark of a `state_dict` is in the journal; False if it is not in `timeout` seconds.

        A checkpoint gets its final name only then. Not for the training thread.
        """
        return self._thread.writer.wait_for_mark(state["mark"], timeout)

    def close(self, timeout: float | None = None, status: str = "finished", reason: str | None = None) -> None:
        """Record the last event, `run/<status>`, and end; calling it again does nothing.

        Args:
            timeout: maximum seconds to wait for the journal's disk and for sinks that read live; the last events and
                the watchers may take one second more. Default: the `close_timeout` that was passed to `open_bus`.
            status: `finished`, `failed` or `interrupted`.
            reason: what it ended for.
        """
        if not self._open:
            return
        self._open = False
        timeout = self.close_timeout if timeout is None else timeout
        status = status if f"run/{status}" in LAST_EVENTS else "finished"
        self.state = status
        until = time.monotonic() + timeout + ENDING_SECONDS
        self._thread.end(status, _sendable(reason), timeout)
        try:
            self._thread.wait(until)
            self._watchers.close(max(until - time.monotonic(), 0))
        finally:
            for close in reversed(self._on_close):
                close()

    def on_close(self, callback: Callable[[], object]) -> None:
        """Have something called at the end of `close`."""
        self._on_close.append(callback)

    def disown(self) -> None:
        """Record nothing more in this process: it is a fork, and the bus's threads live in its parent."""
        self._is_disowned, self._open = self._open, False

    def _refuse(self) -> None:
        """Say once, in a fork, that nothing is recorded there; after `close` it is no news."""
        if self._is_disowned:
            self._is_disowned = False
            logging.getLogger("trainwire").warning("the bus is inert in this forked process: record in its parent")

    @property
    def rejections(self) -> Mapping[str, int]:
        """How often what was given could not be recorded, by what it was."""
        return self._rejections.counts

    def describe(self) -> dict[str, Any]:
        """What heartbeats tell: how the training thread is getting on."""
        queue = self._queue
        return {
            "state": self.state, "step": queue.last_step, "step_walltime": queue.last_walltime,
            "dropped": queue.dropped,
        }  # fmt: skip

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close: as interrupted by KeyboardInterrupt, as failed by other exceptions but an exit with status 0."""
        self.close_after(error)

    def close_after(self, error: BaseException | None) -> None:
        """Close with the status and reason of what ended the training, if something did."""
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
        else:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.close(status=status, reason=f"{type(error).__name__}: {error}".removesuffix(": "))


def _sendable(reason: str | None) -> str | None:
    """At most 1,000 characters of a reason, without what cannot be encoded."""
    return reason and reason[:1000].encode(errors="replace").decode()


assert _READERS.keys() <= EVENT_TYPES
