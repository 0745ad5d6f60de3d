"""Real file systems that are small, read-only or frozen. Tests are skipped where they cannot be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _command(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"{words[0]} is not permitted on this machine: {done.stderr.strip()}")


@contextmanager
def _mounted(place: Path, *words: str | Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    _command("mount", *words, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def small_disk(place: Path, kibibytes: int) -> Iterator[Path]:
    """Mount a file system of the given size in KiB."""
    with _mounted(place, "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs"):
        yield place


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Make a folder read-only, even for root."""
    with _mounted(folder, "--bind", folder):
        _command("mount", "-o", "remount,bind,ro", folder)
        yield folder


class FreezableDisk:
    """A file system whose writes can be made to hang."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def freeze(self) -> None:
        """Make every write hang."""
        _command("fsfreeze", "--freeze", self.place)

    def thaw(self) -> None:
        """Let the writes continue."""
        subprocess.run(["fsfreeze", "--unfreeze", str(self.place)], capture_output=True, check=False)


@contextmanager
def freezable_disk(place: Path) -> Iterator[FreezableDisk]:
    """Mount a small ext4 file system from a file."""
    image = place.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _command("mkfs.ext4", "-q", "-F", image)
    with _mounted(place, "-o", "loop", image):
        disk = FreezableDisk(place)
        try:
            yield disk
        finally:
            disk.thaw()
