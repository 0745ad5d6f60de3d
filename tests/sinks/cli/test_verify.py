"""`trainwire verify`: what it reports of damaged records, and how far sinks are."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.recorder import Recorder

from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.wire import Batch
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import run_sink, sample_run

WriteRun = Callable[..., Path]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs `trainwire verify` and returns its exit code, its output as JSON, and as text."""

    def call(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
        code = run(["verify", str(folder), *arguments])
        text = capsys.readouterr().out
        assert run(["verify", str(folder), *arguments, "--json"]) == code
        report = json.loads(capsys.readouterr().out)
        assert report["is_whole"] == (code == ExitCode.OK)
        return code, report, text

    return call


def recorded(*, end: bool = True, attempt: int = 0) -> list[Batch]:
    recorder = Recorder(attempt=attempt)
    batches = [recorder.scalars(10, "media" if number == 3 else "event") for number in range(10)]
    return [*batches, recorder.happened("run/finished", last_seq=100)] if end else batches


def segments(folder: Path, attempt: int = 0) -> list[Path]:
    return sorted(list_attempts(folder, 0)[attempt].folder.glob("*.journal"))


def split(folder: Path, batches: list[Batch]) -> None:
    """Rewrite the journal with one segment for each batch."""
    from trainwire_protocol.journal.records import encode_record

    for path in segments(folder):
        path.unlink()
    for batch in batches:
        (list_attempts(folder, 0)[0].folder / f"{batch.header.seq:020d}.journal").write_bytes(encode_record(batch))


def test_a_whole_run(write_run: WriteRun, verify) -> None:
    """For a complete run, the exit code is 0, and the number of events and the ending are printed."""
    code, report, text = verify(write_run(recorded()))
    assert code == 0
    assert "attempt 0: 101 events, run finished" in text
    assert text.endswith("whole: no numbered event is missing\n")
    (attempt,) = report["attempts"]
    assert (attempt["events"], attempt["ending"], attempt["missing"]) == (101, "run/finished", [])


@pytest.mark.parametrize(("gone", "first", "last"), [(0, 0, 9), (4, 40, 49), (9, 90, 99)])
def test_a_missing_segment(write_run: WriteRun, verify, gone: int, first: int, last: int) -> None:
    """A deleted segment, even the first one, is reported by its seqs and by the exit code."""
    folder = write_run(recorded())
    split(folder, recorded())
    segments(folder)[gone].unlink()
    code, report, text = verify(folder)
    assert code == ExitCode.NOT_WHOLE == 6
    assert report["attempts"][0]["missing"] == [[first, last]]
    assert f"MISSING seq {first} to {last} (10 events)" in text
    assert "NOT WHOLE" in text


def test_a_missing_last_segment(write_run: WriteRun, verify) -> None:
    """An attempt that ended properly and lacks its last event is incomplete, although there is no gap."""
    folder = write_run(recorded())
    split(folder, recorded())
    segments(folder)[-1].unlink()
    code, report, text = verify(folder)
    assert (code, report["attempts"][0]["is_cut"]) == (ExitCode.NOT_WHOLE, True)
    assert "its last event is missing" in text


def test_a_damaged_byte(write_run: WriteRun, verify) -> None:
    """A changed byte is reported by file, offset and reason, along with the events that are lost."""
    folder = write_run(recorded())
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, report, text = verify(folder)
    assert code == ExitCode.NOT_WHOLE
    assert f"DAMAGED {path}: " in text
    assert len(report["attempts"][0]["damages"]) == len(report["attempts"][0]["missing"]) == 1


def test_a_torn_end_of_a_trainer_that_died(write_run: WriteRun, verify) -> None:
    """A record that was cut off when the process died is reported, and the run is complete."""
    folder = write_run(recorded(end=False), is_over=False)
    lease = list_attempts(folder, 0)[0].lease_path
    lease.write_text(lease.read_text().replace('"pid": ', '"pid": 99'))
    (path,) = segments(folder)
    path.write_bytes(path.read_bytes()[:-5])
    code, report, text = verify(folder)
    assert code == 0
    assert "attempt 0: 90 events, died" in text
    assert report["attempts"][0]["torn_bytes"] > 5
    assert "torn end: " in text


def test_events_that_were_not_journaled(write_run: WriteRun, verify) -> None:
    """A gap that journal/missing names is reported as lost, and the record is incomplete."""
    recorder = Recorder()
    batches = [recorder.scalars(10) for _ in range(3)]
    batches += [recorder.happened("journal/missing", first_seq=10, last_seq=19), recorder.happened("run/finished")]
    del batches[1]
    code, report, text = verify(write_run(batches))
    assert code == ExitCode.NOT_WHOLE
    assert (report["attempts"][0]["missing"], report["attempts"][0]["lost"]) == ([], [[10, 19]])
    assert "LOST seq 10 to 19 (10 events): they could not be written to the disk (journal/missing)" in text


def test_dropped_values(write_run: WriteRun, verify) -> None:
    """Values that a full queue dropped are counted over all events/dropped."""
    recorder = Recorder()
    batches = [recorder.happened("events/dropped", count=count, total=5) for count in (2, 3)]
    code, report, text = verify(write_run([*batches, recorder.happened("run/finished")]))
    assert (code, report["attempts"][0]["dropped"]) == (ExitCode.NOT_WHOLE, 5)
    assert "DROPPED 5 values" in text


def test_superseded_events(write_run: WriteRun, verify) -> None:
    """A resumed run is complete, and its superseded events are reported."""
    code, report, text = verify(write_run(sample_run(), is_over=False))
    first, last = report["attempts"][0]["superseded"]
    assert code == 0
    assert f"superseded: seq {first} to {last}" in text
    assert report["attempts"][1]["resumed_from"] == {"attempt": 0, "seq": first - 1}


def test_a_missing_origin(write_run: WriteRun, verify) -> None:
    """An attempt that ends before the mark that its successor resumed from is incomplete."""
    batches = sample_run()
    mark = next(batch for batch in batches if b"run/marked" in batch.body)
    kept = [batch for batch in batches if batch.header.attempt or batch.cursor < mark.cursor]
    folder = write_run(kept, is_over=False)
    code, report, _ = verify(folder)
    assert code == ExitCode.NOT_WHOLE
    assert [last for _, last in report["attempts"][0]["missing"]] == [mark.cursor.seq]


def test_the_progress_of_sinks(tmp_path: Path, write_run: WriteRun, verify) -> None:
    """The cursors of sinks in the run's folder and in the given outputs are compared with the record."""
    folder = write_run(recorded())
    run_sink(LossFile, folder, [batch for batch in recorded() if batch.header.channel == "event"])
    run_sink(JsonLines, tmp_path / "out", recorded()[:4])
    code, report, text = verify(folder, "--output", str(tmp_path / "out"))
    assert code == 0
    assert [(row["sink"], row["behind"]) for row in report["sinks"]] == [("loss-file", 0), ("jsonl", 61)]
    assert f"sink loss-file, rank 0, in {folder}: has everything, up to attempt 0, seq 100" in text
    assert "61 events behind, at attempt 0, seq 39" in text


def test_media_do_not_count_for_a_sink_that_reads_no_media(tmp_path: Path, write_run: WriteRun, verify) -> None:
    """A sink is behind only by events on the channels that it reads."""
    folder = write_run(recorded()[:4], is_over=False)
    for sink in (LossFile, JsonLines):
        run_sink(sink, folder, recorded()[:3])
    _, report, _ = verify(folder)
    assert {row["sink"]: row["behind"] for row in report["sinks"]} == {"loss-file": 0, "jsonl": 10}


def test_a_sink_ahead_of_the_record(write_run: WriteRun, verify) -> None:
    """A cursor after the journal's end proves that the disk has lost events: the record is incomplete."""
    folder = write_run(recorded(end=False)[:5], is_over=False)
    run_sink(JsonLines, folder, recorded(end=False))
    code, report, text = verify(folder)
    assert (code, report["sinks"][0]["ahead"]) == (ExitCode.NOT_WHOLE, 50)
    assert "AHEAD of the record by 50 events" in text


def test_an_unreadable_cursor(tmp_path: Path, write_run: WriteRun, verify) -> None:
    """An unreadable cursor is reported; cursors of other runs are ignored."""
    folder = write_run(recorded())
    (folder / ".trainwire").mkdir()
    (folder / ".trainwire" / "loss-file-rank0.cursor").write_text("{")
    run_sink(JsonLines, tmp_path / "other", sample_run())
    code, report, text = verify(folder, "--output", str(tmp_path / "other"))
    assert code == 0
    assert [(row["sink"], row["cursor"]) for row in report["sinks"]] == [("loss-file", None)]
    assert "its cursor cannot be read" in text


@pytest.mark.parametrize(
    ("target", "message"),
    [("tcp://127.0.0.1:1", "name the run's folder"), ("FOLDER", "there is no run in"), ("FOLDER/a/b", "no folder")],
)
def test_a_target_without_a_record(tmp_path: Path, capsys, target: str, message: str) -> None:
    """An address, an empty folder and a missing folder are errors of one line."""
    assert run(["verify", target.replace("FOLDER", str(tmp_path))]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_closed_pipe_ends_it(write_run: WriteRun, trainwire) -> None:
    """If standard output is closed, as by `head`, it ends without a message."""
    ours, theirs = os.pipe()
    os.close(ours)
    process = trainwire("verify", write_run(recorded()), stdout=theirs)
    os.close(theirs)
    assert process.wait(20) == ExitCode.BROKEN_PIPE
    assert process.stderr.read() == ""


def test_a_progress_bar_is_shown(write_run: WriteRun) -> None:
    """On a terminal, a progress bar is shown on standard error only."""
    folder = write_run(recorded())
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trainwire_sinks", "verify", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, check=True)
    os.close(theirs)
    assert b"verifying" in os.read(ours, 65536)
    os.close(ours)
    assert done.stdout.startswith(b"run ")
