from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from trainwire_protocol.journal.run_folder import Attempt, Lease, journal_folder
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import Batch, encode_header

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Return a function that writes batches into a run's folder, as a trainer leaves it when it ends or while it runs.

    The folder appears complete, because a reader would take a partly written one for a run without its end.
    """

    def write(batches: Sequence[Batch], folder: Path = tmp_path / "run", *, is_over: bool = True) -> Path:
        header = batches[0].header
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=tmp_path.parent) as aside:
            made = Path(aside) / "run"
            for number in sorted({batch.header.attempt for batch in batches}):
                place = journal_folder(made, header.rank) / f"attempt-{number}"
                place.mkdir(parents=True)
                lease = Lease(ProcessIdentity.of_this_process(), "session", time.time(), released=is_over)
                Attempt(header.run, header.rank, number, place).write_lease(lease)
                writer = JournalWriter(place)
                own = [batch for batch in batches if batch.header.attempt == number]
                writer.append([*own[:-1], as_last(own[-1])] if is_over else own)
                writer.close()
            (made / "journal" / "run.json").write_text(json.dumps({"run": header.run}))
            merge(made, folder)
        return folder

    return write


def merge(source: Path, target: Path) -> None:
    """Move a folder to its place, and merge it with a folder that is there already."""
    if target.is_dir():
        for path in sorted(source.iterdir()):
            merge(path, target / path.name)
    else:
        source.replace(target)


def as_last(batch: Batch) -> Batch:
    """Return the batch with a header that ends its attempt."""
    header = replace(batch.header, last=True)
    return Batch(header, encode_header(header), batch.body)


@pytest.fixture
def trainwire() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `trainwire` in a process, which is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainwire_sinks", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, text=True, **{**pipes, **options}))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill_with_children(process)
        process.communicate()


def kill_with_children(process: subprocess.Popen[str]) -> None:
    """Kill a process and its children, because a child that is left keeps the pipes open."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")  # missing on some kernels
    found = children.read_text().split() if children.exists() else []
    process.kill()
    for child in map(int, found):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
