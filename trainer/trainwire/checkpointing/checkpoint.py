"""Checkpoints on disk: folders in a run's `checkpoints/`, with a data file and a label for each process.

A label contains the length and the checksum of the data file, and is written after it. A checkpoint exists once it has
the labels of all processes.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from trainwire.training.model.models import save_atomically
from trainwire_protocol.errors import DamagedCheckpointError, UsageError
from trainwire_protocol.journal.files import write_atomically

FOLDER: Final = "checkpoints"
"""The folder of the checkpoints, inside the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The description of one process's part of a checkpoint, which is read without loading the data."""

    attempt: int
    step: int
    epoch: int
    epoch_is_over: bool
    rank: int
    world_size: int
    seed: int
    mini_batch_size: int
    optimizer: str = ""
    """The name of its class; of several, the names and the classes."""
    samples: int | None = None
    """Training samples; None if the number is unknown."""
    main_metric: str = ""
    """The main metric, with its direction."""
    score: float | None = None
    """The main metric's value, negated if lower is better; None if the epoch was not evaluated."""
    first_attempt: int = 0
    """The attempt in which the training started from the beginning."""
    size: int = 0
    """Size of the data file in bytes."""
    checksum: int = 0
    """CRC-32 of the data file."""
    shards: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """The size and the CRC-32 of each file that holds this process's part of the sharded tensors, if there are any."""

    @property
    def name(self) -> str:
        """The name of the checkpoint's folder."""
        return f"step-{self.step:08d}-attempt-{self.attempt}" + ("-epoch-end" if self.epoch_is_over else "")

    @property
    def order(self) -> tuple[int, int, bool]:
        """A key that sorts checkpoints by age."""
        return self.attempt, self.step, self.epoch_is_over


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, with the label of each process."""

    folder: Path
    labels: tuple[Label, ...]

    @property
    def label(self) -> Label:
        """The label of the first process."""
        return self.labels[0]

    @property
    def is_sharded(self) -> bool:
        """Whether the processes saved parts of the model."""
        return any(label.shards for label in self.labels)

    def read(self, rank: int) -> dict[str, Any]:
        """Return the state that one process saved; no code in the file is executed.

        Raises:
            DamagedCheckpointError: if a file of any process is missing or damaged.
            UsageError: if the file is intact, but cannot be loaded.
        """
        try:
            state: dict[str, Any] = torch.load(data_path(self.folder, rank), map_location="cpu", weights_only=True)
        except Exception as error:
            raise UsageError(f"{self.folder} is intact, but cannot be loaded: {error}") from error
        return state

    def verify(self) -> None:
        """Read all files of all processes.

        Raises:
            DamagedCheckpointError: if one is missing or damaged.
        """
        for label in self.labels:
            files = {data_path(self.folder, label.rank): (label.size, label.checksum)}
            files |= {self.folder / name: (size, checksum) for name, (size, checksum) in label.shards.items()}
            for path, expected in files.items():
                try:
                    found = path.stat().st_size, _checksum(path)
                except OSError as error:
                    raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
                if found != expected:
                    raise DamagedCheckpointError(f"{path} is damaged: its length or checksum differs from its label")

    def delete(self) -> None:
        """Delete the checkpoint, labels first, so that a part of it never counts as a checkpoint."""
        for label in self.labels:
            label_path(self.folder, label.rank).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def data_path(folder: Path, rank: int) -> Path:
    """Return the path of one process's data file."""
    return folder / f"rank-{rank}.pt"


def label_path(folder: Path, rank: int) -> Path:
    """Return the path of one process's label."""
    return folder / f"rank-{rank}.json"


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a run, the latest first."""
    found = [_read(folder) for folder in (run_folder / FOLDER).glob("step-*")]
    return sorted((each for each in found if each), key=lambda checkpoint: checkpoint.label.order, reverse=True)


def write_data(run_folder: Path, label: Label, state: Mapping[str, Any], shards: Iterable[Path] = ()) -> Label:
    """Write one process's data file, and return its label, which must be written next.

    Args:
        shards: The files with the process's part of the sharded tensors.

    Raises:
        OSError: if the disk is full, or the folder cannot be written.
    """
    folder = run_folder / FOLDER / label.name
    folder.mkdir(parents=True, exist_ok=True)
    path = data_path(folder, label.rank)
    save_atomically(state, path)
    parts = {str(part.relative_to(folder)): (part.stat().st_size, _checksum(part)) for part in shards}
    return replace(label, size=path.stat().st_size, checksum=_checksum(path), shards=parts)


def write_label(run_folder: Path, label: Label) -> None:
    """Write a label, which makes this process's part valid."""
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


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
