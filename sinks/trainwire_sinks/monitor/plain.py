"""Watching without a terminal: lines on standard output."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from trainwire_sinks.inspect.ranks import describe_ranks
from trainwire_sinks.monitor.alerts import Alert
from trainwire_sinks.monitor.descriptions import describe, describe_alert, describe_metrics, describe_sinks
from trainwire_sinks.monitor.reader import Reader
from trainwire_sinks.monitor.view import View

POLL_SECONDS: Final = 0.2
"""How often new lines are looked for."""

HISTORY_LINES: Final = 10
"""Lines of the log that are printed of what was before."""

SHOWN_METRICS: Final = 8
"""Metrics whose latest values stand in a line."""


class Printer:
    """Prints what a view has, and what has changed since the last call.

    Args:
        view: what is printed.
        interval: seconds between two lines that tell the state.
        prefix: begins each line.
        write: prints a line.
    """

    def __init__(self, view: View, interval: float, prefix: str, write: Callable[[str], object]) -> None:
        self._view = view
        self._interval = interval
        self._prefix = prefix
        self._write = write
        self._lines: int | None = None
        self._alerts: set[Alert] = set()
        self._last_told = ""
        self._next = 0.0

    def update(self, now: float, *, is_last: bool = False) -> None:
        """Print what is new; `now` is of the monotonic clock, and the last time the state is told once more."""
        view = self._view
        if not view.is_caught_up and not is_last:
            self._tell_state(now)
            return
        if self._lines is None:
            self._lines = max(0, view.log.count - HISTORY_LINES)
        for line in view.log.since(self._lines):
            self._print(str(line))
        self._lines = view.log.count
        self._tell_alerts()
        self._tell_state(now, at_once=is_last)

    def _tell_alerts(self) -> None:
        for alert in self._view.alerts:
            if alert not in self._alerts:
                self._print(f"ALERT {describe_alert(alert)}")
        self._alerts = set(self._view.alerts)

    def _tell_state(self, now: float, *, at_once: bool = False) -> None:
        """Say how the run is, if that has changed and is due."""
        if now < self._next and not at_once:
            return
        told = describe(self._view, now)
        if self._view.is_caught_up:
            told += f"; ranks: {describe_ranks(self._view.ranks)}" if len(self._view.ranks) > 1 else ""
            told += f"; {describe_metrics(self._view, SHOWN_METRICS)}; sinks: {describe_sinks(self._view)}"
        if told != self._last_told:
            self._print(f"-- {told}")
            self._last_told, self._next = told, now + self._interval

    def _print(self, line: str) -> None:
        self._write(f"{self._prefix}{line}")


async def print_runs(readers: Sequence[Reader], interval: float) -> None:
    """Print what happens in runs until all are over."""
    prefix = len(readers) > 1
    printers = [
        Printer(reader.view, interval, f"{reader.view.label} | " if prefix else "", _write) for reader in readers
    ]
    reading = asyncio.gather(*(reader.run() for reader in readers))
    try:
        while not reading.done():
            await asyncio.wait([reading], timeout=POLL_SECONDS)
            for printer in printers:
                printer.update(time.monotonic())
        await reading
        for printer in printers:
            printer.update(time.monotonic(), is_last=True)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
