"""Private folders for sockets and the like, which a process removes at its end.

A killed process leaves its folder behind. Each folder therefore names its process, and the next one that makes a folder
in the same place removes those whose process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from trainwire_protocol.journal.files import read_json_map, write_atomically
from trainwire_protocol.process import ProcessIdentity

PREFIX: Final = "trainwire-"
"""The names of the folders begin with this."""

OWNER: Final = "owner.json"
"""The file in a folder that names its process."""


def make_private_folder(parent: str | os.PathLike[str]) -> Path:
    """Create a folder that only this user can enter, and remove those that processes of this user have left behind.

    Raises:
        OSError: it cannot be created.
    """
    remove_left_behind(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        owner = ProcessIdentity.of_this_process()._asdict() | {"namespace": _pid_namespace()}
        write_atomically(folder / OWNER, json.dumps(owner).encode())
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_left_behind(parent: Path) -> None:
    """Remove the folders in `parent` that this user's processes made on this host, and that are gone."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            # In a folder that all users write, others may choose the same names.
            if entry.name.startswith(PREFIX) and _is_own_folder(entry) and _is_left_behind(Path(entry)):
                shutil.rmtree(entry, ignore_errors=True)


def _is_own_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:  # it has just been removed
        return False


def _is_left_behind(folder: Path) -> bool:
    """Return whether the folder names a process that is gone. False if its pid has no meaning here."""
    try:
        fields = read_json_map(folder / OWNER)
    except (OSError, ValueError):  # another program's, or one that is just being made
        return False
    process = ProcessIdentity.from_fields(fields)
    return process is not None and fields.get("namespace") == _pid_namespace() and process.is_gone()


def _pid_namespace() -> str | None:
    """Return the namespace of this process's pid: containers of one host may share a folder, and even a host name."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # a system without namespaces
        return None
