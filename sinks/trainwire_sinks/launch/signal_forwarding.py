"""Forwards the signals that this process receives to the processes that it has started."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TypeAlias

from trainwire_sinks.text.terminal import is_sent_by_terminal

Processes: TypeAlias = list[subprocess.Popen[bytes]]


@contextlib.contextmanager
def forwarded_signals(
    numbers: Sequence[signal.Signals], start: Callable[[], Iterable[subprocess.Popen[bytes]]]
) -> Iterator[Processes]:
    """Start processes one by one, and forward these signals to each of them until the context ends.

    A signal that the terminal has also sent to a process is not forwarded to it: a second signal would end a sink
    before it has committed. A signal that is received before all processes are started is forwarded afterwards.
    Signals that this process ignores, as under `nohup`, stay ignored here and in the processes that it starts.
    """
    processes: Processes = []
    early: list[tuple[int, int]] = []
    is_complete = False

    def forward(number: int, _: FrameType | None) -> None:
        already_reached = len(processes) if is_sent_by_terminal(number) else 0
        if is_complete:
            _send(number, processes[already_reached:])
        else:
            early.append((number, already_reached))

    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in handled}
    try:
        for process in start():
            processes.append(process)
        is_complete = True
        for number, already_reached in early:
            _send(number, processes[already_reached:])
        yield processes
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _send(number: int, processes: Processes) -> None:
    for process in processes:
        process.send_signal(number)
