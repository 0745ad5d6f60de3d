"""`trainwire runs`: the state of each run, however it ended and however long it is."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.recorder import Recorder
from support.terminal import run_on_terminal

from trainwire_protocol.events import Event
from trainwire_protocol.journal import segments
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import run_sink, sample_run

WriteRun = Callable[..., Path]
List = Callable[[Path], dict[str, dict[str, Any]]]


@pytest.fixture
def list_runs(capsys: pytest.CaptureFixture[str]) -> List:
    """Runs `trainwire runs ROOT --json` and returns the runs by the names of their folders."""

    def call(root: Path) -> dict[str, dict[str, Any]]:
        assert run(["runs", str(root), "--json"]) == 0
        return {Path(found["folder"]).name: found for found in json.loads(capsys.readouterr().out)}

    return call


def kill(folder: Path) -> None:
    """Change the run's lease to that of a process that does not exist."""
    lease = list_attempts(folder, 0)[-1].lease_path
    lease.write_text(lease.read_text().replace('"pid": ', '"pid": 99'))


def test_every_run_under_a_folder_has_its_state(tmp_path: Path, write_run: WriteRun, list_runs: List) -> None:
    """Runs are found at any depth; their state is that of their last event, or depends on whether they are recorded."""
    for state in ("finished", "failed", "interrupted"):
        recorder = Recorder()
        write_run([recorder.scalars(3), recorder.happened(f"run/{state}")], tmp_path / "deep" / "er" / state)
    write_run([Recorder().scalars(3)], tmp_path / "running", is_over=False)
    write_run([Recorder().scalars(3)], tmp_path / "died", is_over=False)
    kill(tmp_path / "died")
    (tmp_path / "no run").mkdir()
    states = {name: found["state"] for name, found in list_runs(tmp_path).items()}
    assert states == {state: state for state in ("finished", "failed", "interrupted", "running", "died")}


def test_a_resumed_run(write_run: WriteRun, list_runs: List) -> None:
    """Epoch, step, best score and times are those that are not superseded; sinks are listed with their progress."""
    folder = write_run(sample_run(), is_over=False)
    run_sink(LossFile, folder, sample_run())
    run_sink(JsonLines, folder, sample_run()[:-1])
    found = list_runs(folder.parent)["run"]
    assert (found["state"], found["epoch"], found["max_epochs"], found["step"]) == ("finished", 3, 3, 12)
    assert found["best"] == {"epoch": 3, "metric": "dev/loss", "score": 0.125}
    assert (found["attempts"], len(found["ranks"]), found["run"]) == (2, 1, "recorded")
    assert found["started"] == sample_run()[0].events[0].walltime
    assert found["last_event"] == sample_run()[-1].events[-1].walltime
    assert [(sink["sink"], sink["behind"] > 0) for sink in found["sinks"]] == [("jsonl", True), ("loss-file", False)]


def test_superseded_events_do_not_count(write_run: WriteRun, list_runs: List) -> None:
    """A resumed run whose new attempt has recorded nothing else is shown at the position it was resumed from."""
    batches = sample_run()
    resumption = next(batch for batch in batches if batch.header.attempt == 1)
    found = list_runs(write_run([*(batch for batch in batches if not batch.header.attempt), resumption]))["run"]
    assert (found["epoch"], found["best"]["score"]) == (2, 0.5)


def test_the_best_epoch_is_that_of_the_last_finished_epoch(write_run: WriteRun, list_runs: List) -> None:
    """`best` of the last `epoch/finished` is shown, and invalid fields are ignored."""
    recorder = Recorder()
    best = {"epoch": 1, "metric": "dev/f1", "score": 0.5}
    batches = [recorder.happened("epoch/finished", epoch=2, best=best), recorder.happened("epoch/started", epoch=3)]
    found = list_runs(write_run(batches, is_over=False))["run"]
    assert (found["best"], found["epoch"], found["max_epochs"]) == (best, 3, None)
    odd = Recorder()
    odd_values = [odd.happened("epoch/finished", epoch="x", best=3), odd.happened("checkpoint/saved", kind="best")]
    found = list_runs(write_run(odd_values, found_folder := Path(found["folder"]).with_name("odd")))[found_folder.name]
    assert (found["best"], found["epoch"]) == (None, None)


def test_the_best_evaluation_may_be_within_an_epoch(write_run: WriteRun, list_runs: List) -> None:
    """The later of `epoch/evaluated` and `epoch/finished` says which is the best."""
    recorder = Recorder()
    best = [{"epoch": epoch, "metric": "dev/f1", "score": 0.5 + epoch, "step": 7} for epoch in (1, 2)]
    batches = [
        recorder.happened("epoch/finished", epoch=1, best=best[0]), recorder.happened("epoch/started", epoch=2),
        recorder.happened("epoch/evaluated", epoch=2, best=best[1]),
    ]  # fmt: skip
    assert list_runs(write_run(batches, is_over=False))["run"]["best"]["score"] == 2.5


def test_a_long_journal_is_not_read_whole(write_run: WriteRun, list_runs: List, monkeypatch) -> None:
    """Segments between the first record and the last segments are not read."""
    recorder = Recorder()
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    folder = write_run([recorder.scalars(10)], is_over=False)
    attempt = list_attempts(folder, 0)[0]
    writer = JournalWriter(attempt.folder, segment_bytes=1000)
    for _ in range(100):
        writer.append([recorder.scalars(10)])
    writer.append([recorder.happened("epoch/finished", epoch=9), recorder.scalars(10)])
    writer.close()
    paths = segments.list_segments(attempt.folder)
    monkeypatch.setattr("trainwire_sinks.inspect.overview.LOOK_BACK_BYTES", 1)
    for path in paths[1:-1]:
        path.write_bytes(b"nobody reads this")
    found = list_runs(folder)["run"]
    assert (found["epoch"], found["step"], found["started"]) == (9, recorder.seq - 1, 1.75e9)


def test_the_ranks_of_a_run_are_one_line(write_run: WriteRun, list_runs: List) -> None:
    """A run with several ranks is listed once, with all of its ranks."""
    folder = write_run([Recorder().scalars(4)])
    write_run([Recorder(rank=3).scalars(4)])
    assert [rank["rank"] for rank in list_runs(folder)["run"]["ranks"]] == [0, 3]


def test_the_table(tmp_path: Path, write_run: WriteRun, capsys) -> None:
    """Each run has a line, the last started last; names are escaped and numbers are aligned."""
    recorder = Recorder()
    best = {"epoch": 2, "metric": "dev/[red]x\n\x1b[31m", "score": float("nan")}
    write_run([recorder.happened("epoch/finished", epoch=3, best=best)], tmp_path / "old\n\x1b[31m[bold]")
    write_run([Recorder().record([Event("a", 1.0, "scalar", time.time() - 3700, 12345)])], tmp_path / "new")
    assert run(["runs", str(tmp_path)]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[0] == "RUN"
    assert r"old\n\x1b[31m[bold]" in first
    assert r"dev/[red]x\n\x1b[31m nan (epoch 2)" in first
    assert second.split()[:3] == ["new", "finished", "12,345"]
    assert "1 h 01 min ago" in second


def test_an_unreadable_run_is_listed_with_the_others(write_run: WriteRun, list_runs: List) -> None:
    """A journal that is invalid, damaged or of a newer version does not hide other runs."""
    folder = write_run([Recorder().scalars(4)])
    root = folder.parent
    write_run([Recorder().scalars(4)], root / "newer")
    write_run([Recorder().scalars(4)], root / "damaged")
    write_run([Recorder().scalars(4)], root / "odd")
    (segment,) = list_attempts(root / "damaged", 0)[0].folder.glob("*.journal")
    segment.write_bytes(b"TWJ1" * 1000)
    (segment,) = list_attempts(root / "newer", 0)[0].folder.glob("*.journal")
    segment.write_bytes(newer_record())
    (segment,) = list_attempts(root / "odd", 0)[0].folder.glob("*.journal")
    segment.unlink()
    segment.mkdir()
    states = {name: found["state"] for name, found in list_runs(root).items()}
    assert states == {"run": "finished", "newer": "unreadable", "odd": "unreadable", "damaged": "died"}


def test_an_unreadable_cursor_is_listed(write_run: WriteRun, list_runs: List) -> None:
    """A cursor that cannot be read hides neither the run nor its other sinks."""
    folder = write_run(sample_run())
    run_sink(JsonLines, folder, sample_run())
    (folder / ".trainwire" / "alerts-rank0.cursor").mkdir()
    found = list_runs(folder)["run"]
    assert found["state"] == "finished"
    assert {sink["sink"]: sink["cursor"] is None for sink in found["sinks"]} == {"alerts": True, "jsonl": False}
    assert run(["verify", str(folder)]) == 0


def newer_record() -> bytes:
    import msgpack

    from trainwire_protocol.journal.records import encode_record
    from trainwire_protocol.wire import Batch

    batch = Recorder().scalars(4)
    header = {**msgpack.unpackb(batch.header_bytes), "version": 2}
    return encode_record(Batch(batch.header, msgpack.packb(header), batch.body))


@pytest.mark.parametrize(("root", "message"), [("", "no run under"), ("nowhere", "no folder"), ("file", "no folder")])
def test_a_folder_without_runs_is_an_error(tmp_path: Path, capsys, root: str, message: str) -> None:
    """A folder without runs, or none at all, is an error with its exit code."""
    (tmp_path / "file").write_text("")
    assert run(["runs", str(tmp_path / root)]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_the_folder_called_runs_is_the_default(tmp_path: Path, write_run: WriteRun, capsys, monkeypatch) -> None:
    """The default folder is `runs`, or the working directory if there is none."""
    write_run([Recorder().scalars(4)], tmp_path / "runs" / "mine")
    for place, name in ((tmp_path, "mine"), (tmp_path / "runs" / "mine", "mine")):
        monkeypatch.chdir(place)
        assert run(["runs"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith(f"{name} ")


@pytest.mark.parametrize(("width", "left_out"), [(68, "AGE, SINKS"), (80, "AGE"), (200, "")])
def test_rows_are_not_broken_on_a_narrow_terminal(write_run: WriteRun, width: int, left_out: str) -> None:
    """Each run is one line; columns that do not fit are left out, and named below."""
    folder = write_run(sample_run(), is_over=False)
    run_sink(LossFile, folder, sample_run())
    command = [sys.executable, "-m", "trainwire_sinks", "runs", folder.parent]
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}
    code, shown = run_on_terminal(command, "stdout", env=environment)
    assert code == 0
    header, row, *rest = re.sub("\x1b\\[[0-9]*m", "", shown).split("\r\n")
    assert len(header.rstrip()) <= len(row) <= width
    assert "dev/loss 0.125 (epoch 3)" in row
    assert " ago" in row
    assert ("SINKS" in header) == ("loss-file" in row) == ("SINKS" not in left_out)
    note = f"(the terminal is too narrow for {left_out}; --json shows everything)"
    assert [line for line in rest if line] == ([note] if left_out else [])
