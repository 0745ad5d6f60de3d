"""A sink for Loguru."""

from __future__ import annotations

import traceback
from typing import Any

from trainwire.bus.bus import EventBus
from trainwire.bus.logging_handler import shorten
from trainwire.integrations.requirement import checked_bus, require

require("loguru", "0.7", extra="loguru")


class TrainwireSink:
    """Publishes the messages of Loguru: `logger.add(TrainwireSink(bus), level="INFO")`.

    What `bind` and the arguments of a message add to it is recorded as `fields`. A bus that is closed records nothing.

    Args:
        bus: The open bus.

    Raises:
        MissingExtraError: if Loguru is not installed or too old; raised when this module is imported.
        OptionError: if `bus` is not a bus.
    """

    def __init__(self, bus: EventBus) -> None:
        self.bus = checked_bus(bus, "TrainwireSink")

    def __call__(self, message: Any) -> None:
        """Publish a message."""
        record = message.record
        exception = record["exception"]
        value: dict[str, Any] = {
            "level": record["level"].name,
            "logger": record["name"] or "loguru",
            "message": shorten(record["message"]),
            "source": f"{record['file'].name}:{record['line']}",
            "exception": None,
        }
        if exception is not None and exception.type is not None:
            value["exception"] = shorten("".join(traceback.format_exception(*exception)))
        if record["extra"]:
            value["fields"] = dict(record["extra"])
        self.bus.publish("log", value, "log")
