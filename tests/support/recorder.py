"""Creates batches as a publisher does, for tests that need no publisher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, Header, encode_batch


class Recorder:
    """Numbers and packs the events of one attempt."""

    def __init__(self, run: str = "digits-1", rank: int = 0, attempt: int = 0) -> None:
        self.run, self.rank, self.attempt = run, rank, attempt
        self.seq = 0
        """Sequence number of the next event."""
        self.heads: dict[str, int] = {}

    def record(
        self, events: Sequence[Event], channel: str = "event", *, last: bool = False, unjournaled: bool = False
    ) -> Batch:
        """Return the events as the next batch of the attempt."""
        header = Header(
            self.run, self.rank, self.attempt, channel, self.seq, len(events), dict(self.heads), unjournaled, last
        )
        self.seq += len(events)
        self.heads[channel] = self.seq - 1
        return encode_batch(header, events)

    def scalars(self, count: int = 1, channel: str = "event") -> Batch:
        """Return a batch of `count` scalars whose values are their sequence numbers."""
        return self.record([scalar(self.seq + number) for number in range(count)], channel)

    def happened(self, name: str, **value: Any) -> Batch:
        """Return a batch of one lifecycle event, marked as last if it ends the run."""
        last = name in ("run/finished", "run/failed", "run/interrupted")
        return self.record([Event(name, value, "lifecycle", 1.75e9, 0)], last=last)


def scalar(number: int) -> Event:
    """Return a scalar that is identified by its value."""
    return Event("train/loss", float(number), "scalar", 1.75e9 + number, number)


def frames(batches: Sequence[Batch]) -> list[tuple[bytes, bytes]]:
    """Return the bytes of batches that must be the same wherever they are read."""
    return [(batch.header_bytes, batch.body) for batch in batches]
