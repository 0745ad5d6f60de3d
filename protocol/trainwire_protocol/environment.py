"""The environment variables of launchers (torchrun, Slurm, `trainwire launch`), and the command that starts a sink."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from trainwire_protocol.errors import OptionError
from trainwire_protocol.process import start_detached

Launcher: TypeAlias = Literal["torchrun", "Slurm"]

RENDEZVOUS: Final = "TRAINWIRE_RENDEZVOUS"
"""Variable in which `trainwire launch` passes a folder. Each bus writes a pointer to its run into it when it opens."""

LAUNCHED_SINKS: Final = "TRAINWIRE_LAUNCHED_SINKS"
"""Variable in which `trainwire launch` lists, separated by commas, the sinks that it starts; a training does not start
these again."""

_VARIABLES: Final[dict[Launcher, tuple[str, str, str]]] = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # SLURM_NTASKS is also set in a batch script, which is a single process; the number of a step's tasks is not.
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
"""For each launcher, the variables of rank, world size and local rank. The first that sets a world size is used."""


@dataclass(frozen=True)
class LaunchEnvironment:
    """The position of this process among those that a launcher started together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank among the processes of this host."""
    job: str | None = None
    """The launcher's identifier of the job."""
    launcher: Launcher | None = None
    """None if no launcher started the process; it is then the only one."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> LaunchEnvironment:
        """Read the variables of torchrun or, if it did not start this process, those of Slurm.

        Raises:
            OptionError: a variable is missing or is not a number, or the rank is not below the world size.
        """
        job = environment.get("SLURM_JOB_ID") or environment.get("TORCHELASTIC_RUN_ID") or None
        for launcher, (rank_name, size_name, local_name) in _VARIABLES.items():
            if size_name in environment:
                rank, world_size = _read_number(environment, rank_name), _read_number(environment, size_name)
                if rank >= world_size:
                    raise OptionError(f"invalid environment: {rank_name} is {rank}, but {size_name} is {world_size}")
                local_rank = _read_number(environment, local_name) if local_name in environment else rank
                return cls(rank, world_size, local_rank, job, launcher)
        return cls(job=job)


def _read_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise OptionError(f"invalid environment: {name} is missing")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise OptionError(f"invalid environment: {name} must be a number, not {text!r:.60}")
    return int(text)


class SinkCommand(NamedTuple):
    """A sink's name and options, as written after `trainwire sink`."""

    name: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SinkCommand:
        """Parse a name followed by options, quoted as in a shell: `alerts --rules alerts.toml`.

        Raises:
            OptionError: the name is missing, or a quote is not closed.
        """
        try:
            name, *options = shlex.split(text)
        except ValueError:
            raise OptionError(f"invalid sink {text!r}: write a name and options, quoted as in a shell") from None
        return cls(name, tuple(options))

    def start(self, folder: Path, rank: int) -> subprocess.Popen[bytes]:
        """Start the sink for one rank of a run, in its own session.

        Raises:
            OSError: the process cannot be started.
        """
        target = [str(folder), "--rank", str(rank)]
        return start_detached([sys.executable, "-m", "trainwire_sinks", "sink", self.name, *target, *self.options])
