"""Sends alerts through apprise: to mail, chats, phones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec

from trainwire_protocol.errors import MissingExtraError, SettingError
from trainwire_protocol.journal.files import run_in_background
from trainwire_sinks.alerts.notifiers.base import Notifier, expand_environment
from trainwire_sinks.runtime.delivery_queue import Message


@dataclass(kw_only=True)
class AppriseUrl(Notifier):
    """Sends a message to any service that apprise supports: mail, chats, phones.

    The title contains the severity and the rule. The URLs are described at https://appriseit.com.
    """

    kind = "apprise"

    url: str

    def __post_init__(self) -> None:
        if find_spec("apprise") is None:
            raise MissingExtraError("a notifier of kind apprise", "alerts", "apprise")
        import apprise

        self._service = apprise.Apprise()
        with apprise.LogCapture(level=logging.ERROR):  # type: ignore[no-untyped-call]  # apprise is untyped
            is_supported = self._service.add(expand_environment("url", self.url))
        if not is_supported:
            # The URL may contain a password, so the message does not repeat it.
            raise SettingError(("url",), "apprise does not support this url: see https://appriseit.com")

    async def send(self, key: str, alert: Message) -> None:  # noqa: ARG002  # apprise has no idempotency key
        """Send the message, on a daemon thread."""
        await run_in_background(self._notify, alert)

    def _notify(self, alert: Message) -> None:
        import apprise

        types = {"info": "info", "warning": "warning", "critical": "failure"}
        notify_type = "success" if alert["state"] == "cleared" else types[alert["severity"]]
        with apprise.LogCapture(level=logging.WARNING) as log:  # type: ignore[no-untyped-call]  # apprise is untyped
            is_sent = self._service.notify(
                title=f"{alert['severity']}: {alert['rule']}", body=alert["message"], notify_type=notify_type
            )
            lines = log.getvalue().strip().splitlines()
        if not is_sent:
            reason = lines[-1][:200] if lines else "no reason given"
            raise OSError(f"apprise could not deliver the message: {reason}")
