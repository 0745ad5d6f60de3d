"""Messages to whatever `apprise` can reach: mail, chats, phones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec

from trainwire_protocol.errors import MissingExtraError
from trainwire_protocol.journal.files import run_in_background
from trainwire_sinks.alerts.notifiers.base import Notifier, with_environment
from trainwire_sinks.alerts.settings import SettingError
from trainwire_sinks.runtime.delivery_queue import Message


@dataclass(kw_only=True)
class AppriseUrl(Notifier):
    """Sends a message to whatever apprise can reach by a URL: mail, chats, phones.

    The title has the severity and the rule. The URLs are described at https://appriseit.com.
    """

    kind = "apprise"

    url: str

    def __post_init__(self) -> None:
        if find_spec("apprise") is None:
            raise MissingExtraError("a notifier of kind apprise", "alerts", "apprise")
        import apprise

        self._service = apprise.Apprise()
        with apprise.LogCapture(level=logging.ERROR):  # type: ignore[no-untyped-call]  # it has no types
            is_known = self._service.add(with_environment("url", self.url))
        if not is_known:
            # It may hold a password, and is not repeated here.
            raise SettingError(("url",), "url is none that apprise knows: see https://appriseit.com")

    async def send(self, key: str, alert: Message) -> None:  # noqa: ARG002  # a chat has no use for it
        """Send it, on a thread that keeps nobody from ending."""
        await run_in_background(self._notify, alert)

    def _notify(self, alert: Message) -> None:
        import apprise

        kinds = {"info": "info", "warning": "warning", "critical": "failure"}
        kind = "success" if alert["state"] == "cleared" else kinds[alert["severity"]]
        with apprise.LogCapture(level=logging.WARNING) as words:  # type: ignore[no-untyped-call]  # it has no types
            is_sent = self._service.notify(
                title=f"{alert['severity']}: {alert['rule']}", body=alert["message"], notify_type=kind
            )
            told = words.getvalue().strip()
        if not is_sent:
            raise OSError(f"apprise could not deliver it: {told.splitlines()[-1][:200] if told else 'no reason given'}")
