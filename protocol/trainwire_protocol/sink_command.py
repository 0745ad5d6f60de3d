"""Sinks as processes beside a training: how they are named, and started."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from trainwire_protocol.errors import OptionError
from trainwire_protocol.process import start_detached

LAUNCHED_SINKS: Final = "TRAINWIRE_LAUNCHED_SINKS"
"""The environment variable in which `trainwire launch` names the sinks that it starts, with commas between, so that a
training does not start them as well."""


class SinkCommand(NamedTuple):
    """A sink and its options, as they stand behind `trainwire sink`."""

    name: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SinkCommand:
        """Read a name with options behind it, quoted as in a shell: `alerts --rules alerts.toml`.

        Raises:
            OptionError: there is no name, or a quote is not closed.
        """
        try:
            name, *options = shlex.split(text)
        except ValueError:
            raise OptionError(f"a sink is a name, perhaps with options as in a shell behind it, not {text!r}") from None
        return cls(name, tuple(options))

    def start(self, folder: Path, rank: int) -> subprocess.Popen[bytes]:
        """Start the sink on a rank of a run, in a session of its own.

        Raises:
            OSError: it cannot be started.
        """
        place = [str(folder), "--rank", str(rank)]
        return start_detached([sys.executable, "-m", "trainwire_sinks", "sink", self.name, *place, *self.options])
