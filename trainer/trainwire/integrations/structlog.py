"""A processor for structlog."""

from __future__ import annotations

import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.logging_handler import shorten
from trainwire.integrations.requirement import checked_bus, require

require("structlog", "24", extra="structlog")

_KNOWN: Final = frozenset({"event", "level", "logger", "timestamp", "exc_info", "exception", "stack_info", "stack"})
"""Keys that are not fields of the user's."""


class TrainwireProcessor:
    """Publishes the messages of structlog, and passes them on: `structlog.configure(processors=[..., processor, ...])`.

    It belongs before the renderer, which makes a text of the message. The fields of a message are recorded as `fields`.
    A bus that is closed records nothing, and the messages are passed on.

    Args:
        bus: The open bus.

    Raises:
        MissingExtraError: if structlog is not installed or too old; raised when this module is imported.
        OptionError: if `bus` is not a bus.
    """

    def __init__(self, bus: EventBus) -> None:
        self.bus = checked_bus(bus, "TrainwireProcessor")

    def __call__(self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> Any:
        """Publish a message, and return it unchanged."""
        name = event_dict.get("logger") or getattr(logger, "name", None) or "structlog"
        value: dict[str, Any] = {
            "level": str(event_dict.get("level") or _LEVELS.get(method_name, method_name)).upper(),
            "logger": str(name),
            "message": shorten(str(event_dict.get("event", ""))),
            "exception": _traceback(event_dict),
        }
        stack = event_dict.get("stack")
        value |= {"stack": shorten(stack)} if isinstance(stack, str) else {}
        fields = {key: item for key, item in event_dict.items() if key not in _KNOWN and not key.startswith("_")}
        value |= {"fields": fields} if fields else {}
        self.bus.publish("log", value, "log")
        return event_dict


_LEVELS: Final = {"warn": "warning", "exception": "error", "msg": "info", "fatal": "critical"}


def _traceback(event_dict: MutableMapping[str, Any]) -> str | None:
    """Return the traceback of a message, which structlog may have formatted already."""
    formatted, error = event_dict.get("exception"), event_dict.get("exc_info")
    if isinstance(formatted, str):
        return shorten(formatted)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple) and len(error) == 3:
        error = error[1]
    return shorten("".join(traceback.format_exception(error))) if isinstance(error, BaseException) else None
