"""Private folders: what a killed process leaves behind is removed by the next one, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.private_folder import OWNER, PREFIX, make_private_folder

MAKE = """
import sys
from pathlib import Path
from trainwire_protocol.transport.private_folder import make_private_folder
folder = make_private_folder(sys.argv[1])
(folder / "pub").touch()
print(folder, flush=True)
sys.stdin.read()
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    """The folder of a killed process is removed with its files; those of processes that run or are stopped are not."""
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = [Path(process.stdout.readline().strip()) for process in processes if process.stdout]
    try:
        processes[0].kill()
        processes[0].wait(20)
        os.kill(processes[1].pid, signal.SIGSTOP)
        made = make_private_folder(tmp_path)
        assert names(tmp_path) == {folders[1].name, folders[2].name, made.name}
        assert made.stat().st_mode & 0o777 == 0o700
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    "owner",
    [
        {"host": "another-host"},
        {"namespace": "pid:[1]"},  # a container that shares the folder and the host's name
        {"pid": "none"},
    ],
)
def test_a_folder_whose_process_is_not_known_to_be_gone_is_kept(tmp_path: Path, owner: dict[str, str]) -> None:
    """A pid says nothing about a process of another host or container."""
    gone = ProcessIdentity.of_this_process()._replace(pid=2**22 + 1, started="then")._asdict()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    for name, fields in (("gone", {}), ("kept", owner)):
        folder = tmp_path / f"{PREFIX}{name}"
        folder.mkdir()
        (folder / OWNER).write_text(json.dumps(gone | {"namespace": namespace} | fields))
    made = make_private_folder(tmp_path)
    assert names(tmp_path) == {f"{PREFIX}kept", made.name}


def test_what_is_not_a_private_folder_is_kept(tmp_path: Path) -> None:
    """Links, files and folders without an owner may have such a name, and are none of ours."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / OWNER).write_text(json.dumps(ProcessIdentity("host", 1, "then")._asdict()))
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}empty").mkdir()
    (tmp_path / f"{PREFIX}damaged").mkdir()
    (tmp_path / f"{PREFIX}damaged" / OWNER).write_text("[")
    before = names(tmp_path)
    made = make_private_folder(tmp_path)
    assert names(tmp_path) == before | {made.name}
    assert (tmp_path / "elsewhere" / OWNER).exists()
