"""Makes batches as a publisher does, for tests that need no publisher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, Header, encode_batch


class Recorder:
    """Numbers the events of one attempt, and packs them."""

    def __init__(self, run: str = "digits-1", rank: int = 0, attempt: int = 0) -> None:
        self.run, self.rank, self.attempt = run, rank, attempt
        self.seq = 0
        """Of the next event."""
        self.heads: dict[str, int] = {}

    def record(
        self, events: Sequence[Event], channel: str = "event", *, last: bool = False, unjournaled: bool = False
    ) -> Batch:
        """The events as the attempt's next batch."""
        header = Header(
            self.run, self.rank, self.attempt, channel, self.seq, len(events), dict(self.heads), unjournaled, last
        )
        self.seq += len(events)
        self.heads[channel] = self.seq - 1
        return encode_batch(header, events)

    def scalars(self, count: int = 1, channel: str = "event") -> Batch:
        """A batch of so many scalars, numbered by their values."""
        return self.record([scalar(self.seq + number) for number in range(count)], channel)

    def happened(self, name: str, **value: Any) -> Batch:
        """A batch of one lifecycle event; the last one, if its name says so."""
        last = name in ("run/finished", "run/failed", "run/interrupted")
        return self.record([Event(name, value, "lifecycle", 1.75e9, 0)], last=last)


def scalar(number: int) -> Event:
    """A scalar that is known by its value."""
    return Event("train/loss", float(number), "scalar", 1.75e9 + number, number)


def frames(batches: Sequence[Batch]) -> list[tuple[bytes, bytes]]:
    """What of batches has to be the same wherever they are read."""
    return [(batch.header_bytes, batch.body) for batch in batches]
