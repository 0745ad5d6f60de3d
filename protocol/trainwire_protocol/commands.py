"""The commands that a training accepts: `trainwire send` sends them, and a bus passes them to its handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

VERBS: Final = ("stop", "checkpoint", "evaluate", "pause", "resume", "set")
"""The verbs of commands."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that was received.

    Attributes:
        id: Identifier of the command; the events that answer it contain it.
        verb: One of `VERBS`.
        arguments: Depend on the verb: `learning_rate` for "set", and an optional `reason` for "stop".
    """

    id: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
