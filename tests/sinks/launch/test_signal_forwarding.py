"""Signals that this process receives are forwarded to the processes that it has started."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from trainwire_sinks.launch import signal_forwarding
from trainwire_sinks.launch.signal_forwarding import forwarded_signals

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(autouse=True)
def dispositions() -> Iterator[None]:
    """Let no signal be ignored, whatever started the tests, and restore the handlers afterwards.

    Processes that a test starts get the default action for signals that have a handler here.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, fail) for number in numbers}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def fail(number: int, _: object) -> None:
    pytest.fail(f"{signal.Signals(number).name} was not handled by the code under test")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes; those that are still alive at the end of the test are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait(20)


def test_an_early_signal_is_forwarded(start: Start) -> None:
    """A signal received while the processes are being started is forwarded to each; then the handler is restored."""

    def start_two() -> Iterator[subprocess.Popen[bytes]]:
        yield start("sleep", "60")
        signal.raise_signal(signal.SIGTERM)
        yield start("sleep", "60")

    with forwarded_signals([signal.SIGTERM], start_two) as processes:
        assert [process.wait(20) for process in processes] == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is fail


def test_an_early_signal_from_the_terminal_is_forwarded_to_later_processes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two starts reaches the first process from the terminal, and the second from this process."""
    monkeypatch.setattr(signal_forwarding, "is_sent_by_terminal", lambda number: True)

    def start_two() -> Iterator[subprocess.Popen[bytes]]:
        yield start("sleep", "60")
        signal.raise_signal(signal.SIGINT)
        yield start("sleep", "60")

    with forwarded_signals([signal.SIGINT], start_two) as (first, second):
        assert second.wait(20) == -signal.SIGINT
        assert first.poll() is None


def test_an_ignored_signal_stays_ignored(start: Start) -> None:
    """As under `nohup`, a signal that this process ignores ends neither it nor the processes that it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with forwarded_signals([signal.SIGHUP], lambda: [start("sh", "-c", "kill -HUP $$; exit 7")]) as [process]:
        signal.raise_signal(signal.SIGHUP)
        assert process.wait(20) == 7
