"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from trainwire_protocol.journal.files import create_atomically, remove_unfinished, write_atomically


def test_a_file_is_written_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    """The file holds what was written, has the mode that was asked for, and no other file stays."""
    path = tmp_path / "file"
    write_atomically(path, b"one", mode=0o600)
    write_atomically(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [path]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """While a file is written again and again, a reader never finds part of it, or none."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(2)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            write_atomically(path, contents[number % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    thread.join()


def test_a_disk_that_is_full_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new file cannot take its place the old one stays, and nothing beside it."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half-written file goes; the file itself, and what only looks like it, stays."""
    path = tmp_path / "loss[1].tsv"
    others = [tmp_path / name for name in (path.name, ".loss[1].tsv.bak", ".loss1.tsv.0123abcd", ".loss.tsv.0123abcd")]
    for other in others:
        other.write_bytes(b"kept")

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", end)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert len([*tmp_path.iterdir()]) == len(others) + 1
    remove_unfinished(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_unfinished(tmp_path / "missing" / "file")


def test_a_missing_folder_is_the_systems_error(tmp_path: Path) -> None:
    """Where there is no folder, writing raises what the system says."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_of_several_that_create_a_file_one_does(tmp_path: Path) -> None:
    """Of threads that create a file at once, exactly one is told that it did, and its content is there."""
    path = tmp_path / "file"
    barrier = threading.Barrier(8)
    created: list[bytes] = []

    def create(content: bytes) -> None:
        barrier.wait()
        if create_atomically(path, content):
            created.append(content)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == created
    assert [*tmp_path.iterdir()] == [path]
