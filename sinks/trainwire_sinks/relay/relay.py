"""The relay: finds the ranks of its sources, follows each, keeps a copy and serves it."""

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
from trainwire_protocol.transport.polling import CoalescingSelector
from trainwire_sinks.relay.copy import Copy, CopyWriter
from trainwire_sinks.relay.copy_server import CopyServer
from trainwire_sinks.relay.endpoint_allocator import EndpointAllocator
from trainwire_sinks.relay.follower import TICK_SECONDS, RankFollower
from trainwire_sinks.relay.sources import AddressSource, FolderSource, FoundRank, make_source
from trainwire_sinks.runtime.claim import Claim

SCAN_SECONDS: Final = 1.0
"""Interval at which the sources are searched."""

GATHER_SECONDS: Final = 0.02
"""How long live messages are collected before they are read; waking up for each message costs much more."""

MAX_OPEN_FILES: Final = 1 << 16

Key: TypeAlias = tuple[str, int]
"""A run's name and a rank."""

logger = logging.getLogger("trainwire")


class Relay:
    """Copies all runs of its sources to a folder, and serves them from there.

    Args:
        sources: addresses, run folders, connection files, and folders of run folders or connection files.
        folder: receives a run folder for each run.
        tcp: how other hosts reach the relay.
        give_up: seconds after which a silent trainer on another host is given up.
        until_over: stop when a run was found in every source and all runs are over.
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
        self._source_names, self._folder, self._tcp = sources, folder, tcp
        self._give_up, self._until_over = give_up, until_over
        self._session = secrets.token_hex(8)
        self._claim = Claim(folder, "relay", 0)
        self._servers: dict[Key, CopyServer] = {}
        self._followers: dict[Key, RankFollower] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._done: dict[Key, tuple[str | None, int]] = {}
        """Session and attempt up to which a rank was copied."""
        self._empty_sources: set[str] = set()
        """Sources in which no run was found yet."""
        self._stopping = asyncio.Event()
        self.incomplete: list[str] = []
        """Runs that could not be copied to their end."""

    async def run(self) -> None:
        """Relay until `stop` is called, or with `until_over` until all runs are over.

        Raises:
            OutputError: the folder cannot be written, or another relay uses it.
            UsageError: a source or an address is invalid, or its keys are not available.
        """
        await asyncio.to_thread(self._claim.take)
        _raise_open_files_limit()
        allocator = EndpointAllocator(self._tcp, self._folder / ".trainwire")
        self._writer, self._selector = CopyWriter(), CoalescingSelector(GATHER_SECONDS)
        sources: list[FolderSource | AddressSource] = []
        try:
            sources.extend(make_source(name, self._folder, allocator.context.zmq) for name in self._source_names)
            await self._relay(sources, allocator)
        finally:
            await self._close(sources, allocator)

    def stop(self) -> None:
        """Stop soon. Must be called on the relay's event loop."""
        self._stopping.set()

    async def _relay(self, sources: Sequence[FolderSource | AddressSource], allocator: EndpointAllocator) -> None:
        for run, rank in await asyncio.to_thread(self._find_copies):
            await self._serve((run, rank), allocator)
        self._empty_sources = {str(source) for source in sources}
        tasks: list[asyncio.Future[Any]] = [
            *(asyncio.ensure_future(self._search(source, allocator)) for source in sources),
            asyncio.ensure_future(self._tick_followers()),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _find_copies(self) -> list[Key]:
        """Return the ranks that were copied before this start."""
        folders = [path for path in sorted(self._folder.iterdir()) if read_run_name(path) == path.name]
        return [(folder.name, rank) for folder in folders for rank in list_ranks(folder)]

    async def _serve(self, key: Key, allocator: EndpointAllocator) -> CopyServer:
        if key not in self._servers:
            run, rank = key
            copy = await asyncio.to_thread(Copy, self._folder / run, run, rank, self._session)
            self._servers[key] = CopyServer(copy, allocator, self._session, self._writer)
        return self._servers[key]

    async def _tick_followers(self) -> None:
        while True:
            for follower in self._followers.values():
                follower.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def _search(self, source: FolderSource | AddressSource, allocator: EndpointAllocator) -> None:
        """Search a source repeatedly, and follow the ranks found in it."""
        while True:
            ranks = await (source.find() if isinstance(source, AddressSource) else asyncio.to_thread(source.find))
            for found in ranks:
                await self._follow(found, allocator)
            if ranks:
                self._empty_sources.discard(str(source))
            if self._until_over and not self._empty_sources and not self._followers:
                self.stop()
            await asyncio.sleep(SCAN_SECONDS)

    async def _follow(self, found: FoundRank, allocator: EndpointAllocator) -> None:
        """Start a follower for a rank, unless the rank has one or is copied to its end."""
        key, state = (found.run, found.rank), (found.session, found.attempt)
        follower = self._followers.get(key)
        if (follower and not follower.must_move_to(found)) or self._done.get(key) == state:
            return
        if follower:
            self._tasks[key].cancel()
            await asyncio.gather(self._tasks[key], return_exceptions=True)
        try:
            server = await self._serve(key, allocator)
        except (TrainwireError, OSError) as error:
            logger.error("cannot relay rank %d of %s: %s", found.rank, found.run, error)
            self._done[key] = state
            return
        if server.copy.ended and server.copy.attempt.number >= found.attempt:
            self._done[key] = state
            return
        logger.info("relaying rank %d of %s from %s", found.rank, found.run, found.target)
        name = f"relay on {socket.gethostname()} in {self._folder}"[:256]
        follower = RankFollower(found, server, allocator.context.zmq, self._selector, name, self._give_up)
        self._followers[key] = follower
        self._tasks[key] = asyncio.ensure_future(self._run_follower(follower, state))
        self._tasks[key].add_done_callback(lambda _: self._remove_follower(key))

    async def _run_follower(self, follower: RankFollower, state: tuple[str | None, int]) -> None:
        found = follower.found
        try:
            await follower.run()
        except TrainwireError as error:
            if isinstance(error, IncompleteError):
                self.incomplete.append(found.run)
            logger.error("rank %d of %s is not relayed to its end: %s", found.rank, found.run, error)
        except Exception:
            logger.exception("relaying rank %d of %s failed; retrying", found.rank, found.run)
            await asyncio.sleep(SCAN_SECONDS)
            return
        self._done[found.run, found.rank] = state

    def _remove_follower(self, key: Key) -> None:
        del self._followers[key], self._tasks[key]

    async def _close(self, sources: Sequence[FolderSource | AddressSource], allocator: EndpointAllocator) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        await self._writer.close()
        self._selector.close()
        for source in sources:
            if isinstance(source, AddressSource):
                await source.close()
        allocator.close()
        self._claim.release()


def _raise_open_files_limit() -> None:
    """Raise the limit on open files as far as the system allows, because each rank needs several."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
