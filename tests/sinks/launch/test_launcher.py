"""`trainwire launch`: a script with sinks beside it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import sample_run

Trainwire = Callable[..., subprocess.Popen[str]]
WriteRun = Callable[..., Path]

OPEN_BUS = """
import json, os, pathlib, sys
def open_bus(folder, session="s"):
    place = pathlib.Path(os.environ["TRAINWIRE_RENDEZVOUS"])
    (place / "aside").write_text(json.dumps({"folder": folder, "rank": 0}))
    (place / "aside").rename(place / f"{session}.json")
"""
"""Writes the pointer that a bus writes when it opens."""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", OPEN_BUS + code, *map(str, arguments)]


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("", 0)])
def test_the_scripts_exit_code_is_returned(code: str, expected: int) -> None:
    """The exit code of launch is the script's, or 128 + n if signal n ended it."""
    assert run(["launch", "--", *python(code)]) == expected


def test_the_script_gets_a_private_rendezvous(capfd: pytest.CaptureFixture[str]) -> None:
    """The rendezvous is accessible to its owner only, and removed afterwards; the sinks are in the environment."""
    code = (
        "place = os.environ['TRAINWIRE_RENDEZVOUS']; print(place, oct(os.stat(place).st_mode)[-3:], "
        "os.environ['TRAINWIRE_LAUNCHED_SINKS'])"
    )
    run(["launch", "--sink", "log-file", "--sink", "loss-file", "--", *python(code)])
    place, mode, sinks = capfd.readouterr().out.split()
    assert (mode, sinks) == ("700", "log-file,loss-file")
    assert not Path(place).exists()


def test_every_run_of_the_script_gets_its_sinks(tmp_path: Path, write_run: WriteRun) -> None:
    """Sinks are started for each bus that opens, and waited for."""
    folders = [write_run(sample_run(), tmp_path / name) for name in ("a", "b")]
    code = "[open_bus(folder, str(n)) for n, folder in enumerate(sys.argv[1:])]"
    assert run(["launch", "--", *python(code, *folders)]) == 0
    for folder in folders:
        assert (folder / "loss.tsv").read_text().count("\n") == 4
        assert (folder / "training.log").exists()


def test_a_run_that_is_opened_again_gets_its_sinks_again(
    write_run: WriteRun, capfd: pytest.CaptureFixture[str]
) -> None:
    """For two consecutive attempts of one run, no two sinks write one output."""
    folder = write_run(sample_run())
    assert run(["launch", "--", *python("[open_bus(sys.argv[1], str(n)) for n in range(2)]", folder)]) == 0
    assert (folder / "loss.tsv").read_text().count("\n") == 4
    assert capfd.readouterr().err == ""


def test_the_output_of_a_sink_is_printed(write_run: WriteRun, capfd: pytest.CaptureFixture[str]) -> None:
    """The lines of the console sink are printed, up to the last one."""
    folder = write_run(sample_run())
    assert run(["launch", "--sink", "console", "--", *python("open_bus(sys.argv[1])", folder)]) == 0
    assert capfd.readouterr().out.endswith("INFO     run finished\n")


def test_options_are_passed_to_a_sink(tmp_path: Path, write_run: WriteRun) -> None:
    """Options follow the sink's name, quoted as in a shell."""
    folder = write_run(sample_run())
    sink = f"jsonl --output '{tmp_path}/an other'"
    assert run(["launch", "--sink", sink, "--", *python("open_bus(sys.argv[1])", folder)]) == 0
    assert (tmp_path / "an other" / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("alerts --rules missing.toml", "the rules file missing.toml cannot be read"),
        ("alerts --ruels alerts.toml", "--ruels"),
        ("prometheus --port 70000", "--port must be a number from 0 to 65535"),
        ("alerts 'open", "invalid sink"),
        ("", "invalid sink"),
    ],
)
def test_invalid_options_of_a_sink_are_refused(sink: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The script is not started if a sink's options are invalid."""
    assert run(["launch", "--sink", sink, "--", *python("print('started')")]) == ExitCode.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_unfinished_sinks_are_reported_and_continue(write_run: WriteRun, trainwire: Trainwire) -> None:
    """After the wait, launch reports the sinks that are still running, and does not stop them."""
    folder = write_run(sample_run(), is_over=False)
    script = python("open_bus(sys.argv[1])", folder)
    process = trainwire("launch", "--wait", "0", "--sink", "loss-file", "--", *script)
    assert process.stderr is not None
    error = process.stderr.readline()
    assert process.wait(20) == 0
    assert f"the sink loss-file of {folder} has not finished: process " in error
    pid = int(error.split("process ")[1].split()[0])
    os.kill(pid, signal.SIGTERM)
    assert process.stderr.read() == ""


def test_a_failed_sink_is_reported(tmp_path: Path, write_run: WriteRun, capfd: pytest.CaptureFixture[str]) -> None:
    """A sink's failure is reported and does not change the exit code."""
    folder = write_run(sample_run())
    (folder / ".trainwire").write_text("")
    assert run(["launch", "--sink", "loss-file", "--", *python("open_bus(sys.argv[1]); sys.exit(5)", folder)]) == 5
    assert f"the sink loss-file of {folder} ended with exit code 1" in capfd.readouterr().err


def test_an_unreadable_pointer_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """If the pointer to a run is damaged, the run has no sinks, and this is reported."""
    code = "open(os.environ['TRAINWIRE_RENDEZVOUS'] + '/x.json', 'w').write('{')"
    assert run(["launch", "--", *python(code)]) == 0
    assert "cannot be read" in capfd.readouterr().err


WAIT = "print('ready', flush=True); import signal; "
CATCH = WAIT + "signal.signal(int(sys.argv[1]), lambda *_: sys.exit(9)); print('set', flush=True); signal.pause()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_forwarded_to_the_script(trainwire: Trainwire, number: signal.Signals) -> None:
    """The script receives the signals that launch receives, and its exit code is returned."""
    process = trainwire("launch", "--", *python(CATCH, int(number)), start_new_session=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "set\n"]
    process.send_signal(number)
    assert process.wait(20) == 9


COUNT = """
import signal
count = []
signal.signal(signal.SIGINT, lambda *_: count.append(1))
print("set", flush=True)
while not count:
    signal.sigtimedwait([signal.SIGTERM], 0.05)
signal.sigtimedwait([signal.SIGTERM], 0.3)
print("interrupted", len(count), "times.", flush=True)
"""


def test_ctrl_c_in_a_terminal_reaches_the_script_once() -> None:
    """The script receives SIGINT from the terminal, and launch does not send it again."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "trainwire_sinks", "launch", "--", *python(COUNT)])
    output = b""
    while b"set" not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"times." not in output:
        output += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"interrupted 1 times" in output


def test_codes_have_names() -> None:
    """Every exit code is a member of one enumeration."""
    assert {code.name for code in ExitCode} >= {"OK", "OUTPUT", "USAGE", "INCOMPLETE", "SINK", "NOT_FOUND"}
