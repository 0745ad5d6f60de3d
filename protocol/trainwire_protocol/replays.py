"""The places in journals from which those who `fetch` are answered, kept open from one slice to the next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from trainwire_protocol.errors import RequestError
from trainwire_protocol.journal import JournalReader
from trainwire_protocol.records import encode_record
from trainwire_protocol.run_folder import Attempt
from trainwire_protocol.wire import Batch

MAX_SCANNED_BYTES: Final = 2 << 20
"""Bytes of the journal that one `fetch` goes through at most to find what is wanted."""

MAX_REPLAYS: Final = 16
"""Places in the journal that are kept open between one `fetch` and the next."""


@dataclass
class Replay:
    """A place in an attempt's journal from which slices are taken."""

    reader: JournalReader
    ready: deque[Batch] = field(default_factory=deque)
    scanned_to: int = -1

    def take(self, channels: Collection[str], credit: int) -> list[bytes]:
        """The next records of these channels, as many as the credit allows, and one if it allows none."""
        records: list[bytes] = []
        scanned = 0
        while credit > 0 and scanned < MAX_SCANNED_BYTES and (self.ready or self._fill()):
            batch = self.ready.popleft()
            scanned += len(batch.body)
            if batch.header.channel in channels:
                record = encode_record(batch)
                if records and len(record) > credit:
                    self.ready.appendleft(batch)
                    break
                records.append(record)
                credit -= len(record)
            self.scanned_to = batch.cursor.seq
        return records

    def _fill(self) -> bool:
        self.ready.extend(self.reader.read())
        return bool(self.ready)


class Replays:
    """The places that were read last, by what is wanted behind them."""

    def __init__(self, attempts: Callable[[], Iterable[Attempt]]) -> None:
        """Prepare; `attempts` lists those that can be read."""
        self._attempts = attempts
        self._places: OrderedDict[tuple[int, int, tuple[str, ...]], Replay] = OrderedDict()
        self._room = MAX_REPLAYS

    def __len__(self) -> int:
        """How many places are open."""
        return len(self._places)

    def at(self, number: int, after: int, channels: tuple[str, ...]) -> Replay:
        """The place behind seq `after` of an attempt, for who reads these channels; the caller has it for itself.

        Raises:
            RequestError: there is no such attempt.
        """
        known = self._places.pop((number, after, channels), None)
        if known:
            return known
        attempt = next((attempt for attempt in self._attempts() if attempt.number == number), None)
        if attempt is None:
            raise RequestError(f"there is no attempt {number}")
        return Replay(JournalReader(attempt.folder, after), scanned_to=after)

    def keep(self, number: int, channels: tuple[str, ...], replay: Replay) -> None:
        """Keep a place for who reads on from there, in place of the one that was longest unused."""
        displaced = self._places.pop((number, replay.scanned_to, channels), None)
        if displaced:
            displaced.reader.close()
        self._places[number, replay.scanned_to, channels] = replay
        self._make_room()

    def close(self) -> None:
        """Let go of the journal's files; what is still being read is let go of when it is to be kept."""
        self._room = 0
        self._make_room()

    def _make_room(self) -> None:
        while len(self._places) > self._room:
            self._places.popitem(last=False)[1].reader.close()
