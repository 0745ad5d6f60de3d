"""What a launcher tells the processes that it starts: torchrun's environment, or that of a job step of Slurm."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from trainwire_protocol.errors import OptionError
from trainwire_protocol.process import start_detached

_NAMES: Final = {
    "torchrun": {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"},
    # SLURM_NTASKS is set in a batch script too, which is one process; a step's number of tasks is not.
    "Slurm": {"rank": "SLURM_PROCID", "world_size": "SLURM_STEP_NUM_TASKS", "local_rank": "SLURM_LOCALID"},
}
"""For each launcher the variables that hold our fields; the first that has named a number of processes counts."""


@dataclass(frozen=True)
class Launched:
    """Which of how many processes this is; the only one if no launcher has started it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Its number among those of its host."""
    job: str | None = None
    """The launcher's name for all of them together."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launched:
        """What torchrun says, or else Slurm.

        Raises:
            OptionError: a variable holds no number.
        """
        job = environment.get("SLURM_JOB_ID") or environment.get("TORCHELASTIC_RUN_ID") or None
        for names in _NAMES.values():
            if names["world_size"] in environment:
                numbers = {field: _number(environment, name) for field, name in names.items()}
                return cls(**numbers, job=job)
        return cls(job=job)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not (text.isascii() and text.isdecimal()):
        raise OptionError(f"the environment's {name} is {text!r:.60}: it has to be a number")
    return int(text)


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
