"""Hands the signals that this process gets on to those that it has started."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from trainwire_sinks.terminal import is_sent_to_all

Processes = list[subprocess.Popen[bytes]]


@contextlib.contextmanager
def forwarded_signals(numbers: Sequence[signal.Signals], start: Callable[[], Processes]) -> Iterator[Processes]:
    """Start processes, and hand on to each the signals that this one gets, once.

    Those that the terminal has sent to them as well are left out: a second one would end a sink at once, with nothing
    committed. What comes before all are started is handed on then.
    """
    processes: Processes = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if is_sent_to_all(number):
            return
        if processes:
            _send(number, processes)
        else:
            early.append(number)

    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        processes.extend(start())
        for number in early:
            _send(number, processes)
        yield processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(number: int, processes: Processes) -> None:
    for process in processes:
        process.send_signal(number)
