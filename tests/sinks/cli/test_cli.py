"""The `trainwire` command: its help, its errors and exit codes, and the processes of `trainwire sink`."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_reader import wait_until

from trainwire_sinks import Event
from trainwire_sinks.cli.app import run, take_verbose
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, sample_run

Trainwire = Callable[..., subprocess.Popen[str]]


def scalars(*values: float) -> list[Event]:
    return [Event("train/loss", value, "scalar", 0.0, step) for step, value in enumerate(values)]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` lists the commands and explains TARGET."""
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    for word in ("launch", "sink", "TARGET", "--version", "--verbose"):
        assert word in output


def test_commands_import_nothing_heavy() -> None:
    """Each command has a help text, and creating the application imports no package that only some commands need."""
    code = (
        "import sys; from trainwire_sinks.cli.app import COMMANDS, make_app;"
        "print(all(make_app([name])[name].help for name in COMMANDS), *({'torch', 'tensorboard', 'pyarrow', 'textual',"
        "'apprise', 'prometheus_client'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version and nothing else."""
    assert run(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_sinks_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    """`sink --list` prints a line for each sink."""
    assert run(["sink", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert any(
        line.split(maxsplit=1)[1].startswith("Writes loss.tsv") for line in lines if line.startswith("loss-file")
    )


def test_a_sinks_help_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """`sink NAME --help` describes the sink and lists all its options."""
    assert run(["sink", "loss-file", "--help"]) == 0
    output = capsys.readouterr().out
    for word in ("Writes loss.tsv", "TARGET", "--output", "--rank", "--give-up"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], ExitCode.USAGE, "nonsense"),
        (["snik", "loss-file"], ExitCode.USAGE, 'Did you mean "sink"?'),
        (["sink", "loss-file"], ExitCode.USAGE, "TARGET is missing: give a run's folder"),
        (["sink", "loss-file", "RUN", "--bogus"], ExitCode.USAGE, "--bogus"),
        (["sink", "loss-file", "RUN", "--rank", "x"], ExitCode.USAGE, "--rank must be a number, 0 or more"),
        (["sink", "loss-file", "RUN", "--rank", "-1"], ExitCode.USAGE, "--rank"),
        (["sink", "loss-file", "RUN", "--give-up", "soon"], ExitCode.USAGE, "--give-up"),
        (
            ["sink", "loss-file", "RUN", "--give-up", "-3"],
            ExitCode.USAGE,
            "--give-up must be a number of seconds, 0 or",
        ),
        (["sink", "loss-file", "RUN", "--rank", "all", "--give-up", "nan"], ExitCode.USAGE, "0 or more, not nan"),
        (["sink", "prometheus", "RUN", "--port", "70000"], ExitCode.USAGE, "--port must be a number from 0 to 65535"),
        (["sink", "console", "RUN", "--level", "loud"], ExitCode.USAGE, "Try: trainwire sink console --help"),
        (["completion", "tcsh"], ExitCode.USAGE, '"bash"'),
        (["sink", "loss", "RUN"], ExitCode.USAGE, "log-file, loss-file"),
        (["sink", "loss-file", "http://host"], ExitCode.USAGE, "neither tcp://host:port nor ipc://path"),
        (["sink", "loss-file", "tcp://127.0.0.1:1"], ExitCode.USAGE, "name one with --output"),
        (["sink", "loss-file", "tcp://127.0.0.1:1", "--rank", "all"], ExitCode.USAGE, "--rank all needs"),
        (["sink", "loss-file", "/no/such/folder/run"], ExitCode.USAGE, "/no/such/folder"),
        (["launch"], ExitCode.USAGE, "the script's command line is missing"),
        (["launch", "--wait", "-1", "--", "true"], ExitCode.USAGE, "--wait"),
        (["launch", "--wait", "nan", "--", "true"], ExitCode.USAGE, "--wait"),
        (["launch", "--sinks", "loss-file", "--", "true"], ExitCode.USAGE, "no option --sinks, only --sink"),
        (["launch", "--sink", "bogus", "--", "true"], ExitCode.USAGE, "the sinks are"),
        (["launch", "--", "/no/such/script"], ExitCode.NOT_FOUND, "cannot start '/no/such/script': No such file"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, message: str
) -> None:
    """An error is one line on standard error: what is wrong, with which input, and what to do."""
    assert run([str(tmp_path) if word == "RUN" else word for word in arguments]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"trainwire: .+\n", captured.err)
    assert message in captured.err


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--verbose`, at any position, an error has its traceback above its line."""
    for arguments in (["--verbose", "sink", "bogus"], ["sink", "bogus", "--verbose"]):
        assert run(arguments) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("trainwire: there is no sink 'bogus'")


@pytest.mark.parametrize(
    "command", ["completion", "launch", "replay RUN --to", "send", "sink loss-file", "sink nonsense", "verify"]
)
def test_every_command_accepts_verbose(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--verbose` shows the traceback of an error of any command."""
    assert run(["--verbose", *command.split()]) == ExitCode.USAGE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}])
def test_help_has_colors_on_terminals_only(trainwire: Trainwire, settings: dict[str, str]) -> None:
    """In a pipe, and where NO_COLOR is set, the help contains no escape sequences."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    piped, _ = trainwire("--help", env=environment | settings).communicate(timeout=20)
    assert "\x1b" not in piped
    ours, theirs = pty.openpty()
    process = trainwire("--help", stdout=theirs, env=environment | {"TERM": "xterm", "LINES": "50"} | settings)
    os.close(theirs)
    assert process.wait(20) == 0
    assert (b"\x1b[3" in os.read(ours, 10_000)) == (not settings)
    os.close(ours)


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_a_closed_standard_output_is_not_reported(trainwire: Trainwire, option: str) -> None:
    """If standard output is closed, as by `head`, a command exits without a message."""
    reading, writing = os.pipe()
    os.close(reading)
    process = trainwire("sink", option, stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (ExitCode.BROKEN_PIPE, "")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_command_works_with_closed_streams(write_run: Callable[..., Path], closed: str) -> None:
    """With closed streams, as in some daemons, a command does its work; no file that it writes gets their output."""
    folder = write_run(sample_run())
    for command in ("sink jsonl", "sink console", "tail", "watch --plain"):
        line = f'"$0" -m trainwire_sinks {command} "$1" {closed}'
        run_line = ["sh", "-c", line, sys.executable, str(folder)]
        ended = subprocess.run(run_line, capture_output=True, text=True, timeout=120, check=False)
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), (command, ended.stderr)
    lines = (folder / "events.jsonl").read_text().splitlines()
    assert {"run/started", "run/finished"} <= {json.loads(line)["name"] for line in lines}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_reported(trainwire: Trainwire, unbuffered: str) -> None:
    """A command whose output cannot be written says so in one line, and exits with OUTPUT."""
    with Path("/dev/full").open("w") as full:
        process = trainwire("sink", "--list", stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    _, error = process.communicate(timeout=20)
    assert process.returncode == ExitCode.OUTPUT
    assert error == "trainwire: standard output cannot be written: No space left on device\n"


def test_a_launched_script_keeps_its_own_verbose() -> None:
    """`--verbose` among the arguments of a launched script is passed to the script, with or without `--`."""
    for script in (["launch", "--", "x", "--verbose"], ["launch", "x", "--verbose"]):
        assert take_verbose(script) == (False, script)
        assert take_verbose(["--verbose", *script]) == (True, script)


def test_a_file_that_is_not_a_connection_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If TARGET is a file of another kind, the error names it."""
    (tmp_path / "run.txt").write_text("hello")
    assert run(["sink", "loss-file", str(tmp_path / "run.txt")]) != 0
    assert "run.txt is not a connection file" in capsys.readouterr().err


@pytest.mark.parametrize("sink", ["loss-file", "log-file"])
def test_a_run_that_is_over_is_read_from_its_journal(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire, sink: str
) -> None:
    """A sink started after the run's end writes everything and exits; any output folder gets the same bytes."""
    folder = write_run(sample_run())
    for output in ([], ["--output", tmp_path / "elsewhere"]):
        process = trainwire("sink", sink, folder, *output)
        assert process.wait(20) == 0
    name = {"loss-file": "loss.tsv", "log-file": "training.log"}[sink]
    assert (folder / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes()
    assert len((folder / name).read_text().splitlines()) > 3


def test_a_sink_reports_that_it_waits_for_a_run(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """A sink started before its run reports that it waits, and then reads the run."""
    process = trainwire("sink", "loss-file", tmp_path / "run")
    assert process.stderr is not None
    assert "the run has not started" in process.stderr.readline()
    write_run(sample_run())
    assert process.wait(20) == 0
    assert (tmp_path / "run" / "loss.tsv").read_text().count("\n") == 4


def test_an_output_that_cannot_be_written_exits_with_1(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """If the output folder is a file, the error is one line and the exit code is 1."""
    (tmp_path / "file").write_text("")
    process = trainwire("sink", "loss-file", write_run(sample_run()), "--output", tmp_path / "file")
    _, error = process.communicate(timeout=20)
    assert process.returncode == ExitCode.OUTPUT
    assert re.fullmatch(r"trainwire: cannot write the output loss-file in .*file.*\n", error)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGINT, ExitCode.INTERRUPTED)]
)
def test_a_sink_commits_before_a_signal_ends_it(
    write_run: Callable[..., Path],
    trainwire: Trainwire,
    number: signal.Signals,
    code: ExitCode,
) -> None:
    """SIGTERM and SIGINT end a sink after it has committed everything, each with its own exit code."""
    folder = write_run(record([scalars(1.0)]), is_over=False)
    process = trainwire("sink", "loss-file", folder)
    cursor = folder / ".trainwire" / "loss-file-rank0.cursor"
    wait_until(lambda: cursor.exists() and '"run": "recorded"' in cursor.read_text())
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert error == ""
    assert '"open": {"train/loss": "1.0"}' in cursor.read_text()


def test_a_second_sink_on_an_output_names_the_first(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """A second sink on an output exits with 1 and names the first one's process, which continues."""
    folder = write_run(record([scalars(1.0)]), is_over=False)
    first = trainwire("sink", "loss-file", folder)
    wait_until((folder / "loss.tsv").exists)
    second = trainwire("sink", "loss-file", folder)
    _, error = second.communicate(timeout=20)
    assert second.returncode == ExitCode.OUTPUT
    assert f"is being written by process {first.pid} on" in error.splitlines()[-1]
    assert first.poll() is None


def test_each_rank_has_its_own_sink_and_output(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """`--rank all` runs one sink for each rank; rank 0 writes where it would write alone."""
    folder = write_run(sample_run())
    (folder / "journal" / "rank-1").symlink_to(folder / "journal" / "rank-0")
    process = trainwire("sink", "loss-file", folder, "--rank", "all", "--output", tmp_path / "out")
    assert process.wait(30) == 0
    assert (tmp_path / "out" / "loss.tsv").exists()
    assert (tmp_path / "out" / "rank-1" / "loss.tsv").exists()


SLOW = """
import asyncio
from trainwire_sinks import AppendSink

class Slow(AppendSink):
    name, file_name = "slow", "slow.txt"

    async def handle(self, events):
        await self.output.write("handled\\n")
        print("handled.", flush=True)

    async def flush(self):
        await asyncio.sleep(0.5)
"""


def test_ctrl_c_lets_the_sinks_of_all_ranks_commit(
    tmp_path: Path, write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches each sink once, from the terminal; a second SIGINT would end a sink before it has committed."""
    folder = write_run(record([scalars(1.0)]), is_over=False)
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pid, terminal = pty.fork()
    if pid == 0:
        command = ["sink", "slow:Slow", str(folder), "--rank", "all"]
        os.execv(sys.executable, [sys.executable, "-m", "trainwire_sinks", *command])
    output = b""
    while b"handled." not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ExitCode.INTERRUPTED
    os.close(terminal)
    assert (folder / "slow.txt").read_text() == "handled\n"
