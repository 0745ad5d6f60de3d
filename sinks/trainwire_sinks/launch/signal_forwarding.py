"""Hands the signals that this process gets on to those that it has started."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType

from trainwire_sinks.text.terminal import is_sent_by_terminal

Processes = list[subprocess.Popen[bytes]]


@contextlib.contextmanager
def forwarded_signals(
    numbers: Sequence[signal.Signals], start: Callable[[], Iterable[subprocess.Popen[bytes]]]
) -> Iterator[Processes]:
    """Start processes one by one, and hand on to each the signals that this one gets, once.

    A process that the terminal has sent a signal as well is left out: a second one would end a sink at once, with
    nothing committed. What comes before all are started is handed on then. What this process ignores (`nohup`) stays
    ignored, by those that it starts too.
    """
    processes: Processes = []
    early: list[tuple[int, int]] = []
    is_complete = False

    def forward(number: int, _: FrameType | None) -> None:
        had_it = len(processes) if is_sent_by_terminal(number) else 0
        if is_complete:
            _send(number, processes[had_it:])
        else:
            early.append((number, had_it))

    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in taken}
    try:
        for process in start():
            processes.append(process)
        is_complete = True
        for number, had_it in early:
            _send(number, processes[had_it:])
        yield processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(number: int, processes: Processes) -> None:
    for process in processes:
        process.send_signal(number)
