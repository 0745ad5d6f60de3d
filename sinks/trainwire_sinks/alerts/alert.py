"""Alerts, as they are stored and sent, and the templates of their messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from string import Formatter
from typing import Any, Final, Literal, TypeAlias

from trainwire_sinks.text.format import number, one_line, plain, timestamp

Severity: TypeAlias = Literal["info", "warning", "critical"]

COMMON_FIELDS: Final = ("rule", "severity", "run", "rank", "step", "time")
"""Fields that every message can use, besides those of its rule's kind."""

MAX_MESSAGE_CHARACTERS: Final = 2000
"""Longer messages are truncated."""


@dataclass(frozen=True)
class Position:
    """The position of an event in a run, with its time and step."""

    run: str
    rank: int
    attempt: int
    seq: int
    walltime: float
    step: int


@dataclass(frozen=True)
class Alert:
    """An alert that has fired or cleared. Its fields are those of a line of `alerts.jsonl`; see `docs/alerts.md`."""

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
        """The idempotency key, which is unique to this message."""
        return f"{self.id}/{self.state}"

    def cleared(self, walltime: float, step: int) -> Alert:
        """Return this alert as cleared, with a message that says so."""
        message = f"cleared after {number(round(max(0.0, walltime - self.walltime), 1))} s: {self.message}"
        return replace(self, state="cleared", message=truncate(message), walltime=walltime, step=step)

    def to_json(self) -> dict[str, Any]:
        """Return the map that is written to `alerts.jsonl` and posted to webhooks."""
        fields = asdict(self) | {"time": timestamp(self.walltime)}
        return {name: _json_value(value) for name, value in fields.items()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Alert:
        """Return the alert with these fields, as JSON stores them."""
        return cls(**{**fields, "notifiers": tuple(fields["notifiers"])})


def template_problem(template: str, known: tuple[str, ...]) -> str | None:
    """Return what is wrong with a template, which may contain only known fields in braces; None if it is valid."""
    choices = f"the fields are {', '.join(f'{{{name}}}' for name in sorted(known))}; write {{{{ for a brace"
    try:
        for _, field, specification, conversion in Formatter().parse(template):
            if field is not None and field not in known:
                return f"unknown field {{{field[:80]}}}: {choices}"
            if specification or conversion:
                return f"the field {{{field}}} has a conversion or a format, which is not supported: {choices}"
    except ValueError as error:
        return f"invalid template ({error}): {choices}"
    return None


def render(template: str, fields: Mapping[str, object], walltime: float) -> str:
    """Return the message of a valid template, on one line; `{time}` is the walltime."""
    values = {name: plain(value) for name, value in fields.items()}
    return truncate(one_line(template.format(**values, time=timestamp(walltime, "seconds"))))


def truncate(text: str) -> str:
    """Return the text, shortened to `MAX_MESSAGE_CHARACTERS`."""
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def _json_value(value: Any) -> Any:
    """Replace NaN and the infinities, which JSON does not have, by the strings that Python's `float` accepts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, (list, tuple)) else value
