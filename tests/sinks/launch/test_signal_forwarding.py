from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from trainwire_sinks.launch import signal_forwarding
from trainwire_sinks.launch.signal_forwarding import forwarded_signals


def test_a_signal_that_comes_too_early_is_handed_on() -> None:
    """One that comes while the processes are being started reaches each of them, and ends nobody else."""

    def start() -> Iterator[subprocess.Popen[bytes]]:
        yield subprocess.Popen(["sleep", "60"])
        signal.raise_signal(signal.SIGTERM)
        yield subprocess.Popen(["sleep", "60"])

    before = signal.getsignal(signal.SIGTERM)
    with forwarded_signals([signal.SIGTERM], start) as processes:
        assert [process.wait(20) for process in processes] == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_the_terminal_sends_early_is_handed_on_to_those_that_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C between two starts reaches the first process from the terminal, and the second from this one."""
    monkeypatch.setattr(signal_forwarding, "is_sent_by_terminal", lambda number: True)

    def start() -> Iterator[subprocess.Popen[bytes]]:
        yield subprocess.Popen(["sleep", "60"])
        signal.raise_signal(signal.SIGINT)
        yield subprocess.Popen(["sleep", "60"])

    with forwarded_signals([signal.SIGINT], start) as (first, second):
        assert second.wait(20) == -signal.SIGINT
        assert first.poll() is None
        first.kill()
        first.wait(20)


def test_what_is_ignored_here_is_ignored_there() -> None:
    """As `nohup` wants it: neither this process nor one that it starts ends of a hangup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        script = "kill -HUP $$; exit 7"
        with forwarded_signals([signal.SIGHUP], lambda: [subprocess.Popen(["sh", "-c", script])]) as [process]:
            signal.raise_signal(signal.SIGHUP)
            assert process.wait(20) == 7
    finally:
        signal.signal(signal.SIGHUP, before)
