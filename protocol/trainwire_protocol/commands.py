"""Commands that a training takes from outside: what `trainwire send` sends and a bus hands to its handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

VERBS: Final = ("stop", "checkpoint", "evaluate", "pause", "resume", "set")
"""What a training can be told to do."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it came over the wire.

    Attributes:
        id: Names this command; the training's answer carries the same id.
        verb: What to do, one of `VERBS`.
        arguments: Depend on the verb: `learning_rate` for "set", an optional `reason` for "stop".
    """

    id: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
