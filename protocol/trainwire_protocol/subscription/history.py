"""The sources of the batches that a reader did not receive live: the journal's files, or `fetch` requests."""

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
"""Time within which a publisher must reply to `hello`."""

JOURNAL_QUIET_SECONDS: Final = 0.5
"""Silence of the live feed after which the journal's files are read; reading them costs the publisher nothing."""

FETCH_QUIET_SECONDS: Final = 3.0
"""Silence of the live feed after which the publisher is asked; each reader that asks costs it time."""

_Result = TypeVar("_Result")


class History(Protocol):
    """The attempts of one rank, read in order.

    After a `read`, the attributes describe the attempt that was read.
    """

    ended: bool
    """Whether the attempt's last event was recorded, and has been read."""
    damages: list[str]
    """The ranges that could not be read, each with its location; the caller clears the list."""
    head: int | None
    """Seq of the last event known to be recorded in the attempt."""
    is_at_end: bool
    """Whether the last `read` reached the end of what was recorded then."""
    is_released: bool
    """Whether the publisher closed the attempt properly, so that it should have a last event."""
    renewed: float | None
    """When the attempt's lease was last renewed, by its owner's clock: a sign of life where no heartbeats arrive."""
    quiet_seconds: float
    """For how long the live feed may bring no batch before the reader returns to the history."""

    async def attempts(self) -> dict[int, Cursor | None]:
        """Return the number of each attempt, with the position that it resumed from.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def is_over(self, attempt: int) -> bool:
        """Return whether nothing more can be recorded in an attempt; False if that is unknown.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:
        """Return the next batches after a cursor, in the cursor's attempt; none if there are none yet.

        `final` means that the attempt is over.

        Raises:
            TimeoutError: the publisher does not answer.
        """

    async def close(self) -> None:
        """Close files and sockets."""


class ArchivedHistory(History, Protocol):
    """The history in an archive, which remembers its readers' positions."""

    async def acknowledge(self, cursor: Cursor) -> None:
        """Record that the reader has everything up to a cursor."""


class JournalHistory:
    """The history in the journal's files."""

    def __init__(self, run_folder: Path, rank: int, read_bytes: int = READ_BYTES) -> None:
        """Read a rank of the run in a folder, `read_bytes` at a time."""
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        self.is_released = self.is_at_end = False
        self.renewed: float | None = None
        self.quiet_seconds = JOURNAL_QUIET_SECONDS
        self._run_folder, self._rank, self._read_bytes = run_folder, rank, read_bytes
        self._reader: JournalReader | None = None
        self._requested_after = -1

    async def attempts(self) -> dict[int, Cursor | None]:
        """Return the number of each attempt, with the position that it resumed from."""
        return await self._in_background(
            lambda: {found.number: read_resumed_from(found) for found in list_attempts(self._run_folder, self._rank)}
        )

    async def is_over(self, attempt: int) -> bool:
        """Return whether another attempt follows, or the attempt's process has released it or is gone."""
        return await self._in_background(self._is_over, attempt)

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:
        """Return the next batches after a cursor."""
        return await self._in_background(self._read, after, final)

    async def close(self) -> None:
        """Close the journal's files."""
        if self._reader:
            self._reader.close()

    async def _in_background(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        try:
            return await run_in_background(function, *arguments)
        except OSError as error:
            raise IncompleteError(f"the journal in {self._run_folder} cannot be read: {error}") from error

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
        # The reader may be past `after`: batches of other channels, which move no cursor, are not read again.
        if self._reader is None or self._reader.folder != attempt.folder or after.seq < self._requested_after:
            if self._reader:
                self._reader.close()
            self._reader = JournalReader(attempt.folder, after.seq, self._read_bytes)
        self._requested_after = after.seq
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
    """The history from the publisher, for readers that cannot read its files."""

    def __init__(
        self,
        requester: Requester,
        channels: Collection[str],
        reconnect: Callable[[], Awaitable[None]],
        credit: int = READ_BYTES,
    ) -> None:
        """Read from a publisher.

        Args:
            requester: the connection to the publisher; the caller closes it.
            channels: the channels to read.
            reconnect: connects the requester to the publisher of the run's latest attempt.
            credit: number of bytes to request at a time.
        """
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        self.is_released = self.is_at_end = False
        self.renewed: float | None = None
        self.quiet_seconds = FETCH_QUIET_SECONDS
        self._requester, self._channels, self._credit = requester, sorted(channels), credit
        self._reconnect = reconnect
        self._scanned_to = Cursor(0, -1)
        self._process: ProcessIdentity | None = None

    async def attempts(self) -> dict[int, Cursor | None]:
        """Return the number of each attempt, with the position that it resumed from."""
        rows = (await self._hello()).get("attempts")
        if not isinstance(rows, tuple):
            raise RequestError(f"the publisher replied to hello with attempts {rows!r:.60}")
        maps = [row for row in rows if isinstance(row, dict)]
        return {row["attempt"]: _parse_resumed_from(row.get("from")) for row in maps if type(row.get("attempt")) is int}

    async def is_over(self, attempt: int) -> bool:
        """Return whether the publisher has begun a later attempt, or says that this one is over.

        Raises:
            TimeoutError: the publisher does not answer.
            IncompleteError: the publisher never will answer, since its process on this host is gone.
        """
        await self._reconnect()
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

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:  # noqa: ARG002  # the publisher knows it
        """Return the next batches after a cursor."""
        # What was scanned for other channels need not be scanned again.
        position = max(after, self._scanned_to) if self._scanned_to.attempt == after.attempt else after
        while True:
            head, batches = await self._fetch(position)
            scanned_to = head.get("scanned_to")
            if type(scanned_to) is not int:
                raise RequestError(f"the publisher replied to fetch with scanned_to {scanned_to!r:.60}")
            self.ended, last = head.get("ended") is True, head.get("head")
            self.head = last if type(last) is int else None
            self.is_at_end = self.head is not None and scanned_to >= self.head
            has_advanced = scanned_to > position.seq
            self._scanned_to = position = Cursor(position.attempt, max(scanned_to, position.seq))
            if batches or not has_advanced:
                return batches

    async def close(self) -> None:
        """Do nothing: the requester belongs to the source."""

    async def _hello(self) -> dict[str, Any]:
        hello = await self._requester.hello(HELLO_SECONDS)
        # The process of a relay is not noted: another one can continue its work.
        self._process = ProcessIdentity.from_fields(hello.get("process")) if hello.get("relay") is not True else None
        return hello

    async def _fetch(self, position: Cursor) -> tuple[dict[str, Any], list[Batch]]:
        head, frames = await self._requester.request(
            "fetch", attempt=position.attempt, after=position.seq, channels=self._channels, credit=self._credit
        )
        scanner = RecordScanner()
        for frame in frames:
            scanner.feed(frame)
        batches = scanner.records(final=True)
        self.damages += [f"fetched bytes at {damage.offset}: {damage.reason}" for damage in scanner.damages]
        return head, batches


def _parse_resumed_from(value: object) -> Cursor | None:
    if value is None:
        return None
    return parse_position(value) or NOTHING
