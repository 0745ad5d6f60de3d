"""The shell scripts of the Slurm example, tested with substitutes for Slurm's commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from support.paths import EXAMPLES, TESTS
from support.publisher import Publisher
from support.publisher import run as run_loop
from support.run_reader import read_events, wait_until

from trainwire_protocol.errors import ConnectionFileError
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import connection_path, read_connection

SLURM: Final = EXAMPLES / "slurm"

COMMANDS: Final = {
    "srun": 'echo $$ > "$STEP"; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$REQUEUED"; fi',
    "scancel": 'kill -TERM "$(cat "$STEP")"',
}
"""Substitutes for Slurm's commands: a step is a process on this host."""

SCRIPT: Final = """
import os, sys, threading
from support.tiny_training import train
from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingBatch

class Slow(Plugin):
    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        threading.Event().wait(0.2)

assert sys.argv[2] == "--resume"
train(sys.argv[1], *([] if "SLURM_RESTART_COUNT" in os.environ else [Slow()]), max_epochs=30, resume=True, device="cpu")
"""


@pytest.mark.parametrize("name", ["train.sbatch", "relay.sh"])
def test_the_scripts_pass_shellcheck(name: str) -> None:
    """shellcheck reports nothing."""
    program = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([program, SLURM / name], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job's batch script on one node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in COMMANDS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINWIRE_", "SLURM_"))}
    return kept | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        "STEP": str(tmp_path / "step.pid"),
        "REQUEUED": str(tmp_path / "requeued"),
        "RENDEZVOUS_PORT": "0",
        "PROCESSES": "1",
        "RUNS": str(tmp_path / "runs"),
        "SLURM_JOB_NAME": "tiny",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURMD_NODENAME": "127.0.0.1",
        "SLURM_PROCID": "0",
    }


def start_job(environment: Mapping[str, str], folder: Path) -> subprocess.Popen[str]:
    """Start the batch script as Slurm does."""
    (folder / "script.py").write_text(SCRIPT)
    command = ["bash", SLURM / "train.sbatch", folder / "script.py"]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.timeout(180)
def test_a_job_at_its_time_limit_is_requeued_and_resumed(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Shortly before its time limit the training saves a checkpoint, and the requeued job resumes from it."""
    run = tmp_path / "runs" / "tiny-77"
    job = start_job(cluster, tmp_path)
    try:
        wait_until(lambda: job.poll() is not None or losses(run) >= 3, 60)
        connection = read_connection(connection_path(run, 0))
        assert connection.keys and connection.publish.startswith("tcp://127.0.0.1:")
        job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 0, output
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    again = start_job(cluster | {"SLURM_RESTART_COUNT": "1"}, tmp_path)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    first, second = (read_events(run, attempt=attempt) for attempt in (0, 1))
    assert (first[0].value["job"], first[-1].name) == ("77", "run/interrupted")
    assert (second[0].name, second[-1].name) == ("run/resumed", "run/finished")
    assert second[0].value["from"]["attempt"] == 0
    assert second[0].value["from_step"] >= 3
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1


def losses(run: Path) -> int:
    return sum(event.name == "train/loss" for event in read_events(run)) if run.exists() else 0


@pytest.mark.timeout(180)
def test_the_relay_is_restarted_until_it_is_terminated(tmp_path: Path, cluster: dict[str, str]) -> None:
    """A killed relay is restarted and continues its copy; on SIGTERM the script ends with the relay's exit code."""
    run, copies = tmp_path / "runs" / "mine", tmp_path / "copies"

    async def record() -> str:
        async with Publisher(run) as publisher:
            publisher.scalars(10)
            publisher.end()
            return publisher.attempt.run

    names: list[str] = []

    async def main() -> None:
        names.append(await record())

    run_loop(main())
    copy = copies / names[0]
    command = ["bash", SLURM / "relay.sh", tmp_path / "runs", copies]
    environment = cluster | {"PORT": "0", "PAUSE": "0"}
    script = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: pid_of(copy), 30)
        first = pid_of(copy)
        assert first
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: pid_of(copy) not in (None, first), 30)
        wait_until(lambda: read_events(copy) == read_events(run), 20)
        script.terminate()
        _, stderr = script.communicate(timeout=120)
    finally:
        script.kill()
        script.wait()
    assert (script.returncode, "ended with exit code 137: starting it again" in stderr) == (143, True)
    assert all(report.is_whole for report in verify_run(copy))


def pid_of(copy: Path) -> int | None:
    """Return the process that serves a copy, or None."""
    try:
        return read_connection(connection_path(copy, 0)).process.pid
    except ConnectionFileError:
        return None


def test_a_usage_error_is_not_retried(tmp_path: Path, cluster: dict[str, str]) -> None:
    """A relay that rejects its options ends the script with its exit code."""
    command = ["bash", SLURM / "relay.sh", tmp_path / "runs", tmp_path / "runs"]
    ended = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=40, check=False)
    assert (ended.returncode, "is in the output folder of this relay" in ended.stderr) == (2, True)
