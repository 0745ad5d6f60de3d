"""The sources of one rank's batches: a history, and a live feed while there is a publisher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import zmq.asyncio

from trainwire_protocol.errors import ConnectionFileError, IncompleteError, RequestError, TargetError, TrainwireError
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import READ_BYTES
from trainwire_protocol.subscription.history import ArchivedHistory, FetchHistory, History, JournalHistory
from trainwire_protocol.subscription.target import Target, suggest_run
from trainwire_protocol.transport.auth import ClientKeys
from trainwire_protocol.transport.connection import Connection, is_endpoint, read_connection_of
from trainwire_protocol.transport.key_files import keys_to
from trainwire_protocol.transport.live import HIGH_WATER_MARK, LiveFeed
from trainwire_protocol.transport.polling import CoalescingSelector
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.wire import Cursor


@dataclass(frozen=True)
class SourceOptions:
    """Which stream to read, and how."""

    target: Target
    rank: int = 0
    channels: Collection[str] = ("event",)
    use_journal: bool = True
    """False reads the history by `fetch` even if the journal's files are available."""
    high_water_mark: int = HIGH_WATER_MARK
    """Live messages queued for this reader before more are dropped."""
    read_ahead_bytes: int = READ_BYTES
    """Bytes of the history that are read at a time, and that may wait for the reader."""
    context: zmq.asyncio.Context | None = None
    """The context of the sockets, if many sources share it; None opens one for this source."""
    selector: CoalescingSelector | None = None
    """Polls the sockets of the live feeds, if many sources share one."""
    raw: bool = False
    """True returns batches without decoding their events, to copy them."""


class Source:
    """Opens the history and the live feed of a target, as they become available."""

    def __init__(self, options: SourceOptions) -> None:
        """Start without files or sockets open."""
        self.options = options
        self.live: LiveFeed | None = None
        self.requester: Requester | None = None
        self.history: History | None = None
        self._context = options.context or zmq.asyncio.Context()
        self._live_attempt = -1
        self._malformed = 0
        self._archived: ArchivedHistory | None = None

    @property
    def malformed(self) -> int:
        """Live messages that could not be decoded, and were skipped."""
        return self._malformed + (self.live.malformed if self.live else 0)

    @property
    def silence_reason(self) -> str:
        """Why no batches arrive if there is no live feed, as the reader reports it."""
        return "no new events arrive" if self._archived else "its publisher cannot be reached"

    def no_run_error(self, reason: str = "") -> TrainwireError:
        """Return the error to raise if there is no run and the reader does not wait for one."""
        target = self.options.target
        if target.folder is None:
            return IncompleteError(f"no publisher answers at {target}" + (f": {reason}" if reason else ""))
        return TargetError(f"there is no run of rank {self.options.rank} in {target}{suggest_run(target.folder)}")

    async def acknowledge(self, cursor: Cursor, name: str | None) -> bool:
        """Report the position of the reader called `name` to the publisher or to the archive.

        Returns False if neither is available yet.

        Raises:
            TimeoutError: the publisher does not answer.
            RequestError: it refuses the acknowledgement.
        """
        if self._archived:
            await self._archived.acknowledge(cursor)
        elif self.requester and name:
            await self.requester.request("ack", sink=name, attempt=cursor.attempt, seq=cursor.seq, timeout=1.0)
        else:
            return False
        return True

    async def open(self) -> History | None:
        """Return the history of the run, or None if there is no run yet."""
        if self.history is None:
            options = self.options
            folder, archive = options.target.folder, options.target.archive
            if archive is not None:
                self.history = self._archived = archive.open(options.rank, options.channels)
            elif folder is not None and options.use_journal:
                if await run_in_background(list_attempts, folder, options.rank):
                    self.history = JournalHistory(folder, options.rank, options.read_ahead_bytes)
            elif requester := self._connect_requester(await self._read_connection()):
                self.history = FetchHistory(requester, options.channels, self._reconnect, options.read_ahead_bytes)
        return self.history

    async def connect(self, attempt: int) -> LiveFeed | None:
        """Return the live feed of an attempt, or None if its publisher cannot be reached."""
        if self.live and self._live_attempt == attempt:
            return self.live
        self.disconnect()
        publisher = await self._find_publisher(attempt)
        if publisher:
            run, endpoint, keys = publisher
            options = self.options
            self.live = LiveFeed(
                self._context, endpoint, run, options.rank, options.channels, options.high_water_mark, keys,
                raw=options.raw, selector=options.selector,
            )  # fmt: skip
            self._live_attempt = attempt
        return self.live

    def disconnect(self) -> None:
        """Close the live feed."""
        if self.live:
            self._malformed = self.malformed
            self.live.close()
            self.live = None

    async def close(self) -> None:
        """Close all files and sockets."""
        self.disconnect()
        if self.history:
            await self.history.close()
        if self.requester:
            await self.requester.close()
        # Not `term`, which would wait forever for a socket that could not be connected.
        if self._context is not self.options.context:
            self._context.destroy(linger=0)

    async def _find_publisher(self, attempt: int) -> tuple[str, str, ClientKeys | None] | None:
        """Return the run's name, the PUB socket's endpoint and the keys to it."""
        connection = await self._read_connection()
        if connection:
            if connection.attempt != attempt or not await run_in_background(connection.is_reachable):
                return None
            self._connect_requester(connection)
            return connection.run, connection.publish, connection.keys
        if self.requester is None:
            return None
        hello = await self.requester.hello()
        run, endpoint = hello.get("run"), hello.get("publish")
        if not isinstance(run, str) or not is_endpoint(endpoint):
            address = self.options.target.request
            raise RequestError(f"{address} replied to hello with run {run!r:.60} and publish {endpoint!r:.60}")
        return (run, str(endpoint), self.requester.keys) if hello.get("attempt") == attempt else None

    async def _reconnect(self) -> None:
        """Send further requests to the publisher that the connection file names now."""
        self._connect_requester(await self._read_connection())

    def _connect_requester(self, connection: Connection | None) -> Requester | None:
        endpoint = connection.request if connection else self.options.target.request
        if endpoint is None:
            return self.requester
        keys = connection.keys if connection else keys_to(endpoint)
        if self.requester:
            self.requester.connect(endpoint, keys)
        else:
            self.requester = Requester(self._context, endpoint, keys)
        return self.requester

    async def _read_connection(self) -> Connection | None:
        """Return the content of the connection file, or None if there is none that can be read."""
        folder = self.options.target.folder
        if folder is None:
            return self.options.target.connection
        try:
            return await run_in_background(read_connection_of, folder, self.options.rank)
        except ConnectionFileError:
            return None
