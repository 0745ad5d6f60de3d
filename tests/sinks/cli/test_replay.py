"""`trainwire replay`: writing a sink's output again."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.publisher import Publisher
from support.publisher import run as run_coroutine
from support.run_reader import read_events
from support.terminal import run_on_terminal

from trainwire_sinks import Event
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, run_sink, sample_run

WriteRun = Callable[..., Path]


def test_a_replay_writes_the_same_bytes(tmp_path: Path, write_run: WriteRun) -> None:
    """A replay writes the bytes of the live sink to a folder of its own, and does not change the live output."""
    folder = write_run(sample_run())
    run_sink(JsonLines, folder, sample_run())
    before = (folder / "events.jsonl").read_bytes()
    assert run(["replay", str(folder), "--to", "jsonl"]) == 0
    assert run(["replay", str(folder), "--to=jsonl", "--output", str(tmp_path / "again")]) == 0
    assert (folder / "replay" / "events.jsonl").read_bytes() == before
    assert (tmp_path / "again" / "events.jsonl").read_bytes() == before
    assert (folder / "events.jsonl").read_bytes() == before


def test_superseded_events_can_be_left_out(tmp_path: Path, write_run: WriteRun) -> None:
    """With --skip-superseded, a sink that keeps everything, such as the log, gets no superseded events."""
    folder = write_run(sample_run())
    arguments = ["replay", str(folder), "--to", "log-file", "--output"]
    assert (
        run([*arguments, str(tmp_path / "all")]) == run([*arguments, str(tmp_path / "kept"), "--skip-superseded"]) == 0
    )
    everything, kept = ((tmp_path / name / "training.log").read_text() for name in ("all", "kept"))
    assert "train/loss 9" in everything
    assert "train/loss 9" not in kept
    assert "run finished" in kept


def test_a_replay_sends_no_notifications(write_run: WriteRun, capfd: pytest.CaptureFixture[str]) -> None:
    """Alerts are written to the file again, and no notifier receives them."""
    now = time.time()
    folder = write_run(record([[Event("train/loss", math.nan, "scalar", now, 1)]]))
    assert run(["replay", str(folder), "--to", "alerts"]) == 0
    assert (folder / "replay" / "alerts.jsonl").read_text().startswith('{"id": ')
    assert capfd.readouterr().err == ""
    assert run(["sink", "alerts", str(folder)]) == 0
    assert "train/loss is nan" in capfd.readouterr().err


def test_a_replay_does_not_continue_an_output(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that this sink has written to is refused: it may contain what the replay leaves out."""
    folder = write_run(sample_run())
    arguments = ["replay", str(folder), "--to", "jsonl", "--output", str(tmp_path / "out")]
    assert run(arguments) == 0
    assert run([*arguments, "--skip-superseded"]) == ExitCode.OUTPUT
    assert "has already written to" in capsys.readouterr().err


def test_the_options_of_the_sink_are_accepted(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sink's own options are accepted along with the replay's, and are part of its help."""
    folder = write_run(sample_run())
    assert run(["replay", "--to", "log-file", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "--skip-superseded" in help_text
    assert run(["replay", str(folder), "--to", "jsonl", "--no-such-option", "1"]) == ExitCode.USAGE


def test_a_sink_is_required(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --to, or with an unknown name, there is an error."""
    folder = write_run(sample_run())
    assert run(["replay", str(folder)]) == ExitCode.USAGE
    assert "--to" in capsys.readouterr().err
    assert run(["replay", str(folder), "--to", "jsnol"]) == ExitCode.USAGE
    assert "did you mean jsonl?" in capsys.readouterr().err


def test_each_rank_is_replayed(write_run: WriteRun) -> None:
    """`--rank all` replays every rank, each to its own output."""
    folder = write_run(sample_run())
    (folder / "journal" / "rank-1").symlink_to(folder / "journal" / "rank-0")
    assert run(["replay", str(folder), "--to", "jsonl", "--rank", "all"]) == 0
    lines = (folder / "replay" / "rank-1" / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["name"] == read_events(folder)[-1].name == "run/finished"


def test_a_live_run_is_replayed_to_its_end(tmp_path: Path, trainwire) -> None:
    """Events that are recorded during the replay are written too."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(20)
            process = trainwire("replay", publisher.folder, "--to", "jsonl", "--output", tmp_path / "out")
            while not (tmp_path / "out" / "events.jsonl").exists():
                await asyncio.sleep(0.01)
            publisher.scalars(20)
            publisher.end()
            assert await asyncio.to_thread(process.wait, 20) == 0
            assert len((tmp_path / "out" / "events.jsonl").read_text().splitlines()) == 41

    run_coroutine(main())


def test_only_a_replay_shows_a_progress_bar(tmp_path: Path, write_run: WriteRun) -> None:
    """On a terminal, a replay shows a progress bar; a sink, which may follow a run for days, does not."""
    folder = write_run(sample_run(), is_over=False)

    def on_terminal(*arguments: object) -> str:
        command = [sys.executable, "-m", "trainwire_sinks", *arguments, "--output", tmp_path / "out"]
        code, shown = run_on_terminal(command, "stdin", "stderr")
        assert code == 0
        return shown

    assert "replaying" in on_terminal("replay", folder, "--to", "jsonl")
    assert "replaying" not in on_terminal("sink", "loss-file", folder)
