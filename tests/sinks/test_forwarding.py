from __future__ import annotations

import signal
import subprocess

from trainwire_sinks.forwarding import forwarded_signals


def test_a_signal_that_comes_too_early_is_handed_on() -> None:
    """One that comes while the processes are being started reaches each of them, and ends nobody else."""

    def start() -> list[subprocess.Popen[bytes]]:
        first = subprocess.Popen(["sleep", "60"])
        signal.raise_signal(signal.SIGTERM)
        return [first, subprocess.Popen(["sleep", "60"])]

    before = signal.getsignal(signal.SIGTERM)
    with forwarded_signals([signal.SIGTERM], start) as processes:
        assert [process.wait(20) for process in processes] == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before
