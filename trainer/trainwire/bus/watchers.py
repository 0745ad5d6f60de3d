"""Asynchronous watchers inside the training process: handlers of events, on a loop and thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from trainwire_protocol.errors import UsageError
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, decode_events

MAX_WAITING: Final = 100_000
"""Events that wait for the watchers; the oldest are dropped beyond it."""

Handler: TypeAlias = Callable[[Event], Awaitable[None]]

_log = logging.getLogger("trainwire")


class Watchers:
    """Hands every event to each handler; the thread is started with the first handler."""

    def __init__(self) -> None:
        self.dropped = 0
        """Events that the watchers were too slow for."""
        self._handlers: list[Handler] = []
        self._waiting: deque[Event] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, handler: Handler) -> None:
        """Have `handler` called with every event from now on, one at a time.

        Raises:
            UsageError: it is no `async def` function.
        """
        if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004  # an object whose call is asynchronous
        ):
            raise UsageError(f"watch takes an async def function; {handler!r} is none: use a hook for what is not")
        self._handlers.append(handler)
        if self._thread is None:
            started = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(started,), name="trainwire-watch", daemon=True)
            self._thread.start()
            started.wait()

    def __len__(self) -> int:
        """Return the number of handlers."""
        return len(self._handlers)

    def send(self, batches: Sequence[Batch]) -> None:
        """Hand events over, from the bus; returns at once."""
        if not self._handlers:
            return
        for batch in batches:
            # Not `batch.events`, which the batch would keep as long as it waits for the journal's disk.
            self._waiting.extend(decode_events(batch.body, batch.header.count)[0])
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._call_loop()

    def close(self, timeout: float) -> None:
        """Let the handlers finish what waits, for at most `timeout` seconds."""
        self._closing = True
        self._call_loop()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _call_loop(self) -> None:
        """Wake the loop, if it is still there."""
        if self._loop and self._wake:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self._main(started))

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
            except BaseException:  # also what would end this thread: the bus and other watchers go on
                _log.exception("the watcher %r failed on %r; it is called no more", handler, event.name)
                self._handlers.remove(handler)
