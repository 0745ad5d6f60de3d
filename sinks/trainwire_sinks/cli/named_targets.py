"""Resolves the TARGETs of a command that reads several runs, and labels them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_sinks.text.format import one_line


class NamedTarget(NamedTuple):
    """A run that a command reads."""

    text: str
    """The TARGET as given, but without the password of an address."""
    label: str
    """The name of the run's folder, or the TARGET if two runs have the same name."""
    target: Target


def resolve_targets(texts: Sequence[str]) -> list[NamedTarget]:
    """Return the runs that TARGETs name.

    Raises:
        TargetError: one is not a folder, connection file or address, or cannot be accessed.
        ConnectionFileError: one is a file but not a valid connection file.
        OptionError: one is an address of a known scheme, but not a valid one.
    """
    targets = [resolve_target(text) for text in texts]
    shown = [str(target) if target.archive else text for target, text in zip(targets, texts, strict=True)]
    names = [text if "://" in text else Path(text).resolve().name for text in shown]
    labels = names if len(set(names)) == len(set(shown)) else shown
    return [
        NamedTarget(text, one_line(label), target) for text, label, target in zip(shown, labels, targets, strict=True)
    ]
