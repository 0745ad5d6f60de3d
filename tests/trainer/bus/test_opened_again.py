"""A bus that is opened again by the same process, as when a cell of a notebook is executed twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.run_reader import read_batches

import trainwire
from trainwire_protocol.errors import RunInUseError

CELL = """
bus = trainwire.open_bus(folder)
bus.log({"train/loss": 0.5}, step=1)
"""


def test_a_cell_executed_twice_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The earlier bus is finished, a warning says so, and the new one records."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    names = {"trainwire": trainwire, "folder": tmp_path}
    exec(CELL, names)
    first = names["bus"]
    exec(CELL, names)
    second = names["bus"]
    assert isinstance(first, trainwire.EventBus)
    assert isinstance(second, trainwire.EventBus)
    assert (first.state, first.is_open, second.attempt) == ("finished", False, 1)
    second.close()
    assert "opened again" in caplog.text
    last = [batch.events[-1] for batch in read_batches(tmp_path) if batch.header.attempt == 0][-1]
    assert (last.name, last.value["reason"]) == ("run/finished", "opened again in the same session")


def test_the_folder_may_be_named_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the folder is the same folder, and `append=True` adds to what the earlier bus recorded."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    first = trainwire.open_bus(tmp_path / "run")
    first.log({"train/loss": 0.5}, step=7)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with trainwire.open_bus(tmp_path / "link", append=True) as second:
        assert not first.is_open
        assert second.describe()["step"] == 7


def test_other_ranks_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the bus of the same rank and folder is closed."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with (
        trainwire.open_bus(tmp_path, rank=0, world_size=2) as first,
        trainwire.open_bus(tmp_path, rank=1, world_size=2),
        trainwire.open_bus(tmp_path / "other"),
    ):
        assert first.is_open


def test_a_script_is_told_which_bus_to_close(tmp_path: Path) -> None:
    """A script that opens a folder twice is refused, as two of its parts would end each other's run."""
    with trainwire.open_bus(tmp_path) as bus:
        with pytest.raises(RunInUseError, match=r"which is this one, .* \(bus\.close\(\)\)"):
            trainwire.open_bus(tmp_path)
        assert bus.is_open
    trainwire.open_bus(tmp_path).close()
