"""Failures on a batch: the note that says which batch it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

REMEDIES: Final = {
    "Expected more than 1 value per channel": "a batch norm in training mode needs more than one sample: change "
    "mini_batch_size, or mini_batch_chunk_size if it is given, so that the last batch or chunk has more, or use "
    "drop_last=True",
}
"""What to do about an error of torch, by a part of its message."""


def note_batch(error: Exception, split: str, batch: object) -> None:
    """Add a note to an exception: that it was raised for a batch of `split`, what that contains, and what may help."""
    error.add_note(f"in a batch of {split}: {describe(batch)}")
    for part, remedy in REMEDIES.items():
        if part in str(error):
            error.add_note(remedy)


def with_notes(error: BaseException) -> str:
    """Return the type of an exception, its message and its notes."""
    message = f"{type(error).__name__}: {error}".removesuffix(": ")
    return message + "".join(f" ({note})" for note in getattr(error, "__notes__", []))


def describe(value: object) -> str:
    """Return a short description of the contents of a batch."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(item)}" for name, item in list(value.items())[:8]) + "}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return ", ".join(describe(item) for item in value[:8])
    return type(value).__name__
