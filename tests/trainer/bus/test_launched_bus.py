"""A bus that is opened in a process that torchrun or Slurm has started."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.run_reader import read_events

import trainwire
from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.connection import connection_path, read_connection


def test_the_rank_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process takes its rank and world size from the environment, and records the job."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for rank in range(2):
        for name, value in (("PROCID", rank), ("STEP_NUM_TASKS", 2), ("LOCALID", rank), ("JOB_ID", 77)):
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        with trainwire.open_bus(tmp_path / "run") as bus:
            assert bus.rank == rank
            assert read_connection(connection_path(tmp_path / "run", rank)).world_size == 2
        begun = read_events(tmp_path / "run", rank)[0].value
        assert (begun["rank"], begun["world_size"], begun["job"]) == (rank, 2, "77")


def test_what_is_given_counts_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments take precedence over the environment; a rank outside the world size is refused."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with trainwire.open_bus(tmp_path / "run", rank=0, world_size=1) as bus:
        assert bus.rank == 0
    with pytest.raises(OptionError, match="rank is 1; it must be a number below world_size, which is 1"):
        trainwire.open_bus(tmp_path / "other", world_size=1)
