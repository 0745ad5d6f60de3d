"""How a process ends: the run's last event says how, and the process ends as it would have without a bus."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events

import trainwire
from trainwire.bus.process_end import is_default_handler, status_of

LEFT_OPEN = "bus = trainwire.open_bus(sys.argv[1])\nbus.log({'a': 1.0}, step=1)\n"
IN_A_BLOCK = "with trainwire.open_bus(sys.argv[1]) as bus:\n    bus.log({'a': 1.0}, step=1)\n    "


def run_script(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", f"import builtins, os, signal, sys, threading, time\nimport trainwire\n{script}"]
    return subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=120, check=False)


def ending(folder: Path) -> tuple[str, str | None]:
    """Return the name and the reason of the last event."""
    last = read_events(folder)[-1]
    return last.name, last.value["reason"]


ENDINGS = [
    ("pass", 0, "run/finished", None),
    ("raise RuntimeError('out of memory')", 1, "run/failed", "RuntimeError: out of memory"),
    ("sys.exit()", 0, "run/finished", None),
    ("sys.exit(0)", 0, "run/finished", None),
    ("sys.exit(4)", 4, "run/failed", "SystemExit: 4"),
    ("sys.exit('no data')", 1, "run/failed", "SystemExit: no data"),
    ("sys.exit('')", 1, "run/failed", "SystemExit"),
    ("exit(5)", 5, "run/failed", "SystemExit: 5"),
    ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "run/interrupted", "KeyboardInterrupt"),
    ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "run/interrupted", "SIGTERM"),
    ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP, "run/interrupted", "SIGHUP"),
]


@pytest.mark.parametrize("opening", [LEFT_OPEN, IN_A_BLOCK], ids=["left open", "in a block"])
@pytest.mark.parametrize(("action", "code", "name", "reason"), ENDINGS, ids=[row[0] for row in ENDINGS])
def test_the_last_event_says_how_the_process_ended(
    tmp_path: Path, opening: str, action: str, code: int, name: str, reason: str | None
) -> None:
    """The last event has the status and reason, and the exit status is the one that Python itself would have."""
    ended = run_script(tmp_path / "run", opening + action)
    assert (ended.returncode, *ending(tmp_path / "run")) == (code, name, reason), ended.stderr


def test_an_argument_that_is_refused_leaves_a_failed_run(tmp_path: Path) -> None:
    """A library that exits, such as argparse, ends the run as failed, with its exit status."""
    script = LEFT_OPEN + "import argparse\nargparse.ArgumentParser().parse_args(['--unknown'])"
    assert run_script(tmp_path / "run", script).returncode == 2
    assert ending(tmp_path / "run") == ("run/failed", "SystemExit: 2")


def test_an_exit_of_a_thread_does_not_end_the_run(tmp_path: Path) -> None:
    """`sys.exit` in a thread ends that thread only, and an exception there does not end the process either."""
    script = LEFT_OPEN + "\n".join(
        f"thread = threading.Thread(target=lambda: {action})\nthread.start()\nthread.join()"
        for action in ("sys.exit(3)", "1 / 0")
    )
    assert run_script(tmp_path / "run", script).returncode == 0
    assert ending(tmp_path / "run") == ("run/finished", None)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_handler_of_the_program_is_kept(tmp_path: Path, moment: str) -> None:
    """A program that handles SIGTERM itself gets the signal, whether it set its handler before or after open_bus."""
    handler = "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))\n"
    parts = [handler, LEFT_OPEN] if moment == "before" else [LEFT_OPEN, handler]
    ended = run_script(tmp_path / "run", "".join(parts) + "os.kill(os.getpid(), signal.SIGTERM)\nbus.close()")
    assert (ended.returncode, ended.stdout) == (0, "handled\n")
    assert ending(tmp_path / "run") == ("run/finished", None)


def test_a_handler_in_c_and_an_ignored_signal_are_kept(tmp_path: Path) -> None:
    """A handler that Python does not know is kept, and so is the ignored SIGHUP of `nohup`."""
    script = (
        "import faulthandler\nfaulthandler.register(signal.SIGTERM)\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        f"{LEFT_OPEN}for number in (signal.SIGHUP, signal.SIGTERM): os.kill(os.getpid(), number)\n"
    )
    ended = run_script(tmp_path / "run", script)
    assert ended.returncode == 0
    assert "most recent call first" in ended.stderr
    assert ending(tmp_path / "run") == ("run/finished", None)


def test_a_signal_while_the_bus_is_closing_waits_for_its_end(tmp_path: Path) -> None:
    """The signal ends the process once the last event is written and the sockets are removed."""
    script = (
        "import tempfile\ntempfile.tempdir = sys.argv[1] + '-sockets'\nos.mkdir(tempfile.tempdir)\n"
        "os.environ.pop('XDG_RUNTIME_DIR', None)\n" + LEFT_OPEN + "finish = bus._thread._finish\n"
        "async def signalled(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    await finish(*arguments)\n"
        "bus._thread._finish = signalled\nbus.close(timeout=20)\nprint('not reached')"
    )
    ended = run_script(tmp_path / "run", script)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, ""), ended.stderr
    assert ending(tmp_path / "run") == ("run/finished", None)
    assert not list((tmp_path / "run-sockets").iterdir())


def test_a_fork_ends_by_the_signal_and_leaves_the_run_alone(tmp_path: Path) -> None:
    """A forked process has the default action of the signal again; its parent records on."""
    script = (
        LEFT_OPEN + "read, write = os.pipe()\nchild = os.fork()\n"
        "if not child:\n    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "    os.write(write, b'ready')\n    signal.pause()\n"
        "os.read(read, 5)\nos.kill(child, signal.SIGTERM)\nprint(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "bus.log({'a': 2.0}, step=2)"
    )
    ended = run_script(tmp_path / "run", script)
    assert (ended.returncode, ended.stdout) == (0, f"{-signal.SIGTERM}\n"), ended.stderr
    assert [event.value for event in read_events(tmp_path / "run") if event.name == "a"] == [1.0, 2.0]
    assert ending(tmp_path / "run") == ("run/finished", None)


def test_a_closed_bus_leaves_nothing_installed(tmp_path: Path) -> None:
    """While a bus is open, `sys.exit` and the handlers are replaced; once all are closed they are those of before."""
    before = sys.exit, signal.getsignal(signal.SIGTERM)
    first = trainwire.open_bus(tmp_path / "first")
    second = trainwire.open_bus(tmp_path / "second")
    first.close()
    assert sys.exit is not before[0]
    assert is_default_handler(signal.getsignal(signal.SIGTERM))
    second.close()
    assert (sys.exit, signal.getsignal(signal.SIGTERM)) == before


def test_an_interruption_is_told_from_a_failure() -> None:
    """What stops a training from outside is an interruption; an exception whose text fails is still reported."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert status_of(asyncio.CancelledError()) == ("interrupted", "CancelledError")
    assert status_of(GeneratorExit()) == ("interrupted", "GeneratorExit")
    assert status_of(SystemExit(0.0)) == ("failed", "SystemExit: 0.0")  # Python prints it, and exits with 1
    assert status_of(MuteError()) == ("failed", "MuteError")


def test_a_value_after_close_is_reported_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is recorded after `close` is counted, and the first of it is reported; log records are not values."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
    handler = bus.logging_handler()
    logging.getLogger("trainwire").addHandler(handler)
    try:
        bus.image("picture", [[0.0]])
        bus.log({"a": 2.0}, step=2)
        bus.hparams({"lr": 0.1})
    finally:
        logging.getLogger("trainwire").removeHandler(handler)
    (message,) = caplog.messages
    assert "'picture'" in message
    assert "before close" in message
    assert dict(bus.rejections) == {"closed": 3}


def test_a_bus_stays_in_its_process(tmp_path: Path) -> None:
    """A copy of an object keeps the bus; sending it to another process is refused with what to do instead."""

    class Dataset:
        def __init__(self, bus: Any) -> None:
            self.bus = bus

    with trainwire.open_bus(tmp_path) as bus:
        assert copy.deepcopy({"callbacks": [bus]})["callbacks"][0] is bus
        assert copy.copy(bus) is bus
        with pytest.raises(TypeError, match=r"event bus cannot be pickled.*trainwire\.open_bus in the other process"):
            pickle.dumps({"bus": bus})
    with pytest.raises(TypeError, match="event bus"):
        pickle.dumps(bus, protocol=5)
