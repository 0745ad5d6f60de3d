"""The kinds of notifiers, with a module for each; may use `runtime`, `text` and the modules of `alerts`."""

from __future__ import annotations

from typing import Final

from trainwire_sinks.alerts.notifiers.apprise_url import AppriseUrl
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.alerts.notifiers.command import Command
from trainwire_sinks.alerts.notifiers.terminal import Terminal
from trainwire_sinks.alerts.notifiers.webhook import Webhook

_CLASSES: Final[tuple[type[Notifier], ...]] = (AppriseUrl, Webhook, Command, Terminal)

KINDS: Final[dict[str, type[Notifier]]] = {notifier.kind: notifier for notifier in _CLASSES}
"""The notifiers by their kind's name in the rules file."""
