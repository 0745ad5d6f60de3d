"""The environment variables of launchers (torchrun, Slurm, `trainwire launch`), and the sinks that can be started."""

from __future__ import annotations

import difflib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
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
        if "RANK" in environment:
            raise OptionError("invalid environment: RANK is set, but WORLD_SIZE is missing: set both or neither")
        return cls(job=job)


def _read_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise OptionError(f"invalid environment: {name} is missing")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise OptionError(f"invalid environment: {name} must be a number, not {text!r:.60}")
    return int(text)


SINK_GROUP: Final = "trainwire.sinks"
"""The group of entry points with which other packages register sinks: each maps a name to a class."""

BUILTIN_SINKS: Final = "trainwire_sinks.builtin"
"""The package of the built-in sinks: a module for each, named after the sink, with "_" for "-"."""


def builtin_sink_names() -> list[str]:
    """Return the names of the built-in sinks, without importing them."""
    package = find_spec(BUILTIN_SINKS)
    assert package, f"{BUILTIN_SINKS} is part of this distribution"
    modules = pkgutil.iter_modules(package.submodule_search_locations)
    return [module.name.replace("_", "-") for module in modules]


def sink_names() -> list[str]:
    """Return the names of all sinks, sorted, without importing them."""
    return sorted({*builtin_sink_names(), *(point.name for point in metadata.entry_points(group=SINK_GROUP))})


def unknown_sink_message(name: str, names: Sequence[str]) -> str:
    """Return the error for a name that no sink has, with the one that was probably meant."""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no sink {name!r}: {hint}the sinks are {', '.join(names)}"


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

    def check_name(self) -> None:
        """Check that the sink is installed, unless it is given as `module:Class`.

        Raises:
            OptionError: there is no sink of this name; the message lists all names.
        """
        is_known = ":" in self.name or self.name in builtin_sink_names()
        if not is_known and self.name not in (names := sink_names()):  # which reads the metadata of all packages
            raise OptionError(unknown_sink_message(self.name, names))

    def start(self, folder: Path, rank: int) -> subprocess.Popen[bytes]:
        """Start the sink for one rank of a run, in its own session.

        Raises:
            OSError: the process cannot be started.
        """
        target = [str(folder), "--rank", str(rank)]
        return start_detached([sys.executable, "-m", "trainwire_sinks", "sink", self.name, *target, *self.options])
