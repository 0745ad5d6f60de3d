"""Where a reader gets what it did not see live: from the journal's files, or from the publisher by `fetch`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from trainwire_protocol.errors import IncompleteError, RequestError
from trainwire_protocol.journal.attempts import NOTHING, parse_position, read_resumed_from
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.records import RecordScanner
from trainwire_protocol.journal.run_folder import LEASE_SECONDS, Attempt, list_attempts
from trainwire_protocol.journal.segments import READ_BYTES, JournalReader
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.wire import Batch, Cursor

HELLO_SECONDS: Final = 2.0
"""How long a publisher has to say what it has."""

QUIET_SECONDS: Final = 0.5
"""How long a live feed may be quiet before the journal's files are looked at: that costs nobody else anything."""

QUIET_SECONDS_AWAY: Final = 3.0
"""How long it may be quiet before the publisher is asked, which costs that something for each of its readers."""

_Result = TypeVar("_Result")


class History(Protocol):
    """The attempts of one rank, read in order."""

    ended: bool
    """Whether the attempt that is read has recorded its last event, and that was read."""
    damages: list[str]
    """What could not be read, each with its place."""
    head: int | None
    """Seq of the last event that is held of the attempt that is read, as far as that is known once it is read."""

    is_at_end: bool
    """Whether the last read has come to where the record ended then."""
    is_released: bool
    """Whether the attempt that is read is known to have ended by itself, and so with a last event."""
    renewed: float | None
    """When the attempt's lease was last renewed, by its owner's clock: a sign of life where heartbeats do not come."""
    quiet_seconds: float
    """For how long a live feed may bring no batch before this is asked for more, and whether the attempt is over."""

    async def attempts(self) -> dict[int, Cursor | None]:
        """For each attempt the position that it says it resumes from.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def is_over(self, attempt: int) -> bool:
        """Whether nothing more can be recorded in it; False too if that cannot be known.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:
        """The next batches behind `after` of its attempt; none if there are none yet.

        `final` says that the attempt is over.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def close(self) -> None:
        """Let go of files and sockets."""


class ArchivedHistory(History, Protocol):
    """History from a log that remembers how far its readers are."""

    async def acknowledge(self, cursor: Cursor) -> None:
        """Take note that the reader has everything up to `cursor`."""


class JournalHistory:
    """History from the journal's files."""

    def __init__(self, run_folder: Path, rank: int, read_bytes: int = READ_BYTES) -> None:
        """Read from a run's folder, so many bytes at once."""
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        self.is_released = self.is_at_end = False
        self.renewed: float | None = None
        self.quiet_seconds = QUIET_SECONDS
        self._run_folder = run_folder
        self._rank, self._read_bytes = rank, read_bytes
        self._reader: JournalReader | None = None
        self._asked_for = -1

    async def attempts(self) -> dict[int, Cursor | None]:
        """For each attempt the position that it says it resumes from."""
        return await self._in_background(self._attempts)

    async def is_over(self, attempt: int) -> bool:
        """Whether another attempt follows, or its process has released it or is gone."""
        return await self._in_background(self._is_over, attempt)

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:
        """The next batches behind `after`."""
        return await self._in_background(self._read, after, final)

    async def close(self) -> None:
        """Close the segment that is read."""
        if self._reader:
            self._reader.close()

    async def _in_background(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        try:
            return await run_in_background(function, *arguments)
        except OSError as error:
            raise IncompleteError(f"the journal in {self._run_folder} cannot be read: {error}") from error

    def _attempts(self) -> dict[int, Cursor | None]:
        return {found.number: read_resumed_from(found) for found in list_attempts(self._run_folder, self._rank)}

    def _is_over(self, number: int) -> bool:
        attempt = self._find(number)
        if attempt is None:
            return False
        lease = attempt.read_lease()
        self.is_released = lease is not None and lease.released
        self.renewed = lease.renewed if lease else None
        if attempt.is_superseded():
            return True
        if lease is None:
            return time.time() - attempt.folder.stat().st_mtime > LEASE_SECONDS
        return lease.is_over()

    def _read(self, after: Cursor, final: bool) -> list[Batch]:
        attempt = self._find(after.attempt)
        if attempt is None:
            return []
        # The reader may be past what was asked for: what it has given and was not wanted is not read again.
        if self._reader is None or self._reader.folder != attempt.folder or after.seq < self._asked_for:
            if self._reader:
                self._reader.close()
            self._reader = JournalReader(attempt.folder, after.seq, self._read_bytes)
        self._asked_for = after.seq
        self._reader.after = max(self._reader.after, after.seq)
        batches = self._reader.read(final=final)
        self.ended, self.head = self._reader.ended, self._reader.head
        self.is_at_end = self._reader.is_at_end
        self.damages += map(str, self._reader.damages)
        self._reader.damages.clear()
        return batches

    def _find(self, number: int) -> Attempt | None:
        return next((found for found in list_attempts(self._run_folder, self._rank) if found.number == number), None)


class FetchHistory:
    """History from the publisher, for readers that cannot read its files."""

    def __init__(
        self,
        requester: Requester,
        channels: Collection[str],
        relocate: Callable[[], Awaitable[None]],
        credit: int = READ_BYTES,
    ) -> None:
        """Prepare to ask.

        Args:
            requester: asks the publisher.
            channels: those that are wanted.
            relocate: turns the requester to the publisher of a later attempt, if there is one.
            credit: bytes that are asked for at once.
        """
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        self.is_released = self.is_at_end = False
        self.renewed: float | None = None
        self.quiet_seconds = QUIET_SECONDS_AWAY
        self._requester, self._credit = requester, credit
        self._channels = sorted(channels)
        self._relocate = relocate
        self._scanned_to = Cursor(0, -1)
        self._process: ProcessIdentity | None = None

    async def attempts(self) -> dict[int, Cursor | None]:
        """For each attempt the position that it says it resumes from."""
        rows = (await self._hello()).get("attempts")
        if not isinstance(rows, tuple):
            raise RequestError(f"the publisher answered hello with attempts {rows!r:.60}")
        maps = [row for row in rows if isinstance(row, dict)]
        return {row["attempt"]: _position(row.get("from")) for row in maps if type(row.get("attempt")) is int}

    async def is_over(self, attempt: int) -> bool:
        """Whether the publisher is at a later attempt.

        Raises:
            TimeoutError: the publisher does not answer.
            IncompleteError: it never will: its process is gone from this host.
        """
        await self._relocate()
        try:
            hello = await self._hello()
        except TimeoutError:
            if self._process and self._process.is_gone():
                raise IncompleteError(
                    f"the publisher, process {self._process.pid}, is gone and cannot be asked for the rest: "
                    "read the run's folder instead"
                ) from None
            raise
        current = hello.get("attempt")
        return isinstance(current, int) and (current > attempt or (current == attempt and hello.get("over") is True))

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:  # noqa: ARG002  # the publisher knows
        """The next batches behind `after`."""
        # What was scanned and not wanted need not be scanned again.
        place = max(after, self._scanned_to) if self._scanned_to.attempt == after.attempt else after
        while True:
            head, batches = await self._fetch(place)
            scanned_to = head.get("scanned_to")
            if type(scanned_to) is not int:
                raise RequestError(f"the publisher answered fetch with scanned_to {scanned_to!r:.60}")
            self.ended, last = head.get("ended") is True, head.get("head")
            self.head = last if type(last) is int else None
            self.is_at_end = self.head is not None and scanned_to >= self.head
            moved, place = scanned_to > place.seq, Cursor(place.attempt, max(scanned_to, place.seq))
            self._scanned_to = place
            if batches or not moved:
                return batches

    async def close(self) -> None:
        """The requester belongs to the subscription."""

    async def _hello(self) -> dict[str, Any]:
        hello = await self._requester.hello(HELLO_SECONDS)
        # A relay's process can be started again.
        self._process = ProcessIdentity.from_fields(hello.get("process")) if hello.get("relay") is not True else None
        return hello

    async def _fetch(self, place: Cursor) -> tuple[dict[str, Any], list[Batch]]:
        head, frames = await self._requester.ask(
            "fetch", attempt=place.attempt, after=place.seq, channels=self._channels, credit=self._credit
        )
        scanner = RecordScanner()
        for frame in frames:
            scanner.feed(frame)
        batches = scanner.records(final=True)
        self.damages += [f"fetched bytes at {damage.offset}: {damage.reason}" for damage in scanner.damages]
        return head, batches


def _position(value: object) -> Cursor | None:
    if value is None:
        return None
    return parse_position(value) or NOTHING
