"""Prints alerts on the sink's terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from trainwire_protocol.errors import DeliveryRefusedError
from trainwire_protocol.journal.files import run_in_background
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.runtime.delivery_queue import Message
from trainwire_sinks.text.terminal import has_colors

_COLORS: Final = {"info": "36", "warning": "33", "critical": "1;31", "cleared": "32"}
"""By severity, and for any alert that has cleared (ECMA-48, Select Graphic Rendition)."""


@dataclass(kw_only=True)
class Terminal(Notifier):
    """Writes a line to standard error: the time, the severity, the rule and the message.

    A notifier of this kind with the name `terminal` always exists.
    """

    kind = "terminal"

    async def send(self, key: str, alert: Message) -> None:  # noqa: ARG002  # a reader recognizes a repeated line
        """Write the line, on a thread, since output to a terminal can be suspended."""
        await run_in_background(_write, alert)


def format_line(alert: Message, *, colors: bool) -> str:
    """Return the line of an alert."""
    is_cleared = alert["state"] == "cleared"
    severity = f"{alert['severity'].upper():<8}"
    if colors:
        severity = f"\x1b[{_COLORS['cleared' if is_cleared else alert['severity']]}m{severity}\x1b[0m"
    return f"{alert['time']} {severity} {alert['rule']}: {alert['message']}\n"


def _write(alert: Message) -> None:
    try:
        sys.stderr.write(format_line(alert, colors=has_colors(sys.stderr)))
        sys.stderr.flush()
    except (OSError, ValueError) as error:
        raise DeliveryRefusedError(f"standard error is closed: {error}") from error
