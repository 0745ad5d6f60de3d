"""Watchers: asynchronous handlers of events in the training process, on their own event loop and thread."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from trainwire.bus.logging_context import in_this_context
from trainwire_protocol.errors import UsageError
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, decode_events

MAX_WAITING: Final = 100_000
"""Maximum number of events that wait for the watchers; beyond it the oldest are dropped."""

Handler: TypeAlias = Callable[[Event], Awaitable[None]]

_log = logging.getLogger("trainwire")


class Watchers:
    """Calls each handler with every event, on a thread that starts with the first handler."""

    def __init__(self) -> None:
        self.dropped = 0
        """Number of events dropped because the watchers were too slow."""
        self._handlers: list[Handler] = []
        self._waiting: deque[Event] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def __len__(self) -> int:
        """Return the number of handlers."""
        return len(self._handlers)

    def add(self, handler: Handler) -> None:
        """Call `handler` with every event from now on, one at a time.

        Raises:
            UsageError: it is not an `async def` function.
        """
        if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004  # an object whose call is asynchronous
        ):
            raise UsageError(f"watch requires an async def function, not {handler!r}; use a hook for other functions")
        self._handlers.append(handler)
        if self._thread is None:
            started = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._main(started)), name="trainwire-watch", daemon=True
            )
            in_this_context(self._thread).start()
            started.wait()

    def send(self, batches: Sequence[Batch]) -> None:
        """Pass events to the watchers, from the bus; returns at once."""
        if not self._handlers:
            return
        for batch in batches:
            # Not `batch.events`, which the batch would keep while it waits for the journal's disk.
            self._waiting.extend(decode_events(batch.body, batch.header.count)[0])
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            if not self.dropped:
                _log.warning("the watchers are too slow: the oldest of %d waiting events are dropped", MAX_WAITING)
            self.dropped += 1
        self._wake_loop()

    def close(self, timeout: float) -> None:
        """Let the handlers process what is waiting, for at most `timeout` seconds."""
        self._closing = True
        self._wake_loop()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _wake_loop(self) -> None:
        if self._loop and self._wake:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        while not self._closing or self._waiting:
            if not self._waiting:
                await self._wake.wait()
                self._wake.clear()
            while self._waiting:
                await self._handle(self._waiting.popleft())

    async def _handle(self, event: Event) -> None:
        for handler in list(self._handlers):
            try:
                await handler(event)
            except BaseException:  # including those that would end this thread
                _log.exception("the watcher %r failed on %r and is no longer called", handler, event.name)
                self._handlers.remove(handler)
