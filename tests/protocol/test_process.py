"""The identity of processes, and starting them detached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.run_reader import wait_until

from trainwire_protocol.process import ProcessIdentity, process_start_time, start_detached, wait_until_relayed


def identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity.of_this_process()._replace(pid=pid, started=process_start_time(pid) or "")


def test_this_process_is_not_gone() -> None:
    """This process has an identity and is not gone."""
    here = ProcessIdentity.of_this_process()
    assert here.pid == os.getpid()
    assert here.started
    assert not here.is_gone()


def test_a_process_of_another_host_is_not_gone() -> None:
    """A process of another host is never known to have ended."""
    assert not ProcessIdentity("another-host", 1, "then").is_gone()


def test_a_pid_with_another_start_time_is_another_process() -> None:
    """A pid that now belongs to a later process does not identify the earlier one."""
    assert ProcessIdentity.of_this_process()._replace(started="then").is_gone()


def test_a_stopped_process_is_not_gone_and_a_killed_one_is() -> None:
    """A stopped process is not gone; a killed one is, even while it is a zombie."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identity_of(child.pid)
    child.send_signal(signal.SIGSTOP)
    assert not identity.is_gone()
    child.kill()
    wait_until(identity.is_gone)  # a zombie until it is waited for
    child.communicate()
    assert identity.is_gone()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_missing_process_has_no_start_time(pid: int) -> None:
    """The start time of a pid without a process is None."""
    assert process_start_time(pid) is None


@pytest.mark.parametrize(
    "fields",
    [None, [], {}, {"host": "a", "pid": 1}, {"host": "a", "pid": "1", "started": "b"},
     {"host": "a", "pid": -1, "started": "b"}, {"host": 1, "pid": 1, "started": "b"}],
)  # fmt: skip
def test_invalid_fields_are_not_a_process(fields: object) -> None:
    """A map with a missing or invalid field gives no identity."""
    assert ProcessIdentity.from_fields(fields) is None


def test_unknown_fields_are_ignored() -> None:
    """An identity is read from a map with additional fields."""
    here = ProcessIdentity.of_this_process()
    assert ProcessIdentity.from_fields({**here._asdict(), "thread": 1}) == here


def test_the_output_of_a_detached_process_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output and standard error of a detached process are copied to those of this process."""
    process = start_detached([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert process.wait(20) == 0
    wait_until_relayed([process])
    assert capsys.readouterr() == ("out\n", "err\n")


def test_a_detached_process_survives_a_closed_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a detached process prints is discarded if this process's standard output is closed."""
    monkeypatch.setattr(sys, "stdout", None)
    process = start_detached([sys.executable, "-c", "print('x' * 1_000_000 + 'y')\nprint('z')"])
    assert process.wait(20) == 0
    wait_until_relayed([process])
