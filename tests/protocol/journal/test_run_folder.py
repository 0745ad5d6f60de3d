"""Attempts and leases: one live trainer for a run folder, and another attempt after it has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwire_protocol.errors import OptionError, RunInUseError, UsageError
from trainwire_protocol.journal.run_folder import (
    LEASE_SECONDS,
    Attempt,
    Lease,
    begin_attempt,
    list_attempts,
    list_ranks,
    parse_folder,
    read_run_name,
)
from trainwire_protocol.process import ProcessIdentity

BEGIN = """
import sys
from pathlib import Path
from trainwire_protocol.errors import RunInUseError
from trainwire_protocol.journal.run_folder import begin_attempt
sys.stdin.readline()
try:
    print(begin_attempt(Path(sys.argv[1]), 0, "session").number, flush=True)
except RunInUseError as error:
    print(error, flush=True)
sys.stdin.readline()
"""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def another_trainer(run_folder: Path) -> subprocess.Popen[str]:
    """Start a process that begins an attempt when it reads a line, and ends when it reads another."""
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(run_folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def send_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=20)


def rewrite_lease(attempt: Attempt, **changes: Any) -> None:
    lease = attempt.read_lease()
    assert lease
    attempt.write_lease(replace(lease, **changes))


def test_the_first_attempt_names_the_run(tmp_path: Path) -> None:
    """A run is named after its folder, with random digits, and all ranks share the name."""
    first = begin_attempt(tmp_path / "my run", 0, "a")
    other = begin_attempt(tmp_path / "my run", 1, "b")
    assert first.number == other.number == 0
    assert first.run == other.run == read_run_name(tmp_path / "my run")
    assert first.run.startswith("my-run-")
    assert list_ranks(tmp_path / "my run") == [0, 1]


def test_a_second_live_trainer_is_refused(tmp_path: Path) -> None:
    """While a live process holds the run, another attempt is refused, and the message names the process."""
    begin_attempt(tmp_path, 0, "first")
    with pytest.raises(RunInUseError, match=f"process {os.getpid()} on .*, which is this one, is recording"):
        begin_attempt(tmp_path, 0, "second")
    assert [attempt.number for attempt in list_attempts(tmp_path, 0)] == [0]


def test_take_over_begins_the_next_attempt(tmp_path: Path) -> None:
    """With `take_over` the next attempt begins although the run is held, and the old one is superseded."""
    old = begin_attempt(tmp_path, 0, "first")
    assert not old.is_superseded()
    assert begin_attempt(tmp_path, 0, "second", take_over=True).number == 1
    assert old.is_superseded()


def test_an_attempt_follows_a_released_one(tmp_path: Path) -> None:
    """After the owner has released the lease, the next attempt of the same run begins."""
    first = begin_attempt(tmp_path, 0, "first")
    rewrite_lease(first, released=True)
    second = begin_attempt(tmp_path, 0, "second")
    assert (second.run, second.number) == (first.run, 1)


def test_an_attempt_follows_one_whose_process_is_gone(tmp_path: Path) -> None:
    """On its own host, the lease of a killed trainer does not hold, however recent it is."""
    trainer = another_trainer(tmp_path)
    send_line(trainer)
    assert read_line(trainer) == "0"
    with pytest.raises(RunInUseError):
        begin_attempt(tmp_path, 0, "second")
    trainer.kill()
    trainer.communicate()
    assert begin_attempt(tmp_path, 0, "second").number == 1


def test_a_lease_of_another_host_holds_until_it_expires(tmp_path: Path) -> None:
    """The process of another host cannot be checked: its lease holds until it expires."""
    attempt = begin_attempt(tmp_path, 0, "first")
    elsewhere = ProcessIdentity("another-host", 1, "then")
    rewrite_lease(attempt, process=elsewhere)
    with pytest.raises(RunInUseError, match="another-host"):
        begin_attempt(tmp_path, 0, "second")
    rewrite_lease(attempt, process=elsewhere, renewed=time.time() - LEASE_SECONDS)
    assert begin_attempt(tmp_path, 0, "second").number == 1


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """A lease does not hold if its pid now belongs to a process with another start time."""
    attempt = begin_attempt(tmp_path, 0, "first")
    rewrite_lease(attempt, process=ProcessIdentity.of_this_process()._replace(started="long ago"))
    assert begin_attempt(tmp_path, 0, "second").number == 1


def test_exactly_one_of_several_processes_begins_an_attempt(tmp_path: Path) -> None:
    """Of processes that begin an attempt at once, one gets it and the others are refused."""
    trainers = [another_trainer(tmp_path) for _ in range(4)]
    for trainer in trainers:
        send_line(trainer)
    answers = sorted(map(read_line, trainers), key=len)
    for trainer in trainers:
        end(trainer)
    assert answers[0] == "0"
    assert all("is in use" in refused for refused in answers[1:])
    assert [attempt.number for attempt in list_attempts(tmp_path, 0)] == [0]


def test_a_new_attempt_without_a_lease_is_held(tmp_path: Path) -> None:
    """An attempt is held from the creation of its folder until the duration of a lease has passed."""
    attempt = begin_attempt(tmp_path, 0, "first")
    attempt.lease_path.unlink()
    assert attempt.is_held()
    long_ago = time.time() - LEASE_SECONDS - 1
    os.utime(attempt.folder, (long_ago, long_ago))
    assert not attempt.is_held()


def test_a_lease_of_a_later_version_is_read(tmp_path: Path) -> None:
    """Unknown fields in a lease are ignored."""
    attempt = begin_attempt(tmp_path, 0, "first")
    lease = attempt.read_lease()
    fields = json.loads(attempt.lease_path.read_bytes())
    fields["process"]["thread"] = fields["mood"] = "good"
    attempt.lease_path.write_text(json.dumps(fields))
    assert attempt.read_lease() == lease


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_values.map(json.dumps) | st.text() | st.just("[" * 10_000))
def test_an_invalid_lease_or_name_is_none(tmp_path: Path, text: str) -> None:
    """A lease or run.json with arbitrary contents is treated as missing."""
    attempt = Attempt("run", 0, 0, tmp_path)
    attempt.lease_path.write_bytes(text.encode(errors="replace"))
    assert attempt.read_lease() is None
    (tmp_path / "journal").mkdir(exist_ok=True)
    (tmp_path / "journal" / "run.json").write_bytes(text.encode(errors="replace"))
    assert read_run_name(tmp_path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["process", "session", "renewed", "released", "host", "pid"]), json_values))
def test_a_lease_with_any_fields_is_valid_or_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A lease with arbitrary fields is treated as missing, or works."""
    attempt = Attempt("run", 0, 0, tmp_path)
    attempt.write_lease(Lease(ProcessIdentity("another-host", 1, "then"), "session", 0.0))
    fields = json.loads(attempt.lease_path.read_bytes())
    fields["process"] |= {name: value for name, value in changes.items() if name in ("host", "pid")}
    attempt.lease_path.write_text(json.dumps(fields | changes))
    lease = attempt.read_lease()
    assert lease is None or lease.holds() in (True, False)


@pytest.mark.parametrize("obstacle_path", ["", "journal", "journal/rank-0", "journal/run.json/x"])
def test_an_unwritable_folder_is_named(tmp_path: Path, obstacle_path: str) -> None:
    """A file in place of a folder, or the reverse, is an error that names the run folder."""
    obstacle = tmp_path / "run" / obstacle_path
    if obstacle_path.endswith("x"):
        obstacle.mkdir(parents=True)
    else:
        obstacle.parent.mkdir(parents=True, exist_ok=True)
        obstacle.write_text("a file")
    with pytest.raises(UsageError, match=str(tmp_path / "run")):
        begin_attempt(tmp_path / "run", 0, "session")


def test_a_run_without_its_name_is_refused(tmp_path: Path) -> None:
    """A run.json without a name is an error that says what to do; it is not overwritten."""
    (tmp_path / "journal").mkdir()
    name = tmp_path / "journal" / "run.json"
    name.write_text("{}")
    with pytest.raises(UsageError, match="restore it or choose another folder"):
        begin_attempt(tmp_path, 0, "session")
    assert name.read_text() == "{}"


def test_a_folder_without_a_run_has_no_attempts(tmp_path: Path) -> None:
    """Folders with other names are neither attempts nor ranks."""
    assert list_attempts(tmp_path, 0) == []
    (tmp_path / "journal" / "rank-x").mkdir(parents=True)
    (tmp_path / "journal" / "rank-0" / "attempt-x").mkdir(parents=True)
    assert list_attempts(tmp_path, 0) == []
    assert list_ranks(tmp_path) == [0]


def test_a_lease_with_a_time_out_of_range_is_none(tmp_path: Path) -> None:
    """A renewal time that no float can represent makes the lease invalid."""
    attempt = begin_attempt(tmp_path, 0, "first")
    fields = json.loads(attempt.lease_path.read_bytes()) | {"renewed": 10**400}
    attempt.lease_path.write_text(json.dumps(fields))
    assert attempt.read_lease() is None


def test_a_folder_is_named_as_users_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be text, bytes or a path object, relative or in the home folder; it is absolute from then on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("runs/a", "runs/a/", b"runs/a", Path("runs/a"), "./runs//a"):
        assert parse_folder(name) == tmp_path / "runs" / "a"
    assert parse_folder("~/runs/a") == tmp_path / "home" / "runs" / "a"
    assert parse_folder("./~") == tmp_path / "~"
    assert parse_folder(b"\xff") == tmp_path / "\udcff"  # a name that is not UTF-8
    assert parse_folder("two\nlines") == tmp_path / "two\nlines"


@pytest.mark.parametrize("name", ["", b"", "a\0b", b"a\0b", None, 5, ["runs"], "\ud800"])
def test_what_cannot_be_a_folder_is_refused(name: object) -> None:
    """The error names the parameter and what was passed; an empty name is not the working directory."""
    with pytest.raises(OptionError, match=r"^run_folder is .*; it must be the path of a folder"):
        parse_folder(name, "run_folder")


def test_a_deleted_working_directory_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder needs the working directory."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OptionError, match="the working directory has been deleted"):
        parse_folder("runs/a")
