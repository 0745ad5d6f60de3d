"""Runs a program for each alert."""

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

from trainwire_protocol.errors import SettingError
from trainwire_sinks.alerts.notifiers.base import Notifier, expand_environment
from trainwire_sinks.runtime.delivery_queue import Message

PREFIX: Final = "TRAINWIRE_ALERT_"
"""Prefix of the environment variables."""

ALERT_FIELDS: Final = (
    "id", "state", "rule", "kind", "severity", "message", "run", "rank", "attempt", "step", "walltime", "time",
)  # fmt: skip
"""Fields of the alert that have a variable each."""


@dataclass(kw_only=True)
class Command(Notifier):
    """Runs a program, without a shell, with the alert in its environment.

    `TRAINWIRE_ALERT_KEY` is the idempotency key and `TRAINWIRE_ALERT_JSON` the whole alert. The fields id, state, rule,
    kind, severity, message, run, rank, attempt, step, walltime and time have a variable each, such as
    `TRAINWIRE_ALERT_MESSAGE`. An exit code other than 0 is a failure. After the timeout the program is killed, together
    with the processes that it has started.
    """

    kind = "command"

    command: tuple[str, ...]

    def __post_init__(self) -> None:
        self._command = [expand_environment("command", argument) for argument in self.command]
        if not self._command or "\0" in "".join(self._command) or shutil.which(self._command[0]) is None:
            raise SettingError(("command",), "command does not begin with a program that can be run on this host")

    async def send(self, key: str, alert: Message) -> None:
        """Run the program."""
        # Not a pipe: a process that the program leaves behind could keep it open.
        with tempfile.TemporaryFile() as stderr:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr, start_new_session=True,
                env=os.environ | environment(key, alert),
            )  # fmt: skip
            try:
                await process.wait()
            finally:
                await _kill_group(process)
            if process.returncode:
                raise OSError(f"the command exited with code {process.returncode}: {_last_line(stderr)}")


def environment(key: str, alert: Message) -> dict[str, str]:
    """Return the environment variables of an alert."""
    fields = {"key": key, "json": json.dumps(alert, allow_nan=False), **{name: alert[name] for name in ALERT_FIELDS}}
    return {PREFIX + name.upper(): str(value).replace("\0", "") for name, value in fields.items()}


async def _kill_group(process: Process) -> None:
    """Kill a program and the processes that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _last_line(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - 4096))
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "nothing on standard error"
