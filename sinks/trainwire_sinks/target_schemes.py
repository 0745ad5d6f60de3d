"""The URL schemes that this package adds to TARGET; `trainwire_protocol.subscription.target` looks for them here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from trainwire_protocol.subscription.target import Target
from trainwire_sinks.nats.address import SCHEMES
from trainwire_sinks.nats.history import resolve_stream

RESOLVERS: Final[Mapping[str, Callable[[str], Target]]] = dict.fromkeys(SCHEMES, resolve_stream)
