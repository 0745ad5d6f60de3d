"""Records messages of Python's `logging` as events."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from trainwire.bus.logging_context import OpenBus, current_buses

MAX_MESSAGE: Final = 32_000
"""Maximum length of a message or traceback, in characters; longer ones are cut."""


class BusHandler(logging.Handler):
    """Records messages as events of type `log`.

    If the handlers of several buses receive a message, only one records it: that of the innermost open bus to which the
    code belongs, or the one that was added first if it belongs to none of them, as in a thread of the program's own.
    """

    def __init__(self, bus: OpenBus, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._bus = bus

    def emit(self, record: logging.LogRecord) -> None:
        """Record a message that belongs here; one that cannot be formatted is reported as `logging` does."""
        if not self._is_recipient(record):
            return
        try:
            error = record.exc_info[1] if record.exc_info else None
            value: dict[str, object] = {
                "level": record.levelname,
                "logger": record.name,
                "message": shorten(record.getMessage()),
                "source": f"{record.filename}:{record.lineno}",
                "exception": shorten("".join(traceback.format_exception(error))) if error else None,
            }
            if record.stack_info:
                value["stack"] = shorten(record.stack_info)
        except Exception:
            self.handleError(record)
            return
        self._bus.publish("log", value, "log")

    def _is_recipient(self, record: logging.LogRecord) -> bool:
        handlers = [handler for handler in _handlers_of(record.name) if handler._bus.is_open]
        if self not in handlers:  # the message arrived in another way, such as through a queue
            return True
        buses = current_buses()
        return self is min(handlers, key=lambda handler: _position(buses, handler._bus))


def _handlers_of(name: str) -> Iterator[BusHandler]:
    """Yield the handlers that receive the messages of a logger, in the order in which they are called."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger:
        yield from (handler for handler in logger.handlers if isinstance(handler, BusHandler))
        logger = logger.parent if logger.propagate else None


def _position(buses: Sequence[OpenBus], bus: OpenBus) -> int:
    return buses.index(bus) if bus in buses else len(buses)


def shorten(text: str) -> str:
    """Return a text cut to the maximum length, without characters that cannot be encoded."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " …"
