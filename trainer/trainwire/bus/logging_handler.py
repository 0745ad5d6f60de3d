"""Python's `logging` onto the bus."""

from __future__ import annotations

import logging
import traceback
from typing import Final, Protocol

MAX_MESSAGE: Final = 32_000
"""Longest message or traceback, in characters; more is cut off."""


class _Publishes(Protocol):
    def publish(self, name: str, value: object, type: str, step: int | None = None) -> None: ...


class BusHandler(logging.Handler):
    """Records each log record as an event of type `log`, named by its logger."""

    def __init__(self, bus: _Publishes, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._bus = bus

    def emit(self, record: logging.LogRecord) -> None:
        """Record it; a record that cannot be formatted is reported as `logging` does."""
        try:
            value = {
                "level": record.levelname,
                "logger": record.name,
                "message": _cut(record.getMessage()),
                "source": f"{record.filename}:{record.lineno}",
                "exception": _exception(record),
            }
        except Exception:
            self.handleError(record)
            return
        self._bus.publish("log", value, "log")


def _exception(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    return _cut("".join(traceback.format_exception(record.exc_info[1])))


def _cut(text: str) -> str:
    text = text.encode(errors="replace").decode()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " …"
