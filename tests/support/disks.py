"""Real filesystems that are small, read-only or frozen, where the machine lets a test mount them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _command(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"this machine does not let a test {words[0]}: {done.stderr.strip()}")


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
    """A filesystem of so many KiB."""
    with _mounted(place, "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs"):
        yield place


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that nobody can write, root neither."""
    with _mounted(folder, "--bind", folder):
        _command("mount", "-o", "remount,bind,ro", folder)
        yield folder


class FreezableDisk:
    """A filesystem that can be made to answer no write."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def freeze(self) -> None:
        """Let every write hang."""
        _command("fsfreeze", "--freeze", self.place)

    def thaw(self) -> None:
        """Let them go on."""
        subprocess.run(["fsfreeze", "--unfreeze", str(self.place)], capture_output=True, check=False)


@contextmanager
def freezable_disk(place: Path) -> Iterator[FreezableDisk]:
    """A small ext4 filesystem in a file."""
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
