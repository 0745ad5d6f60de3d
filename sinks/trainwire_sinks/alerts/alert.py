"""What is told: an alert that has fired, or has cleared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from string import Formatter
from typing import Any, Final, Literal, TypeAlias

from trainwire_sinks.text.format import number, one_line, plain, timestamp

Severity: TypeAlias = Literal["info", "warning", "critical"]

COMMON_FIELDS: Final = ("rule", "severity", "run", "rank", "step", "time")
"""What any message can name, beside the fields of its rule's kind."""

MAX_MESSAGE_CHARACTERS: Final = 2000
"""What is beyond is cut off."""


@dataclass(frozen=True)
class Place:
    """An event: where in a run, and when."""

    run: str
    rank: int
    attempt: int
    seq: int
    walltime: float
    step: int


@dataclass(frozen=True)
class Alert:
    """What a rule has found. Its fields are those of a line of `alerts.jsonl`; `docs/alerts.md` describes them."""

    id: str
    state: Literal["fired", "cleared"]
    rule: str
    kind: str
    severity: Severity
    message: str
    walltime: float
    fired_walltime: float
    step: int
    run: str
    rank: int
    attempt: int
    details: dict[str, Any]
    notifiers: tuple[str, ...]

    @property
    def key(self) -> str:
        """What tells it from every other message: the idempotency key."""
        return f"{self.id}/{self.state}"

    def cleared(self, walltime: float, step: int) -> Alert:
        """The news that it is over."""
        message = f"cleared after {number(round(max(0.0, walltime - self.walltime), 1))} s: {self.message}"
        return replace(self, state="cleared", message=cut(message), walltime=walltime, step=step)

    def to_json(self) -> dict[str, Any]:
        """The map that stands in the file, and in a webhook's body."""
        fields = asdict(self) | {"time": timestamp(self.walltime)}
        return {name: _for_json(value) for name, value in fields.items()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Alert:
        """The alert of a map of its fields, as JSON holds them."""
        known = dict(fields)
        return cls(**known | {"notifiers": tuple(fields["notifiers"])})


def template_problem(template: str, known: tuple[str, ...]) -> str | None:
    """What is wrong with a message's template: it may name known fields, in braces, and nothing more."""
    names = ", ".join(f"{{{name}}}" for name in sorted(known))
    try:
        for _, field, specification, conversion in Formatter().parse(template):
            if field is not None and (field not in known or specification or conversion):
                return f"it cannot say {{{field[:80]}}}: it may hold {names}, and {{{{ for a brace"
    except ValueError as error:
        return f"it is no template ({error}): it may hold {names}, and {{{{ for a brace"
    return None


def render(template: str, fields: Mapping[str, object], walltime: float) -> str:
    """The message of a template that has no problem, on one line; `{time}` is the walltime."""
    words = {name: plain(value) for name, value in fields.items()}
    return cut(one_line(template.format(**words, time=timestamp(walltime, "seconds"))))


def cut(text: str) -> str:
    """A text without what is too much of it."""
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def _for_json(value: Any) -> Any:
    """JSON has no NaN or infinity: they are the strings that Python's `float` reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _for_json(item) for name, item in value.items()}
    return [_for_json(item) for item in value] if isinstance(value, (list, tuple)) else value
