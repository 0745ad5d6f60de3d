"""Which process is meant, and whether it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.reading import wait_until

from trainwire_protocol.process import ProcessIdentity, process_start_time, start_detached, wait_until_relayed


def identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity.of_this_process()._replace(pid=pid, started=process_start_time(pid) or "")


def test_this_process_is_not_gone() -> None:
    """A process knows itself."""
    here = ProcessIdentity.of_this_process()
    assert here.pid == os.getpid()
    assert here.started
    assert not here.is_gone()


def test_a_process_of_another_host_is_never_known_to_be_gone() -> None:
    """Another host's pids say nothing here."""
    assert not ProcessIdentity("another-host", 1, "then").is_gone()


def test_a_pid_with_another_start_time_is_another_process() -> None:
    """A pid that was given to a later process is not taken for the earlier one."""
    assert ProcessIdentity.of_this_process()._replace(started="then").is_gone()


def test_a_stopped_process_is_not_gone_and_a_killed_one_is() -> None:
    """A stopped process lives on; one that was killed is gone, waited for or not."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identity_of(child.pid)
    child.send_signal(signal.SIGSTOP)
    assert not identity.is_gone()
    child.kill()
    wait_until(identity.is_gone)  # a zombie until it is waited for
    child.communicate()
    assert identity.is_gone()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_what_is_no_process_has_no_start_time(pid: int) -> None:
    """There is no start time where there is no process."""
    assert process_start_time(pid) is None


@pytest.mark.parametrize(
    "fields",
    [None, [], {}, {"host": "a", "pid": 1}, {"host": "a", "pid": "1", "started": "b"},
     {"host": "a", "pid": -1, "started": "b"}, {"host": 1, "pid": 1, "started": "b"}],
)  # fmt: skip
def test_fields_that_name_no_process(fields: object) -> None:
    """A map that lacks a field, or holds another kind of value, names no process."""
    assert ProcessIdentity.from_fields(fields) is None


def test_fields_of_later_versions_are_skipped() -> None:
    """A process is read from its fields, whatever others there are."""
    here = ProcessIdentity.of_this_process()
    assert ProcessIdentity.from_fields({**here._asdict(), "thread": 1}) == here


def test_what_a_detached_process_prints_comes_out_here(capsys: pytest.CaptureFixture[str]) -> None:
    """Both streams of a process that was started on the side are printed by this one, each where it belongs."""
    process = start_detached([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert process.wait(20) == 0
    wait_until_relayed([process])
    assert capsys.readouterr() == ("out\n", "err\n")
