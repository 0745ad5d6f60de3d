"""The alerts of a run, as the alerts sink leaves them in alerts.jsonl: `docs/alerts.md` describes its lines."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_sinks.runtime.base import rank_folder

FILE_NAME: Final = "alerts.jsonl"

MAX_ALERTS: Final = 100
"""Alerts that are kept."""

READ_BYTES: Final = 1 << 20
"""How much is read of the file at once; of a longer one the end is enough."""


@dataclass(frozen=True)
class Alert:
    """What a rule has found; that it has cleared is said by another with the same `id`."""

    id: str
    rule: str
    severity: str
    is_cleared: bool
    message: str
    walltime: float
    """Seconds since the epoch."""


class AlertsFile:
    """Follows the file of one rank as it grows."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self._path = rank_folder(folder, rank) / FILE_NAME
        self._place = 0
        self._alerts: deque[Alert] = deque(maxlen=MAX_ALERTS)

    def read(self) -> list[Alert]:
        """The last alerts, the newest last; none if there is no such file, and lines that are no alerts are skipped."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._place:
                    self._place = 0
                    self._alerts.clear()
                self._place = max(self._place, size - READ_BYTES)
                file.seek(self._place)
                data = file.read(READ_BYTES)
        except OSError:
            return list(self._alerts)
        # The last line may be on its way.
        complete = data[: data.rfind(b"\n") + 1]
        self._place += len(complete)
        self._alerts.extend(alert for line in complete.splitlines() if (alert := parse_alert(line)))
        return list(self._alerts)


def parse_alert(line: bytes) -> Alert | None:
    """The alert on a line, or None if it holds none."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, Mapping) or fields.get("state") not in ("fired", "cleared"):
        return None
    return Alert(
        _text(fields, "id"),
        _text(fields, "rule"),
        _text(fields, "severity"),
        fields["state"] == "cleared",
        _text(fields, "message"),
        _number(fields.get("walltime")),
    )


def open_alerts(alerts: list[Alert]) -> list[Alert]:
    """Those that have fired and not cleared since, in the order in which they fired."""
    unsettled: dict[str, Alert] = {}
    for alert in alerts:
        unsettled.pop(alert.id, None)
        if not alert.is_cleared:
            unsettled[alert.id] = alert
    return list(unsettled.values())


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else 0.0
