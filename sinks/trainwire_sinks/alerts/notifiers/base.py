"""What a notifier is: it tells an alert to somebody."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from trainwire_sinks.alerts.settings import Bounds, SettingError
from trainwire_sinks.runtime.delivery_queue import Message, Persistence


@dataclass(kw_only=True)
class Notifier:
    """One notifier of a rules file: its settings are those of its table."""

    kind: ClassVar[str]
    """What the rules file calls it."""

    timeout: Annotated[float, Bounds(above=0)] = 10.0
    retry_after: Annotated[float, Bounds(above=0)] = 1.0
    retry_at_most: Annotated[float, Bounds(above=0)] = 60.0

    @property
    def persistence(self) -> Persistence:
        """How it is tried again."""
        return Persistence(self.timeout, self.retry_after, max(self.retry_after, self.retry_at_most))

    async def send(self, key: str, alert: Message) -> None:
        """Tell an alert, a map as it stands in `alerts.jsonl`.

        Args:
            key: what tells it from every other one; it may come a second time.
            alert: what to tell.

        Raises:
            RefusedError: trying again is of no use.
            Exception: it has to be tried again.
        """
        raise NotImplementedError


def with_environment(setting: str, text: str) -> str:
    """A setting with the environment's variables in place of `${NAME}`: secrets need not stand in the file.

    Raises:
        SettingError: there is no such variable.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise SettingError((setting,), f"{setting} names the environment's variable {found[1]}, which is not set")
        return os.environ[found[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)
