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
from trainwire_sinks.text.terminal import has_colours

Trainwire = Callable[..., subprocess.Popen[str]]
NOON = 1_767_355_200.0
"""2026-01-02 12:00:00 UTC."""


def happened(name: str, **fields: object) -> Event:
    return Event(name, fields, "lifecycle", NOON, 0)


def logged(level: str, message: str, **fields: object) -> Event:
    return Event("log", {"level": level, "logger": "a.b", "message": message, **fields}, "log", NOON, 0)


@pytest.fixture
def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines that a sink prints of some events, without their time."""

    def run(*events: Event, options: Options | None = None) -> list[str]:
        run_sink(lambda: Console(options), tmp_path, record([events]))
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith("2026-01-02 12:00:00+00:00 ") for line in lines)
        return [line[26:] for line in lines]

    return run


def test_it_can_be_killed_anywhere(tmp_path: Path) -> None:
    """Killed at any moment and started again, it goes on."""
    check_sink(Console, tmp_path, record([[logged("ERROR", "one")], [logged("ERROR", "two")]]))


def test_what_matters_has_a_line(printed: Callable[..., list[str]]) -> None:
    """Start, epochs with their metrics, evaluations, checkpoints, warnings and the end; nothing else."""
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
    """`--level` says from which level on records are printed; levels that somebody made up always are."""
    records = [logged(level, "x") for level in ("DEBUG", "INFO", "ERROR", "CHATTY")]
    assert [line.split()[0] for line in printed(*records, options=Options("INFO"))] == ["INFO", "ERROR", "CHATTY"]


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J\x1b[31mred", "\r over", "\x9b31m", "a\u202eb", "\x00"])
def test_nothing_steers_the_terminal(printed: Callable[..., list[str]], text: str) -> None:
    """Control characters are escaped wherever they stand, and a line stays a line."""
    lines = printed(
        logged(text, text, exception=text), happened(text, **{text: text}), happened("run/failed", reason=text)
    )
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_other_ranks_say_which_they_are(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """With `--rank all` the lines of any rank but 0 begin with their rank."""
    folder = write_run(record([[happened("run/started", run="digits")]]))
    (folder / "journal" / "rank-1").symlink_to(folder / "journal" / "rank-0")
    output, error = trainwire("sink", "console", folder, "--rank", "all").communicate(timeout=30)
    assert sorted(line.partition("2026")[0] for line in output.splitlines()) == ["", "rank 1 | "]
    assert error == ""


@pytest.mark.parametrize(
    ("settings", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], coloured: bool) -> None:
    """Only a terminal that has colours gets any, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours), Path(os.devnull).open("w") as nowhere:
        assert has_colours(terminal) == coloured
        assert not has_colours(nowhere)


def test_a_warning_has_a_colour(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """On a terminal a warning stands out."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    folder = write_run(record([[logged("WARNING", "be warned")]]))
    process = trainwire("sink", "console", folder, stdout=theirs, env=environment)
    assert process.wait(20) == 0
    assert os.read(ours, 10_000).startswith(b"\x1b[33m")
    os.close(ours)
    os.close(theirs)


def test_each_line_is_printed_once(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """Started again, it goes on where it was; without a terminal there are no colours."""
    folder = write_run(sample_run())
    first, _ = trainwire("sink", "console", folder).communicate(timeout=20)
    assert "epoch 3 finished" in first
    assert "\x1b" not in first
    assert trainwire("sink", "console", folder).communicate(timeout=20) == ("", "")


def test_a_reader_that_is_gone_is_told(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """Where nobody reads standard output, it ends with one line."""
    reading, writing = os.pipe()
    os.close(reading)
    process = trainwire("sink", "console", write_run(sample_run()), stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (1, "trainwire: nobody reads the standard output any more\n")


def test_an_encoding_that_lacks_a_letter_is_no_end(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """Letters that the terminal's encoding lacks are escaped."""
    folder = write_run(record([[logged("ERROR", "Märkt 损")]]))
    process = trainwire("sink", "console", folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    output, error = process.communicate(timeout=20)
    assert "M\\xe4rkt \\u635f" in output
    assert (process.returncode, error) == (0, "")
