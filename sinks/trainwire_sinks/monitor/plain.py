"""Watches runs without a terminal, by lines on standard output."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from trainwire_sinks.inspect.ranks import describe_ranks
from trainwire_sinks.monitor.alerts import AlertLine
from trainwire_sinks.monitor.descriptions import describe, describe_alert, describe_metrics, describe_sinks
from trainwire_sinks.monitor.reader import Reader
from trainwire_sinks.monitor.view import View

POLL_SECONDS: Final = 0.2

HISTORY_LINES: Final = 10
"""Number of log lines that are printed from a run's history."""

SHOWN_METRICS: Final = 8
"""Number of metrics whose latest values are printed with the state."""


class LinePrinter:
    """Prints what has changed in a view since the last call.

    Args:
        view: the view.
        interval: seconds between two lines with the state.
        prefix: the beginning of each line.
        write: prints a line.
    """

    def __init__(self, view: View, interval: float, prefix: str, write: Callable[[str], object]) -> None:
        self._view = view
        self._interval = interval
        self._prefix = prefix
        self._write = write
        self._log_count: int | None = None
        self._alerts: set[AlertLine] = set()
        self._last_state = ""
        self._next_state = 0.0

    def update(self, now: float, *, is_last: bool = False) -> None:
        """Print new lines of the log, new alerts, and the state if it has changed and `interval` has passed.

        Args:
            now: time of the monotonic clock.
            is_last: print the state regardless of the interval.
        """
        view = self._view
        if view.is_caught_up or is_last:
            if self._log_count is None:
                self._log_count = max(0, view.log.count - HISTORY_LINES)
            for line in view.log.since(self._log_count):
                self._print(str(line))
            self._log_count = view.log.count
            for alert in view.alerts:
                if alert not in self._alerts:
                    self._print(f"ALERT {describe_alert(alert)}")
            self._alerts = set(view.alerts)
        if now >= self._next_state or is_last:
            self._print_state(now)

    def _print_state(self, now: float) -> None:
        state = describe(self._view, now)
        if self._view.is_caught_up:
            state += f"; ranks: {describe_ranks(self._view.ranks)}" if len(self._view.ranks) > 1 else ""
            state += f"; {describe_metrics(self._view, SHOWN_METRICS)}; sinks: {describe_sinks(self._view)}"
        if state != self._last_state:
            self._print(f"-- {state}")
            self._last_state, self._next_state = state, now + self._interval

    def _print(self, line: str) -> None:
        self._write(f"{self._prefix}{line}")


async def print_runs(readers: Sequence[Reader], interval: float) -> None:
    """Print what happens in runs until all are over; with several, each line begins with the run's label."""
    printers = [
        LinePrinter(reader.view, interval, f"{reader.view.label} | " if len(readers) > 1 else "", _write)
        for reader in readers
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
