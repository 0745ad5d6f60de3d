"""What a launcher tells the processes that it starts: torchrun's environment, or that of a job step of Slurm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trainwire_protocol.errors import OptionError

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
