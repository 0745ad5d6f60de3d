"""A run's folder that is moved, copied or deleted while a trainer records there."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_reader import read_events, wait_until
from support.trainer_process import Trainer

import trainwire
from trainwire.bus import writer
from trainwire_protocol.errors import ConnectionFileError, RunInUseError
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import read_connection_of


@pytest.fixture(autouse=True)
def _checked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RENEWAL_SECONDS", 0.02)


def values(folder: Path) -> list[float]:
    return [event.value for event in read_events(folder) if event.name == "a"]


def test_a_moved_folder_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is recorded at its new path, where a second trainer is refused; at the old one another run may begin."""
    first, moved = tmp_path / "run", tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    bus = trainwire.open_bus(first)
    bus.log({"a": 1.0}, step=1)
    first.rename(moved)
    wait_until(lambda: "was moved to" in caplog.text)
    with pytest.raises(RunInUseError, match="this one, is recording attempt 0"):
        trainwire.open_bus(moved)
    with trainwire.open_bus(first) as other:
        other.log({"a": 5.0}, step=1)
    bus.log({"a": 2.0}, step=2)
    bus.close()
    assert (values(moved), values(first)) == ([1.0, 2.0], [5.0])
    assert all(report.is_whole for folder in (moved, first) for report in verify_run(folder))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("deleted", [".", "journal", "journal/rank-0/attempt-0"])
def test_a_deleted_folder_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, deleted: str) -> None:
    """What was recorded is lost, which is reported and recorded; what follows is in the folder."""
    folder = tmp_path / "run"
    with trainwire.open_bus(folder) as bus:
        bus.log({"a": 1.0}, step=1)
        wait_until(lambda: values(folder) == [1.0])
        shutil.rmtree(folder / deleted)
        wait_until(lambda: "was deleted" in caplog.text)
        bus.log({"a": 2.0}, step=2)
        assert read_connection_of(folder, 0).session == bus.session
    assert values(folder) == [2.0]
    missing = next(event.value for event in read_events(folder) if event.name == "journal/missing")
    assert missing == {"first_seq": 0, "last_seq": 1}
    assert read_events(folder)[-1].name == "run/finished"
    (report,) = verify_run(folder)
    assert not report.is_whole
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_deleted_segment_is_continued_in_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files of the journal that are deleted one by one are noticed too."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
        wait_until(lambda: values(tmp_path) == [1.0])
        for segment in tmp_path.rglob("*.journal"):
            segment.unlink()
        wait_until(lambda: "was deleted" in caplog.text)
        bus.log({"a": 2.0}, step=2)
    assert values(tmp_path) == [2.0]


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO])
def test_a_disk_that_does_not_tell_about_a_segment_ends_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """On NFS, a segment that another host has deleted has a stale descriptor; any disk may fail for a moment."""
    failures, fstat = list[int](), os.fstat
    bus = trainwire.open_bus(tmp_path / "run")
    bus.log({"a": 1.0}, step=1)
    wait_until(lambda: values(tmp_path / "run") == [1.0])
    journal = bus._thread.writer._journal
    failing = journal._descriptor

    def fail(descriptor: int) -> os.stat_result:
        if descriptor == failing and not failures:
            failures.append(error)
            raise OSError(error, os.strerror(error))
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", fail)
    wait_until(lambda: bool(failures))
    bus.log({"a": 2.0}, step=2)
    bus.close()
    assert values(tmp_path / "run") == [1.0, 2.0]
    (attempt,) = list_attempts(tmp_path / "run", 0)
    lease = attempt.read_lease()
    assert lease is not None
    assert lease.released


def test_a_folder_deleted_just_before_close_holds_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is checked before the last events are written, however long ago it was checked."""
    monkeypatch.setattr(writer, "RENEWAL_SECONDS", 3600.0)
    folder = tmp_path / "run"
    with trainwire.open_bus(folder) as bus:
        bus.log({"a": 1.0}, step=1)
        wait_until(lambda: values(folder) == [1.0])
        shutil.rmtree(folder)
    assert read_events(folder)[-1].name == "run/finished"


def test_a_deleted_folder_in_which_another_run_began_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer whose folder was deleted writes nothing into the other run, and says so."""
    folder = tmp_path / "run"
    bus = trainwire.open_bus(folder)
    monkeypatch.setattr(writer, "RENEWAL_SECONDS", 3600.0)
    wait_until(lambda: len(read_events(folder)) == 1)
    shutil.rmtree(folder)
    with trainwire.open_bus(folder) as other:
        other.log({"a": 1.0}, step=1)
        bus.log({"a": 9.0}, step=9)
        bus.close()
        assert "another run is recorded there" in caplog.text
    assert values(folder) == [1.0]
    (report,) = verify_run(folder)
    assert (report.is_whole, report.ending) == (True, "run/finished")


def test_a_copy_is_not_the_original(tmp_path: Path) -> None:
    """A copy of a live folder has no trainer: its record is over, commands are refused, and another may continue it."""
    original, copy = tmp_path / "run", tmp_path / "copy"
    trainer = Trainer(original)
    try:
        shutil.copytree(original, copy, symlinks=True)
        assert read_connection_of(original, 0) == trainer.connection
        with pytest.raises(ConnectionFileError, match=f"copy is a copy; its training records in {original}"):
            read_connection_of(copy, 0)
        (lease,) = (attempt.read_lease() for attempt in list_attempts(copy, 0))
        assert lease is not None
        assert (lease.is_over(), lease.holds()) == (True, False)
        sent = [sys.executable, "-m", "trainwire_sinks", "send", str(copy), "stop"]
        refused = subprocess.run(sent, capture_output=True, text=True, timeout=120, check=False)
        assert (refused.returncode, "is a copy" in refused.stderr) == (2, True), refused.stderr
        with trainwire.open_bus(copy) as bus:
            assert bus.attempt == 1
        trainer.end()
    finally:
        trainer.kill()
    assert "command/received" not in {event.name for event in read_events(original)}


def test_a_child_is_not_advised_to_take_over_its_parents_run(tmp_path: Path) -> None:
    """A process that the trainer has started, as spawn does, is told what to do instead."""
    script = "import sys, trainwire\ntrainwire.open_bus(sys.argv[1])"
    with trainwire.open_bus(tmp_path / "run"):
        through = f"import subprocess, sys\nsubprocess.run({[sys.executable, '-c', script]} + sys.argv[1:])"
        child = [sys.executable, "-c", through, str(tmp_path / "run")]
        ended = subprocess.run(child, capture_output=True, text=True, timeout=120, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert ", which has started this one, is recording" in last
    assert "__main__" in last
    assert "take_over" not in last
