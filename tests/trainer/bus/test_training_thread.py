"""In `log` and `publish`, the training thread appends to a queue, and does nothing that could wait."""

from __future__ import annotations

import gc
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import trainwire

ALLOWED = {
    "append", "time", "items", "get", "len", "isinstance", "hasattr", "getattr", "type", "float", "int", "sum", "map",
    "max", "min", "isfinite", "isascii", "encode", "startswith", "keys", "values", "join", "str", "bool", "item", "dim",
    "numel", "detach", "cpu", "tolist", "is_cuda", "all", "any", "next", "update", "copy", "tuple", "list", "dict",
    "_abc_instancecheck", "_abc_subclasscheck", "__new__", "__contains__", "_make", "setprofile", "exception", "format",
    "callable", "setdefault",
}  # fmt: skip
"""Functions written in C that touch memory alone."""

FORBIDDEN = re.compile(
    r"posix|socket|zmq|_io|select|fcntl|mmap|_thread|acquire|lock|fsync|write|send|recv|open|sleep|wait"
)


@contextmanager
def traced() -> Iterator[list[str]]:
    """Collect the names of all C functions that this thread calls, and of each file of Python code."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            owner = getattr(argument, "__module__", None) or type(getattr(argument, "__self__", None)).__name__
            called.append(f"{owner}.{argument.__name__}")
        elif event == "call":
            called.append(f"python:{frame.f_code.co_filename}:{frame.f_code.co_name}")

    gc.disable()  # it would finalise what other tests have left
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        gc.enable()


TENSOR = torch.tensor(0.5)
CALLS: dict[str, Callable[[trainwire.EventBus], None]] = {
    "floats": lambda bus: bus.log({"train/loss": 0.5, "train/norm": 1.0}, step=3),
    "an integer, no step": lambda bus: bus.log({"count": 3}),
    "a tensor": lambda bus: bus.log({"train/loss": TENSOR}, step=3),
    "a full queue": lambda bus: bus.log({"dropped": 0.5}, step=3),
    "text": lambda bus: bus.text("note", "a word", step=3),
    "scalars": lambda bus: bus.scalars("rates", [0.5, 0.25], step=3),
    "table": lambda bus: bus.table("scores", {"columns": ["a"], "rows": [[1]]}, step=3),
    "publish": lambda bus: bus.publish("any", 0.5, "scalar", 3),
    "lifecycle": lambda bus: bus.lifecycle("epoch/started", epoch=1),
    "hparams": lambda bus: bus.hparams({"lr": 0.1}),
    "a mark": lambda bus: bus.state_dict() and None,
    "after close": lambda bus: bus.log({"train/loss": 0.5}, step=3),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_that_can_wait_is_called(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock, socket, file, sleep or system call: each C function that is called only accesses memory."""
    with trainwire.open_bus(tmp_path, flush_interval=0.5) as bus:
        if name == "a full queue":
            monkeypatch.setattr(bus._queue, "_max_values", 0)
            bus._queue.reset_limits()
        if name == "after close":
            bus.close()
        CALLS[name](bus)
        with traced() as called:
            CALLS[name](bus)
    in_c = {entry for entry in called if not entry.startswith("python:")}
    in_python = {entry.split(":")[1] for entry in called if entry.startswith("python:")}
    assert not {entry for entry in in_c if FORBIDDEN.search(entry)}
    assert {entry.rpartition(".")[2] for entry in in_c} <= ALLOWED, in_c
    assert not {
        file for file in in_python if "/zmq/" in file or file in {threading.__file__, queue.__file__, socket.__file__}
    }


def test_the_trace_sees_what_it_looks_for(tmp_path: Path) -> None:
    """The trace shows locks, files, sockets and sleeps, so what it does not show did not happen."""
    lock = threading.Lock()
    with traced() as called:
        with lock:
            lock.locked()
        (tmp_path / "file").write_text("x")
        threading.Event().wait(0.001)
    assert {"acquire", "open", "write"} <= {entry.rpartition(".")[2] for entry in called if FORBIDDEN.search(entry)}


STRACED = """
import sys, threading, trainwire
with trainwire.open_bus(sys.argv[1]) as bus:
    bus.log({"train/loss": 0.5}, step=0)
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    for step in range(1, 5001):
        bus.log({"train/loss": 0.5, "train/norm": 1.0}, step=step)
        bus.text("note", "a word", step=step)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_no_system_call_but_for_the_interpreters_lock(tmp_path: Path) -> None:
    """Under strace the training thread makes no system call in 10,000 recordings except those of CPython itself."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STRACED, str(tmp_path / "run")], **pipes) as process:
        assert process.stdout and process.stdin
        thread = process.stdout.readline().strip()
        trace = tmp_path / "trace"
        strace = subprocess.Popen(["strace", "-p", thread, "-o", str(trace)], stderr=subprocess.PIPE, text=True)
        assert strace.stderr is not None
        if "attached" not in strace.stderr.readline():
            process.communicate("\n\n")
            strace.communicate()
            pytest.skip("strace cannot attach here")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(30)
        strace.communicate(timeout=120)
    lines = trace.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("read(0") or "read resumed" in line)
    last = next(n for n, line in enumerate(lines) if line.startswith('write(1, "done'))
    calls = {line.partition("(")[0] for line in lines[first + 1 : last] if re.match(r"[a-z_0-9]+\(", line)}
    assert calls <= {"futex", "brk", "mmap", "munmap", "madvise", "mremap", "sched_yield", "clock_gettime"}, calls
