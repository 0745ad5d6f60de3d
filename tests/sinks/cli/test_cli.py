from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.reading import wait_until

from trainwire_sinks import Event
from trainwire_sinks.cli import run, take_verbose
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, sample_run

Trainwire = Callable[..., subprocess.Popen[str]]


def scalars(*values: float) -> list[Event]:
    return [Event("train/loss", value, "scalar", 0.0, step) for step, value in enumerate(values)]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` tells what there is, and what a TARGET is."""
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    for word in ("launch", "sink", "TARGET", "--version", "--verbose"):
        assert word in output


def test_commands_import_nothing_heavy() -> None:
    """Each command has a help, and to make them imports no package that only what they run may need."""
    code = (
        "import sys; from trainwire_sinks.cli import COMMANDS, make_app;"
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


def test_a_sinks_help_names_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """`sink NAME --help` tells the sink's purpose and all its options."""
    assert run(["sink", "loss-file", "--help"]) == 0
    output = capsys.readouterr().out
    for word in ("Writes loss.tsv", "TARGET", "--output", "--rank", "--give-up"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], ExitCode.USAGE, "nonsense"),
        (["snik", "loss-file"], ExitCode.USAGE, 'Did you mean "sink"?'),
        (["sink", "loss-file"], ExitCode.USAGE, "TARGET is missing: a run's folder"),
        (["sink", "loss-file", "RUN", "--bogus"], ExitCode.USAGE, "--bogus"),
        (["sink", "loss-file", "RUN", "--rank", "x"], ExitCode.USAGE, "--rank is a number, 0 or more"),
        (["sink", "loss-file", "RUN", "--rank", "-1"], ExitCode.USAGE, "--rank"),
        (["sink", "loss-file", "RUN", "--give-up", "soon"], ExitCode.USAGE, "--give-up"),
        (["sink", "loss-file", "RUN", "--give-up", "-3"], ExitCode.USAGE, "--give-up is a number of seconds, 0 or"),
        (["sink", "loss-file", "RUN", "--rank", "all", "--give-up", "nan"], ExitCode.USAGE, "0 or more, not nan"),
        (["sink", "prometheus", "RUN", "--port", "70000"], ExitCode.USAGE, "--port must be a number from 0 to 65535"),
        (["sink", "console", "RUN", "--level", "loud"], ExitCode.USAGE, "Try: trainwire sink console --help"),
        (["completion", "tcsh"], ExitCode.USAGE, '"bash"'),
        (["sink", "loss", "RUN"], ExitCode.USAGE, "log-file, loss-file"),
        (["sink", "loss-file", "http://host"], ExitCode.USAGE, "neither tcp://host:port nor ipc://path"),
        (["sink", "loss-file", "tcp://127.0.0.1:1"], ExitCode.USAGE, "give one with --output"),
        (["sink", "loss-file", "tcp://127.0.0.1:1", "--rank", "all"], ExitCode.USAGE, "--rank all needs"),
        (["sink", "loss-file", "/no/such/folder/run"], ExitCode.USAGE, "/no/such/folder"),
        (["launch"], ExitCode.USAGE, "launch what"),
        (["launch", "--wait", "-1", "--", "true"], ExitCode.USAGE, "--wait"),
        (["launch", "--wait", "nan", "--", "true"], ExitCode.USAGE, "--wait"),
        (["launch", "--sinks", "loss-file", "--", "true"], ExitCode.USAGE, "no option --sinks, only --sink"),
        (["launch", "--sink", "bogus", "--", "true"], ExitCode.USAGE, "the sinks are"),
        (["launch", "--", "/no/such/script"], ExitCode.NOT_FOUND, "cannot start '/no/such/script': No such file"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, message: str
) -> None:
    """What was wrong, with which input, and what to do, in one line on standard error."""
    assert run([str(tmp_path) if word == "RUN" else word for word in arguments]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"trainwire: .+\n", captured.err)
    assert message in captured.err


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--verbose` an error has its traceback above its line, wherever the option stands."""
    for arguments in (["--verbose", "sink", "bogus"], ["sink", "bogus", "--verbose"]):
        assert run(arguments) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("trainwire: there is no sink 'bogus'")


@pytest.mark.parametrize(
    "command", ["completion", "launch", "replay RUN --to", "send", "sink loss-file", "sink nonsense", "verify"]
)
def test_verbose_is_understood_by_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong with a command line, `--verbose` shows where that was found."""
    assert run(["--verbose", *command.split()]) == ExitCode.USAGE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}])
def test_help_has_colours_on_terminals_only(trainwire: Trainwire, settings: dict[str, str]) -> None:
    """In a pipe, and where NO_COLOR is set, there is no escape sequence."""
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
def test_a_reader_that_leaves_early_is_no_mistake(trainwire: Trainwire, option: str) -> None:
    """With standard output closed, as behind `head`, a command ends without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    process = trainwire("sink", option, stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (ExitCode.BROKEN_PIPE, "")


def test_a_launched_script_keeps_its_own_verbose() -> None:
    """The script's arguments are the script's, with or without `--` before them."""
    for script in (["launch", "--", "x", "--verbose"], ["launch", "x", "--verbose"]):
        assert take_verbose(script) == (False, script)
        assert take_verbose(["--verbose", *script]) == (True, script)


def test_a_file_that_is_no_connection_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A TARGET that is some other file ends with a line that names it."""
    (tmp_path / "run.txt").write_text("hello")
    assert run(["sink", "loss-file", str(tmp_path / "run.txt")]) != 0
    assert "run.txt is not a connection file" in capsys.readouterr().err


@pytest.mark.parametrize("sink", ["loss-file", "log-file"])
def test_a_run_that_is_over_is_read_from_its_journal(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire, sink: str
) -> None:
    """Started after the run's end, a sink writes all of it and exits 0; elsewhere, the same bytes."""
    folder = write_run(sample_run())
    for output in ([], ["--output", tmp_path / "elsewhere"]):
        process = trainwire("sink", sink, folder, *output)
        assert process.wait(20) == 0
    name = {"loss-file": "loss.tsv", "log-file": "training.log"}[sink]
    assert (folder / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes()
    assert len((folder / name).read_text().splitlines()) > 3


def test_a_sink_waits_for_a_run_with_a_word(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """Started before the run, a sink says that it waits, and then reads it."""
    process = trainwire("sink", "loss-file", tmp_path / "run")
    assert process.stderr is not None
    assert "the run has not started" in process.stderr.readline()
    write_run(sample_run())
    assert process.wait(20) == 0
    assert (tmp_path / "run" / "loss.tsv").read_text().count("\n") == 4


def test_an_output_that_cannot_be_written_exits_with_1(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """A file in the output folder's place is one line and exit code 1."""
    (tmp_path / "file").write_text("")
    process = trainwire("sink", "loss-file", write_run(sample_run()), "--output", tmp_path / "file")
    _, error = process.communicate(timeout=20)
    assert process.returncode == ExitCode.OUTPUT
    assert re.fullmatch(r"trainwire: cannot write the output loss-file in .*file.*\n", error)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGINT, ExitCode.INTERRUPTED)]
)
def test_a_sink_that_is_told_to_end_commits_first(
    write_run: Callable[..., Path],
    trainwire: Trainwire,
    number: signal.Signals,
    code: ExitCode,
) -> None:
    """SIGTERM and SIGINT end a sink with everything committed, and with an exit code of their own."""
    folder = write_run(record([scalars(1.0)]), is_over=False)
    process = trainwire("sink", "loss-file", folder)
    cursor = folder / ".trainwire" / "loss-file-rank0.cursor"
    wait_until(lambda: cursor.exists() and '"run": "recorded"' in cursor.read_text())
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert error == ""
    assert '"open": {"train/loss": "1.0"}' in cursor.read_text()


def test_a_second_sink_for_an_output_says_who_holds_it(write_run: Callable[..., Path], trainwire: Trainwire) -> None:
    """The second one exits with 1 and the first one's pid; the first goes on."""
    folder = write_run(record([scalars(1.0)]), is_over=False)
    first = trainwire("sink", "loss-file", folder)
    wait_until((folder / "loss.tsv").exists)
    second = trainwire("sink", "loss-file", folder)
    _, error = second.communicate(timeout=20)
    assert second.returncode == ExitCode.OUTPUT
    assert f"is being written by process {first.pid} on" in error.splitlines()[-1]
    assert first.poll() is None


def test_each_rank_has_a_sink_and_an_output_of_its_own(
    tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire
) -> None:
    """`--rank all` starts one for each rank; rank 0 writes where it would alone."""
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
    """The terminal has sent SIGINT to each of them already; a second one would end them at once."""
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
