"""Reads the alerts of a run from alerts.jsonl, which the sink `alerts` writes; `docs/alerts.md` describes the file."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_sinks.runtime.sink import rank_folder

FILE_NAME: Final = "alerts.jsonl"

MAX_ALERTS: Final = 100
"""Maximum number of alerts that are kept."""

READ_BYTES: Final = 1 << 20
"""Maximum number of bytes that are read at once; of a larger file, only the end is read."""


@dataclass(frozen=True)
class AlertLine:
    """A line of the file: an alert has fired, or the alert with this `id` that fired earlier has cleared."""

    id: str
    rule: str
    severity: str
    is_cleared: bool
    message: str
    walltime: float
    """Seconds since the epoch."""
    attempt: int = 0
    """The attempt in which it fired."""


class AlertsReader:
    """Reads the alerts file of one rank as it grows; of attempts after `last_attempt`, no alerts are read."""

    def __init__(self, folder: Path, rank: int = 0, last_attempt: int | None = None) -> None:
        self._last_attempt = last_attempt
        self._path = rank_folder(folder, rank) / FILE_NAME
        self._offset = 0
        self._alerts: deque[AlertLine] = deque(maxlen=MAX_ALERTS)

    def read(self) -> list[AlertLine]:
        """Return the last alerts, the newest last; empty if there is no file. Invalid lines are skipped."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:  # the file was replaced
                    self._offset = 0
                    self._alerts.clear()
                self._offset = max(self._offset, size - READ_BYTES)
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except OSError:
            return list(self._alerts)
        complete = data[: data.rfind(b"\n") + 1]  # the last line may still be being written
        self._offset += len(complete)
        found = (alert for line in complete.splitlines() if (alert := parse_alert(line)))
        self._alerts.extend(
            alert for alert in found if self._last_attempt is None or alert.attempt <= self._last_attempt
        )
        return list(self._alerts)


def parse_alert(line: bytes) -> AlertLine | None:
    """Return the alert on a line, or None if the line is not an alert."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, Mapping) or fields.get("state") not in ("fired", "cleared"):
        return None
    return AlertLine(
        _text(fields, "id"),
        _text(fields, "rule"),
        _text(fields, "severity"),
        fields["state"] == "cleared",
        _text(fields, "message"),
        _number(fields.get("walltime")),
        int(_number(fields.get("attempt"))),
    )


def open_alerts(alerts: Iterable[AlertLine]) -> list[AlertLine]:
    """Return the alerts that have fired and not cleared since, in the order in which they fired."""
    fired: dict[str, AlertLine] = {}
    for alert in alerts:
        fired.pop(alert.id, None)
        if not alert.is_cleared:
            fired[alert.id] = alert
    return list(fired.values())


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else 0.0
