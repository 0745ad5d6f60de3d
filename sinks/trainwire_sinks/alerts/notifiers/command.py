"""Messages to a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, Process
from dataclasses import dataclass
from typing import IO, Final

from trainwire_sinks.alerts.notifiers.base import Notifier, with_environment
from trainwire_sinks.alerts.settings import SettingError
from trainwire_sinks.runtime.delivery_queue import Message

PREFIX: Final = "TRAINWIRE_ALERT_"
"""What the names of the environment's variables begin with."""

TOLD: Final = (
    "id",
    "state",
    "rule",
    "kind",
    "severity",
    "message",
    "run",
    "rank",
    "attempt",
    "step",
    "walltime",
    "time",
)
"""Fields of the alert that have a variable each."""


@dataclass(kw_only=True)
class Command(Notifier):
    """Runs a program, without a shell, with the alert in its environment.

    `TRAINWIRE_ALERT_KEY` tells it from every other, `TRAINWIRE_ALERT_JSON` is all of it, and id, state, rule, kind,
    severity, message, run, rank, attempt, step, walltime and time have a variable each, as `TRAINWIRE_ALERT_MESSAGE`.
    An exit code other than 0 is a failure; past its timeout it is killed, with the processes that it has started.
    """

    kind = "command"

    command: tuple[str, ...]

    def __post_init__(self) -> None:
        self._command = [with_environment("command", word) for word in self.command]
        if not self._command or "\0" in "".join(self._command) or shutil.which(self._command[0]) is None:
            raise SettingError(("command",), "command does not begin with a program that can be run here")

    async def send(self, key: str, alert: Message) -> None:
        """Run it."""
        # No pipe: something that it leaves behind could hold it open.
        with tempfile.TemporaryFile() as words:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=DEVNULL, stdout=DEVNULL, stderr=words, start_new_session=True,
                env=os.environ | environment(key, alert),
            )  # fmt: skip
            try:
                await process.wait()
            finally:
                await _kill(process)
            if process.returncode:
                raise OSError(f"it ended with {process.returncode}: {_last_line(words)}")


async def _kill(process: Process) -> None:
    """End what is left of a program and of what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _last_line(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - 4096))
    lines = words.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def environment(key: str, alert: Message) -> dict[str, str]:
    """The variables that tell an alert."""
    fields = {"key": key, "json": json.dumps(alert, allow_nan=False), **{name: alert[name] for name in TOLD}}
    return {PREFIX + name.upper(): str(value).replace("\0", "") for name, value in fields.items()}
