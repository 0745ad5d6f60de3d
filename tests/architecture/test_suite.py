"""`conftest.py` makes the tests independent of the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.paths import TESTS
from support.run_reader import wait_until

INNER_TESTS = """
import os, signal, subprocess, sys
from pathlib import Path

def test_settings():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert os.umask(0o022) == 0o022
    assert not {"RANK", "SLURM_JOB_ID", "TRAINWIRE_BIND", "COLUMNS", "NO_COLOR"} & os.environ.keys()
    assert Path.home().is_dir() and os.environ["HOME"] != "/nowhere"
    assert os.readlink("/proc/self/fd/0") == os.devnull

def test_that_fails():
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    Path(os.environ["PYTEST_PID_FILE"]).write_bytes(child.stdout.readline())
    raise AssertionError
"""


def ignore_signals() -> None:
    """Change signals and umask as `nohup command &` in a script with a strict umask would."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


def test_inherited_settings_are_replaced_and_processes_are_killed(tmp_path: Path) -> None:
    """Signals, umask, environment and standard input are set by the suite, and processes of failed tests are killed."""
    (tmp_path / "test_inner.py").write_text(INNER_TESTS)
    odd = {"RANK": "1", "SLURM_JOB_ID": "7", "TRAINWIRE_BIND": "x", "COLUMNS": "3", "NO_COLOR": "1", "HOME": "/nowhere"}
    pid_file = tmp_path / "pid"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)]
    completed = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", os.devnull],
        env={**os.environ, **odd, "PYTHONPATH": str(TESTS), "PYTEST_PID_FILE": str(pid_file)},
        capture_output=True, text=True, check=False, preexec_fn=ignore_signals, cwd=tmp_path,
    )  # fmt: skip
    assert "1 failed, 1 passed" in completed.stdout, completed.stdout + completed.stderr
    process = Path("/proc") / pid_file.read_text().strip()
    wait_until(lambda: not process.exists())
