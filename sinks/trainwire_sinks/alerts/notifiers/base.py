"""The base class of notifiers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from trainwire_protocol.errors import SettingError
from trainwire_sinks.alerts.settings import Bounds
from trainwire_sinks.runtime.delivery_queue import Message
from trainwire_sinks.runtime.retry import SendPolicy


@dataclass(kw_only=True)
class Notifier:
    """A notifier of a rules file. Its settings are the fields of the dataclass."""

    kind: ClassVar[str]
    """The kind's name in the rules file."""

    timeout: Annotated[float, Bounds(above=0)] = 10.0
    retry_after: Annotated[float, Bounds(above=0)] = 1.0
    retry_at_most: Annotated[float, Bounds(above=0)] = 60.0

    @property
    def send_policy(self) -> SendPolicy:
        """When a failed delivery is retried."""
        return SendPolicy(self.retry_after, max(self.retry_after, self.retry_at_most), self.timeout)

    async def send(self, key: str, alert: Message) -> None:
        """Send an alert.

        Args:
            key: the idempotency key. The same alert may be sent more than once.
            alert: the map of a line of `alerts.jsonl`.

        Raises:
            DeliveryRefusedError: the receiver rejects the alert; it is not retried.
            Exception: the delivery failed and is retried.
        """
        raise NotImplementedError


def expand_environment(setting: str, text: str) -> str:
    """Replace `${NAME}` by the environment variable of that name, so that the file need not contain secrets.

    Raises:
        SettingError: the variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise SettingError((setting,), f"{setting} uses the environment variable {found[1]}, which is not set")
        return os.environ[found[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)
