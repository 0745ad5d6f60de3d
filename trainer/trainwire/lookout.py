"""Looks out for records while the bus thread rests: a turn of asyncio's loop costs several times a plain sleep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sized


class Lookout(threading.Thread):
    """Calls `on_record` once something is queued, each time that it was told to begin."""

    def __init__(self, queue: Sized, interval: float, on_record: Callable[[], object]) -> None:
        """Prepare the thread, which looks every `interval` seconds; `on_record` is called on it."""
        super().__init__(name="trainwire-lookout", daemon=True)
        self._queue, self._interval, self._on_record = queue, interval, on_record
        self._begun = threading.Event()
        self._stopped = False

    def begin(self) -> None:
        """Look out, until something is queued."""
        self._begun.set()

    def stop(self) -> None:
        """End the thread, within the interval."""
        self._stopped = True
        self._begun.set()

    def run(self) -> None:
        """Look out whenever told to, until stopped."""
        while not self._stopped:
            self._begun.wait()
            self._begun.clear()
            while not self._queue and not self._stopped:
                time.sleep(self._interval)
            self._on_record()
