"""Checkpoints on disk: folders in a run's `checkpoints/`, with a file and a label for each process.

A checkpoint is there once every process's label is: it names the file's length and checksum, and is written last.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from trainwire.training.models import save_atomically
from trainwire_protocol.errors import DamagedCheckpointError, UsageError
from trainwire_protocol.journal.files import write_atomically

FOLDER: Final = "checkpoints"
"""In the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is known of one process's part of a checkpoint without reading it."""

    attempt: int
    step: int
    epoch: int
    epoch_is_over: bool
    rank: int
    world_size: int
    seed: int
    mini_batch_size: int
    optimizer: str = ""
    """Its class."""
    samples: int | None = None
    """That are trained on; None if that is not known."""
    score: float | None = None
    """The main metric; the larger, the better, so one of which less is better is negative."""
    size: int = 0
    """Bytes of the file."""
    checksum: int = 0
    """CRC-32 of the file."""

    @property
    def name(self) -> str:
        """The checkpoint's folder."""
        return f"step-{self.step:08d}-attempt-{self.attempt}" + ("-epoch-end" if self.epoch_is_over else "")

    @property
    def order(self) -> tuple[int, int, bool]:
        """The larger, the later."""
        return self.attempt, self.step, self.epoch_is_over


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: of each process its label."""

    folder: Path
    labels: tuple[Label, ...]

    @property
    def label(self) -> Label:
        """That of the first process."""
        return self.labels[0]

    def read(self, rank: int) -> dict[str, Any]:
        """What one process has saved; nothing in the file is executed.

        Raises:
            DamagedCheckpointError: the file of this or another process is not what was written.
            UsageError: it is, but cannot be loaded.
        """
        for label in self.labels:
            _check(data_path(self.folder, label.rank), label)
        try:
            state: dict[str, Any] = torch.load(data_path(self.folder, rank), map_location="cpu", weights_only=True)
        except Exception as error:
            raise UsageError(f"{self.folder} is not damaged, but cannot be loaded: {error}") from error
        return state

    def delete(self) -> None:
        """Remove it, labels first, so that it is never there in half."""
        for label in self.labels:
            label_path(self.folder, label.rank).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def data_path(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"rank-{rank}.pt"


def label_path(folder: Path, rank: int) -> Path:
    """The label of that file."""
    return folder / f"rank-{rank}.json"


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, the latest first."""
    found = [_read(folder) for folder in (run_folder / FOLDER).glob("step-*")]
    return sorted((each for each in found if each), key=lambda checkpoint: checkpoint.label.order, reverse=True)


def write_data(run_folder: Path, label: Label, state: Mapping[str, Any]) -> Label:
    """Write one process's file; the result is its label, which is still to be written.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder = run_folder / FOLDER / label.name
    folder.mkdir(parents=True, exist_ok=True)
    path = data_path(folder, label.rank)
    save_atomically(state, path)
    return Label(**{**asdict(label), "size": path.stat().st_size, "checksum": _checksum(path)})


def write_label(run_folder: Path, label: Label) -> None:
    """Write a label: from then on this process's part is there."""
    path = label_path(run_folder / FOLDER / label.name, label.rank)
    write_atomically(path, json.dumps(asdict(label)).encode())


def _read(folder: Path) -> Checkpoint | None:
    try:
        first = _read_label(folder, 0)
        return Checkpoint(folder, (first, *(_read_label(folder, rank) for rank in range(1, first.world_size))))
    except (OSError, ValueError, TypeError):
        return None


def _read_label(folder: Path, rank: int) -> Label:
    return Label(**json.loads(label_path(folder, rank).read_bytes()))


def _check(path: Path, label: Label) -> None:
    try:
        size, checksum = path.stat().st_size, _checksum(path)
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    if (size, checksum) != (label.size, label.checksum):
        raise DamagedCheckpointError(f"{path} is damaged: its length or checksum is not what its label says")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
