"""Where a reader of one rank's stream gets its batches: a history, and a live feed while there is a publisher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import zmq.asyncio

from trainwire_protocol.errors import ConnectionFileError, IncompleteError, RequestError, TargetError, TrainwireError
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import READ_BYTES
from trainwire_protocol.subscription.history import ArchivedHistory, FetchHistory, History, JournalHistory
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys
from trainwire_protocol.transport.connection import Connection, connection_path, is_endpoint, read_connection
from trainwire_protocol.transport.key_files import keys_to
from trainwire_protocol.transport.live import HIGH_WATER_MARK, LiveFeed
from trainwire_protocol.transport.polling import Gatherer
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.wire import Cursor


@dataclass(frozen=True)
class Wanted:
    """Which stream is wanted, and how it is got."""

    target: Target
    rank: int = 0
    channels: Collection[str] = ("event",)
    use_journal: bool = True
    """False to get history by `fetch` though the journal could be read."""
    high_water_mark: int = HIGH_WATER_MARK
    """Live messages that wait for this reader before more are dropped."""
    read_ahead_bytes: int = READ_BYTES
    """How much of the history is had at once, and may wait for the reader."""
    context: zmq.asyncio.Context | None = None
    """For its sockets, where many share one."""
    gatherer: Gatherer | None = None
    """Looks at their sockets, where many are read."""
    as_sent: bool = False
    """True to take batches without a look at their events, whatever these are: for copies."""


class Source:
    """Opens what a target has to offer, as it comes into being."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.live: LiveFeed | None = None
        self.requester: Requester | None = None
        self.history: History | None = None
        self._context = wanted.context or zmq.asyncio.Context()
        self._live_attempt = -1
        self._malformed = 0
        self._archived: ArchivedHistory | None = None

    @property
    def malformed(self) -> int:
        """Live messages that could not be read, and were skipped."""
        return self._malformed + (self.live.malformed if self.live else 0)

    @property
    def silence(self) -> str:
        """What is told when nothing is heard."""
        return "nothing new comes there" if self._archived else "its publisher cannot be reached"

    def nothing_there(self, reason: str = "") -> TrainwireError:
        """What is raised if there is no run, and none is waited for."""
        target = self.wanted.target
        if target.folder is None:
            return IncompleteError(f"no publisher answers at {target}" + (f": {reason}" if reason else ""))
        return TargetError(f"there is no run of rank {self.wanted.rank} in {target}")

    async def acknowledge(self, cursor: Cursor, name: str | None) -> bool:
        """Tell whoever publishes how far the reader called `name` has got; a log knows it by itself.

        False if there is nobody to tell yet.

        Raises:
            TimeoutError: the publisher does not answer.
            RequestError: it refuses that.
        """
        if self._archived:
            await self._archived.acknowledge(cursor)
        elif self.requester and name:
            await self.requester.ask("ack", sink=name, attempt=cursor.attempt, seq=cursor.seq, timeout=1.0)
        else:
            return False
        return True

    async def open(self) -> History | None:
        """The history of the run, or None if there is no run yet."""
        if self.history is None:
            folder, archive = self.wanted.target.folder, self.wanted.target.archive
            if archive is not None:
                self.history = self._archived = archive.open(self.wanted.rank, self.wanted.channels)
            elif folder is not None and self.wanted.use_journal:
                if await run_in_background(list_attempts, folder, self.wanted.rank):
                    self.history = JournalHistory(folder, self.wanted.rank, self.wanted.read_ahead_bytes)
            elif requester := self._connect_requests(await self._find_connection()):
                self.history = FetchHistory(
                    requester, self.wanted.channels, self._relocate, self.wanted.read_ahead_bytes
                )
        return self.history

    async def connect(self, attempt: int) -> LiveFeed | None:
        """The live feed of an attempt, or None if its publisher cannot be reached."""
        if self.live and self._live_attempt == attempt:
            return self.live
        self.disconnect()
        place = await self._locate(attempt)
        if place:
            run, endpoint, keys = place
            wanted = self.wanted
            self.live = LiveFeed(
                self._context, endpoint, run, wanted.rank, wanted.channels, wanted.high_water_mark, keys,
                as_sent=wanted.as_sent, gatherer=wanted.gatherer,
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
        """Close everything."""
        self.disconnect()
        if self.history:
            await self.history.close()
        if self.requester:
            await self.requester.close()
        # Not term, which would wait for ever for a socket that could not be connected.
        if self._context is not self.wanted.context:
            self._context.destroy(linger=0)

    async def _locate(self, attempt: int) -> tuple[str, str, ClientKeys | None] | None:
        """The run's name, the PUB socket's endpoint, and the keys to it."""
        connection = await self._find_connection()
        if connection:
            if connection.attempt != attempt or not await run_in_background(connection.is_reachable):
                return None
            self._connect_requests(connection)
            return connection.run, connection.publish, connection.keys
        return await self._ask_place(attempt) if self.requester else None

    async def _ask_place(self, attempt: int) -> tuple[str, str, ClientKeys | None] | None:
        assert self.requester
        hello = await self.requester.hello()
        run, endpoint = hello.get("run"), hello.get("publish")
        if not isinstance(run, str) or not is_endpoint(endpoint):
            raise RequestError(f"{self.wanted.target.request} says that it publishes {run!r:.60} at {endpoint!r:.60}")
        keys = self.requester.keys
        return (run, str(endpoint), keys) if hello.get("attempt") == attempt else None

    async def _relocate(self) -> None:
        """From now on ask the publisher that the connection file names by now."""
        self._connect_requests(await self._find_connection())

    def _connect_requests(self, connection: Connection | None) -> Requester | None:
        endpoint = connection.request if connection else self.wanted.target.request
        if endpoint is None:
            return self.requester
        keys = connection.keys if connection else keys_to(endpoint)
        if self.requester:
            self.requester.connect(endpoint, keys)
        else:
            self.requester = Requester(self._context, endpoint, keys)
        return self.requester

    async def _find_connection(self) -> Connection | None:
        """What the connection file says; None if there is none, or none that can be read now."""
        folder = self.wanted.target.folder
        if folder is None:
            return self.wanted.target.connection
        try:
            return await run_in_background(read_connection, connection_path(folder, self.wanted.rank))
        except ConnectionFileError:
            return None
