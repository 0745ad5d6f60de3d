"""Real processes that start quickly, forked from a server that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path


def make_context() -> ForkServerContext:
    """Return the context whose server processes are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["trainwire_sinks.cli.sink", "trainwire_sinks.tensorboard.records", "chaos.training", "chaos.processes"]
    )
    return context


class Worker:
    """A trainer or sink that can be restarted after it has died."""

    def __init__(
        self, context: ForkServerContext, name: str, log: Path, target: Callable[..., None], *arguments: object
    ) -> None:
        self.name = name
        self._context, self._log, self._target, self._arguments = context, log, target, arguments
        self._process: BaseProcess | None = None

    def start(self, *more: object) -> None:
        """Start the process if it is not running."""
        if not self.is_running():
            arguments = (self._log, self._target, *self._arguments, *more)
            self._process = self._context.Process(target=_run_logged, args=arguments)
            self._process.start()

    def is_running(self) -> bool:
        """Whether the process exists, even if it is stopped."""
        return self._process is not None and self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal if it is running."""
        if self._process is not None and self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid or 0, number)

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None if it does not end in time."""
        if self._process is None:
            return None
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process."""
        self.send(signal.SIGKILL)
        self.wait(5)


def run_command(arguments: Sequence[str]) -> None:
    """Run the `trainwire` command."""
    from trainwire_sinks.cli import app

    sys.exit(app.run(arguments))


def _run_logged(log: Path, target: Callable[..., None], *arguments: object) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(*arguments)
