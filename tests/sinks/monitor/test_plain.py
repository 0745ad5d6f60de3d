"""`trainwire watch` without a terminal prints lines, and exits when the run is over."""

from __future__ import annotations

import logging
import math
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.publisher import Publisher, run
from support.recorder import Recorder

from trainwire_protocol.events import Event
from trainwire_protocol.subscription.target import Target
from trainwire_sinks.cli.app import run as run_command
from trainwire_sinks.monitor.plain import HISTORY_LINES, LinePrinter, print_runs
from trainwire_sinks.monitor.reader import Reader, logging_into_views
from trainwire_sinks.monitor.view import View
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import sample_run
from trainwire_sinks.text.format import one_line

WriteRun = Callable[..., Path]


def log(message: str) -> Event:
    return Event("log", {"level": "INFO", "logger": "a", "message": message}, "log", 1.75e9, 3)


def test_a_run_that_is_over_is_printed(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The end of its log, alerts, state, latest values and sinks are printed, with control characters escaped."""
    folder = write_run(sample_run())
    assert run_command(["sink", "jsonl", str(folder)]) == 0
    (folder / "alerts.jsonl").write_text('{"rule": "nan", "state": "fired", "message": "\\u001b[2Jbad"}\n')
    assert run_command(["watch", str(folder), "--plain"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("-- finished · epoch 3/3 · step ")
    assert "train/batch_loss 0.125" in last
    assert last.endswith("sinks: jsonl: up to date")
    assert any(line.startswith("ALERT") and "\\x1b[2Jbad" in line for line in lines)
    assert all(line == one_line(line) for line in lines)
    assert len([line for line in lines if line.startswith("20")]) <= HISTORY_LINES


def test_alerts_are_printed(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Alerts that the alerts sink has written are printed with the run's lines."""
    folder = write_run([Recorder(rank=1).record([Event("train/loss", math.nan, "scalar", 1.75e9, 7)])])
    assert run_command(["sink", "alerts", str(folder), "--rank", "1"]) == 0
    assert run_command(["watch", str(folder), "--rank", "1", "--plain"]) == 0
    alerts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ALERT")]
    assert alerts[0].startswith("ALERT critical loss-not-finite: train/loss is nan")


def test_ranks_are_labelled(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """With several ranks, each line begins with its rank."""
    folder = write_run([Recorder(rank=0).scalars(3)])
    write_run([Recorder(rank=1).scalars(4)])
    assert run_command(["watch", str(folder), "--rank", "all", "--plain"]) == 0
    last = dict(line.split(" | ", 1) for line in capsys.readouterr().out.splitlines())
    assert {whose: line.count("train/loss 2") for whose, line in last.items()} == {"run rank 0": 1, "run rank 1": 0}


def test_new_lines_are_printed_once(tmp_path: Path) -> None:
    """Only the end of the history is printed, then each new line once, and the state at each interval."""
    lines: list[str] = []
    recorder, view = Recorder(), View("digits")
    printer = LinePrinter(view, 10.0, "", lines.append)
    view.add_batch(recorder.record([log(f"before {number}") for number in range(30)]))
    printer.update(0.0)
    assert lines == ["-- waiting for the run to begin · 30 events · step 3"]
    view.is_caught_up = True
    for now in (1.0, 2.0):
        printer.update(now)
    assert [line[-9:] for line in lines[1:]] == [f"before {number}" for number in range(20, 30)]
    view.add_batch(recorder.record([log("now")]))
    printer.update(3.0)
    assert lines[-1].endswith("a: now")
    printer.update(11.0)
    assert lines[-1].startswith("-- ")
    count = len(lines)
    printer.update(30.0)
    assert len(lines) == count


def test_a_live_run_is_followed_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of a live run are printed until it has ended."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.happened("run/started")
            publisher.record([log("one")])
            publisher.end()
            await print_runs([Reader(Target(tmp_path), 0, "digits", stays=False)], 10.0)

    run(main())
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "a: one" in line]
    assert lines[-1].startswith("-- finished")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the run is missing"),
        (["RUN", "--interval", "0"], "--interval"),
        (["RUN", "--rank", "x"], "--rank must be a number"),
        (["RUN", "--rank", "7"], "has no rank 7"),
        (["tcp://127.0.0.1:1", "--rank", "all"], "--rank all needs"),
        (["RUN", *(word for rank in range(70) for word in ("--rank", str(rank)))], "at most 64"),
    ],
)
def test_errors(write_run: WriteRun, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """An error is one line, and the exit code is 2."""
    folder = str(write_run(sample_run()))
    assert run_command(["watch", *(folder if word == "RUN" else word for word in arguments)]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal without the extra, the error says what to install, and mentions --plain."""
    monkeypatch.setattr("trainwire_sinks.cli.watch.find_spec", lambda name: None)
    monkeypatch.setattr("trainwire_sinks.cli.watch._is_terminal", lambda: True)
    assert run_command(["watch", str(write_run(sample_run()))]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "trainwire[watch]" in error
    assert "--plain" in error


def test_own_warnings_are_shown_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A warning of the command itself is shown in the log of the run that it is about, and not printed."""
    first, second = (Reader(Target(tmp_path / name), 0, name) for name in ("first", "second"))
    with logging_into_views([first, second]):
        logging.getLogger("trainwire").warning("%s: events are \x1b[2J missing", first.target)
    assert [line.text.rpartition(": ")[2] for line in first.view.log.lines] == ["events are \\x1b[2J missing"]
    assert not second.view.log.lines
    assert capfd.readouterr() == ("", "")


def test_a_dumb_terminal_gets_lines(write_run: WriteRun, trainwire: Callable[..., subprocess.Popen[str]]) -> None:
    """On a dumb terminal, lines without escape sequences are printed."""
    master, slave = pty.openpty()
    process = trainwire("watch", write_run(sample_run()), stdin=slave, stdout=slave, env={**os.environ, "TERM": "dumb"})
    assert process.wait(30) == 0
    os.close(slave)
    output = os.read(master, 1 << 16)
    os.close(master)
    assert b"-- finished" in output
    assert b"\x1b" not in output
