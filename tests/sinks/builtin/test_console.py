from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainwire_sinks import Event
from trainwire_sinks.builtin.console import Console, Options
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink, sample_run
from trainwire_sinks.text.terminal import has_colors

Trainwire = Callable[..., subprocess.Popen[str]]
NOON = 1_767_355_200.0
"""2026-01-02 12:00:00 UTC."""


def happened(name: str, **fields: object) -> Event:
    return Event(name, fields, "lifecycle", NOON, 0)


def logged(level: str, message: str, **fields: object) -> Event:
    return Event("log", {"level": level, "logger": "a.b", "message": message, **fields}, "log", NOON, 0)


@pytest.fixture
def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return a function that runs the sink on events and returns the printed lines, without their times."""

    def run(*events: Event, options: Options | None = None) -> list[str]:
        run_sink(lambda: Console(options), tmp_path, record([events]))
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith("2026-01-02 12:00:00+00:00 ") for line in lines)
        return [line[26:] for line in lines]

    return run


def test_it_can_be_killed_at_any_moment(tmp_path: Path) -> None:
    """Killed at any moment and restarted, the sink continues."""
    check_sink(Console, tmp_path, record([[logged("ERROR", "one")], [logged("ERROR", "two")]]))


def test_important_events_have_a_line(printed: Callable[..., list[str]]) -> None:
    """Start, epochs with metrics, evaluations, checkpoints, warnings and the end are printed, and nothing else."""
    assert printed(
        happened("run/started", run="digits", rank=0, world_size=1),
        Event("hparams", {"lr": 1}, "hparams", NOON, 0),
        happened("epoch/started", epoch=1),
        Event("train/loss", 0.5, "scalar", NOON, 1),
        logged("INFO", "not of interest"),
        logged("WARNING", "be warned"),
        happened("evaluation/started", split="dev"),
        happened("evaluation/finished", split="dev", seconds=1.0, metrics={"loss": 0.25}),
        happened("epoch/finished", epoch=1, seconds=4.5, metrics={"train/loss": 0.5}),
        happened("checkpoint/saved", kind="best", path="best.pt", metric="dev/loss", score=0.25),
        logged("ERROR", "oh", exception="Traceback:\n  File x\nValueError: bad\n"),
        happened("run/failed", reason="ValueError: bad"),
    ) == [
        "INFO     run digits started, rank 0 of 1",
        "WARNING  a.b: be warned",
        "INFO     evaluation on dev in 1 s: loss 0.25",
        "INFO     epoch 1 finished in 4.5 s: train/loss 0.5",
        "INFO     best model saved: best.pt (dev/loss 0.25)",
        "ERROR    a.b: oh (ValueError: bad)",
        "WARNING  run failed: ValueError: bad",
    ]


def test_log_records_are_chosen_by_their_level(printed: Callable[..., list[str]]) -> None:
    """`--level` is the lowest level of printed records; records of unknown levels are always printed."""
    records = [logged(level, "x") for level in ("DEBUG", "INFO", "ERROR", "CHATTY")]
    assert [line.split()[0] for line in printed(*records, options=Options("INFO"))] == ["INFO", "ERROR", "CHATTY"]


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J\x1b[31mred", "\r over", "\x9b31m", "a\u202eb", "\x00"])
def test_nothing_controls_the_terminal(printed: Callable[..., list[str]], text: str) -> None:
    """Control characters are escaped anywhere, and each event stays on one line."""
    lines = printed(
        logged(text, text, exception=text), happened(text, **{text: text}), happened("run/failed", reason=text)
    )
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_lines_of_other_ranks_have_a_prefix(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """With `--rank all`, the lines of any rank but 0 start with the rank."""
    folder = write_run(record([[happened("run/started", run="digits")]]))
    (folder / "journal" / "rank-1").symlink_to(folder / "journal" / "rank-0")
    output, error = trainwire("sink", "console", folder, "--rank", "all").communicate(timeout=120)
    assert sorted(line.partition("2026")[0] for line in output.splitlines()) == ["", "rank 1 | "]
    assert error == ""


@pytest.mark.parametrize(
    ("settings", "colored"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colors_are_for_terminals(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], colored: bool) -> None:
    """Colors are used only on a terminal that supports them, and not if NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours), Path(os.devnull).open("w") as nowhere:
        assert has_colors(terminal) == colored
        assert not has_colors(nowhere)


def test_a_warning_has_a_color(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """On a terminal, a warning is colored."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    folder = write_run(record([[logged("WARNING", "be warned")]]))
    process = trainwire("sink", "console", folder, stdout=theirs, env=environment)
    assert process.wait(20) == 0
    assert os.read(ours, 10_000).startswith(b"\x1b[33m")
    os.close(ours)
    os.close(theirs)


def test_each_line_is_printed_once(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """A restarted sink prints no line again; without a terminal there are no colors."""
    folder = write_run(sample_run())
    first, _ = trainwire("sink", "console", folder).communicate(timeout=20)
    assert "epoch 3 finished" in first
    assert "\x1b" not in first
    assert trainwire("sink", "console", folder).communicate(timeout=20) == ("", "")


def test_a_closed_standard_output_ends_the_sink(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """If nobody reads standard output, the sink ends with one line on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    process = trainwire("sink", "console", write_run(sample_run()), stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (1, "trainwire: standard output was closed by its reader\n")


def test_characters_missing_in_the_encoding_are_escaped(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """Characters that the terminal's encoding lacks are escaped."""
    folder = write_run(record([[logged("ERROR", "Märkt 损")]]))
    process = trainwire("sink", "console", folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    output, error = process.communicate(timeout=20)
    assert "M\\xe4rkt \\u635f" in output
    assert (process.returncode, error) == (0, "")
