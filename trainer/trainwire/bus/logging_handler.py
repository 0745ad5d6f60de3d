"""Records messages of Python's `logging` as events."""

from __future__ import annotations

import logging
import traceback
from typing import Final, Protocol

MAX_MESSAGE: Final = 32_000
"""Maximum length of a message or traceback, in characters; longer ones are cut."""


class _Publishes(Protocol):
    def publish(self, name: str, value: object, type: str, step: int | None = None) -> None: ...


class BusHandler(logging.Handler):
    """Records each message as an event of type `log`."""

    def __init__(self, bus: _Publishes, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._bus = bus

    def emit(self, record: logging.LogRecord) -> None:
        """Record a message; one that cannot be formatted is reported as `logging` does."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            value: dict[str, object] = {
                "level": record.levelname,
                "logger": record.name,
                "message": _shorten(record.getMessage()),
                "source": f"{record.filename}:{record.lineno}",
                "exception": _shorten("".join(traceback.format_exception(error))) if error else None,
            }
            if record.stack_info:
                value["stack"] = _shorten(record.stack_info)
        except Exception:
            self.handleError(record)
            return
        self._bus.publish("log", value, "log")


def _shorten(text: str) -> str:
    """Cut a text to the maximum length, without characters that cannot be encoded."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " …"
