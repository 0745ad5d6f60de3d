"""The file `alerts.jsonl`, which is also the outbox of the notifiers."""

from __future__ import annotations

import functools
import json
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
"""Maximum number of alerts that one notifier sends at the same time."""


MOMENT_SECONDS: Final = 1.0
"""An alert that clears within this time is one message if it has not been sent yet."""


class AlertsFile(Outbox):
    """The file `alerts.jsonl`: a line for each alert, written before its notifiers receive it.

    Args:
        path: the file.
        delivered_paths: the path of the files that record delivered alerts, with `{}` for a notifier's name.
        notifiers: the notifiers, by name. Each has a queue of its own, so that one that fails delays no other.
        max_age: seconds after which an alert is written but no longer sent.
    """

    def __init__(self, path: Path, delivered_paths: str, notifiers: Mapping[str, Notifier], max_age: float) -> None:
        self._queues = {
            name: DeliveryQueue(
                Path(delivered_paths.format(name)),
                functools.partial(_send_if_recent, notifier, max_age),
                notifier.send_policy,
                IN_FLIGHT,
                _predecessor,
            )
            for name, notifier in notifiers.items()
        }
        super().__init__(path, self._queues.values())

    async def fire(self, alert: Alert) -> None:
        """Write an alert, and send it after the next commit."""
        await self.add(alert.key, alert.to_json())

    def encode(self, key: str, message: Message) -> str:  # noqa: ARG002  # the message contains it
        """Return the line of an alert."""
        return json.dumps(message, allow_nan=False)

    def decode(self, line: bytes) -> tuple[str, Message]:
        """Return the key and the alert of a line.

        Raises:
            ValueError, TypeError, KeyError: the line is not an alert.
        """
        message = dict(json.loads(line))
        message |= {name: float(message[name]) for name in ("walltime", "fired_walltime")}
        message |= {"notifiers": list(message["notifiers"])}
        return f"{message['id']}/{message['state']}", message

    def enqueue(self, key: str, message: Message) -> None:
        """Pass an alert to its notifiers, except those that the rules file no longer has.

        An alert that cleared at once is one message, unless it was sent as fired before.
        """
        is_momentary = message["walltime"] - message["fired_walltime"] < MOMENT_SECONDS
        superseded = _predecessor(key) if is_momentary else None
        for name in message["notifiers"]:
            if name in self._queues:
                self._queues[name].add({key: message})
                if superseded is not None:
                    self._queues[name].withdraw(superseded)


def _predecessor(key: str) -> str | None:
    """Return the key that must be delivered before this one: an alert is reported as cleared only after it fired."""
    name, _, state = key.rpartition("/")
    return f"{name}/fired" if state == "cleared" else None


async def _send_if_recent(notifier: Notifier, max_age: float, key: str, alert: Message) -> None:
    if time.time() - alert["walltime"] <= max_age:
        await notifier.send(key, alert)
