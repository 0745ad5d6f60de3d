"""A relay's life: claim its folder, serve what is there, find what is to be copied, follow it, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from trainwire_protocol.errors import IncompleteError, TrainwireError
from trainwire_protocol.journal.run_folder import list_ranks, read_run_name
from trainwire_protocol.transport.endpoints import Tcp
from trainwire_protocol.transport.polling import Gatherer
from trainwire_sinks.relay.copy import Copy
from trainwire_sinks.relay.copy_server import CopyServer
from trainwire_sinks.relay.endpoint_allocator import EndpointAllocator
from trainwire_sinks.relay.follower import BEAT_SECONDS, RankFollower
from trainwire_sinks.relay.sources import AddressSource, FolderSource, Found, make_source
from trainwire_sinks.relay.writer import Writer
from trainwire_sinks.runtime.claim import Claim

SCAN_SECONDS: Final = 1.0
"""How often sources are looked at."""

GATHER_SECONDS: Final = 0.02
"""How long what the trainers send gathers before it is looked at: to wake for each message costs much more."""

MAX_OPEN_FILES: Final = 1 << 16

Key: TypeAlias = tuple[str, int]
"""A run's name and a rank."""

logger = logging.getLogger("trainwire")


class Relay:
    """Copies all that its sources have into a folder, and serves it from there.

    Args:
        sources: addresses, run folders, connection files, and folders of either.
        folder: holds a run folder for each run.
        tcp: where the relay is reached from other hosts, if it is.
        give_up: seconds after which a silent trainer on another host is no longer waited for.
        until_over: end when every source has been found, and all runs that were are over.
    """

    def __init__(
        self,
        sources: Sequence[str],
        folder: Path,
        tcp: Tcp,
        *,
        give_up: float | None = None,
        until_over: bool = False,
    ) -> None:
        self._names, self._folder, self._tcp = sources, folder, tcp
        self._give_up, self._until_over = give_up, until_over
        self._session = secrets.token_hex(8)
        self._claim = Claim(folder, "relay", 0)
        self._serving: dict[Key, CopyServer] = {}
        self._following: dict[Key, RankFollower] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._done: dict[Key, tuple[str | None, int]] = {}
        self._unseen: set[str] = set()
        self._stopping = asyncio.Event()
        self.incomplete: list[str] = []
        """Runs that could not be copied to their end."""

    async def run(self) -> None:
        """Relay until `stop` is called, or all is over if that is wanted.

        Raises:
            OutputError: the folder cannot be written, or another relay writes it.
            UsageError: a source or an address is none, or there are no keys for it.
        """
        await asyncio.to_thread(self._claim.take)
        _allow_many_files()
        places = EndpointAllocator(self._tcp, self._folder / ".trainwire")
        self._writer, self._gatherer = Writer(), Gatherer(GATHER_SECONDS)
        sources: list[FolderSource | AddressSource] = []
        try:
            sources.extend(make_source(name, self._folder, places.context.zmq) for name in self._names)
            await self._live(sources, places)
        finally:
            await self._close(sources, places)

    def stop(self) -> None:
        """End soon; what is copied is on the disk already. Call it on the relay's event loop."""
        self._stopping.set()

    async def _live(self, sources: Sequence[FolderSource | AddressSource], places: EndpointAllocator) -> None:
        for run, rank in await asyncio.to_thread(self._copied):
            await self._serve((run, rank), places)
        self._unseen = {str(source) for source in sources}
        watching = [asyncio.ensure_future(self._watch(source, places)) for source in sources]
        tasks: list[asyncio.Future[Any]] = [
            *watching, asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._stopping.wait()),
        ]  # fmt: skip
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _copied(self) -> list[Key]:
        """The ranks that were copied before this start."""
        folders = [path for path in sorted(self._folder.iterdir()) if read_run_name(path) == path.name]
        return [(folder.name, rank) for folder in folders for rank in list_ranks(folder)]

    async def _serve(self, key: Key, places: EndpointAllocator) -> CopyServer:
        if key not in self._serving:
            run, rank = key
            copy = await asyncio.to_thread(Copy, self._folder / run, run, rank, self._session)
            self._serving[key] = CopyServer(copy, places, self._session, self._writer)
        return self._serving[key]

    async def _beat(self) -> None:
        while True:
            for following in self._following.values():
                following.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def _watch(self, source: FolderSource | AddressSource, places: EndpointAllocator) -> None:
        """Follow what a source has, and what comes into it."""
        while True:
            found = await (source.find() if isinstance(source, AddressSource) else asyncio.to_thread(source.find))
            for one in found:
                await self._consider(one, places)
            if found:
                self._unseen.discard(str(source))
            if self._until_over and not self._unseen and not self._following:
                self.stop()
            await asyncio.sleep(SCAN_SECONDS)

    async def _consider(self, found: Found, places: EndpointAllocator) -> None:
        """Follow what was found, unless it is followed already, or is over and copied."""
        key, state = (found.run, found.rank), (found.session, found.attempt)
        following = self._following.get(key)
        if (following and not following.is_elsewhere(found)) or self._done.get(key) == state:
            return
        if following:
            self._tasks[key].cancel()
            await asyncio.gather(self._tasks[key], return_exceptions=True)
        try:
            serving = await self._serve(key, places)
        except (TrainwireError, OSError) as error:
            logger.error("cannot relay rank %d of %s: %s", found.rank, found.run, error)
            self._done[key] = state
            return
        if serving.copy.ended and serving.copy.attempt.number >= found.attempt:
            self._done[key] = state
            return
        logger.info("relaying rank %d of %s from %s", found.rank, found.run, found.target)
        name = f"relay on {socket.gethostname()} in {self._folder}"[:256]
        following = RankFollower(found, serving, places.context.zmq, self._gatherer, name, self._give_up)
        self._following[key] = following
        self._tasks[key] = asyncio.ensure_future(self._follow(following, state))
        self._tasks[key].add_done_callback(lambda _: self._forget(key))

    def _forget(self, key: Key) -> None:
        del self._following[key], self._tasks[key]

    async def _follow(self, following: RankFollower, state: tuple[str | None, int]) -> None:
        found = following.found
        try:
            await following.run()
        except TrainwireError as error:
            if isinstance(error, IncompleteError):
                self.incomplete.append(found.run)
            logger.error("rank %d of %s is not relayed to its end: %s", found.rank, found.run, error)
        except Exception:
            logger.exception("rank %d of %s is not relayed further; trying again", found.rank, found.run)
            await asyncio.sleep(SCAN_SECONDS)
            return
        self._done[found.run, found.rank] = state

    async def _close(self, sources: Sequence[FolderSource | AddressSource], places: EndpointAllocator) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(serving.close() for serving in self._serving.values()))
        await self._writer.close()
        self._gatherer.close()
        for source in sources:
            if isinstance(source, AddressSource):
                await source.close()
        places.close()
        self._claim.release()


def _allow_many_files() -> None:
    """Raise the number of open files, of which each rank takes some, as far as the system lets us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
