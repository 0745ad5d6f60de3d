"""What the journal's thread has written, on its way to the bus thread's loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from trainwire_protocol.wire import Batch

MAX_CONFIRMED: Final = 16
"""Batches that are published in one go: each takes three sends, which all let training have the interpreter's lock."""


class Written:
    """Hands batches on a few at a time, so that the loop answers requests and sends heartbeats in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, confirm: Callable[[Sequence[Batch]], object]) -> None:
        """Prepare; `confirm` is called on the loop, with batches in the order in which they were written."""
        self._loop, self._confirm = loop, confirm
        self._waiting: deque[Batch] = deque()
        self._is_going_on = False

    def __len__(self) -> int:
        """How many batches wait."""
        return len(self._waiting)

    def add(self, batches: Sequence[Batch]) -> None:
        """Take batches on; called on the journal's thread, which a bad disk may hold for longer than the loop lives."""
        self._waiting.extend(batches)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if not self._is_going_on:
            self._go_on()

    def _go_on(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_CONFIRMED))]
        self._is_going_on = bool(self._waiting)
        if self._is_going_on:
            self._loop.call_soon(self._go_on)
        self._confirm(some)
