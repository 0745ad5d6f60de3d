"""The alerts of a run, in a file that is their outbox as well."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trainwire_sinks.alerts.alert import Alert
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.runtime.delivery_queue import DeliveryQueue, Message
from trainwire_sinks.runtime.outbox import Outbox

FILE_NAME: Final = "alerts.jsonl"

IN_FLIGHT: Final = 4
"""Alerts that one notifier is telling at once."""

logger = logging.getLogger("trainwire")


class AlertsFile(Outbox):
    """The file `alerts.jsonl`: a line for each alert, which is written before its notifiers are given it.

    Args:
        path: the file.
        marks: where it is noted what has arrived: a path with `{}` for a notifier's name.
        notifiers: by their names. Each has a courier of its own, so that one that is down delays no other.
        max_age: seconds after which an alert is no news any more: it is in the file, and told to nobody.
    """

    def __init__(self, path: Path, marks: str, notifiers: Mapping[str, Notifier], max_age: float) -> None:
        self._by_name = {
            name: DeliveryQueue(
                Path(marks.format(name)),
                functools.partial(_tell, notifier, max_age),
                notifier.persistence,
                IN_FLIGHT,
                news_before,
            )
            for name, notifier in notifiers.items()
        }
        super().__init__(path, self._by_name.values())

    async def fire(self, alert: Alert) -> None:
        """Write an alert down, and have it told."""
        await self.add(alert.key, alert.to_json())

    def encode(self, key: str, message: Message) -> str:  # noqa: ARG002  # it is in the message
        """An alert's line."""
        return json.dumps(message, allow_nan=False)

    def decode(self, line: bytes) -> tuple[str, Message]:
        """The alert of a line.

        Raises:
            ValueError, TypeError, KeyError: it is none.
        """
        message = dict(json.loads(line))
        message |= {"notifiers": list(message["notifiers"]), "walltime": float(message["walltime"])}
        return f"{message['id']}/{message['state']}", message

    def hand_over(self, key: str, message: Message) -> None:
        """Give it to its notifiers, but for those that the rules file no longer has."""
        for name in message["notifiers"]:
            if name in self._by_name:
                self._by_name[name].take_up({key: message})


def news_before(key: str) -> str | None:
    """That an alert has cleared is no news to who does not know of it."""
    name, _, state = key.rpartition("/")
    return f"{name}/fired" if state == "cleared" else None


async def _tell(notifier: Notifier, max_age: float, key: str, alert: Message) -> None:
    if time.time() - alert["walltime"] <= max_age:
        await notifier.send(key, alert)
