"""The sources of a relay: ranks of runs, found at an address or in a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq.asyncio

from trainwire_protocol.errors import OptionError, ProtocolError, RequestError
from trainwire_protocol.journal.run_folder import list_attempts, list_ranks, read_run_name
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.transport.connection import connection_path, read_connection
from trainwire_protocol.transport.key_files import keys_to
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.wire import is_run_name

logger = logging.getLogger("trainwire")


@dataclass(frozen=True)
class FoundRank:
    """A rank of a run, and where to read it."""

    run: str
    rank: int
    target: Target
    attempt: int
    """The last attempt that has begun."""
    session: str | None = None
    """The session of its publisher, if there is one."""
    process: ProcessIdentity | None = None
    world_size: int = 1


class FolderSource:
    """A connection file, a run's folder, or a folder of connection files or runs; new ones are found as they appear."""

    def __init__(self, path: Path, output: Path) -> None:
        """Search `path`, except what is below `output`, where the relay keeps its copies."""
        self._path, self._output = path, output.resolve()
        self._invalid: set[Path] = set()
        self._known: dict[Path, tuple[tuple[int, int], FoundRank]] = {}

    def __str__(self) -> str:
        return str(self._path)

    def find(self) -> list[FoundRank]:
        """Return the ranks that exist now. Reads files, so it must not be called on an event loop."""
        with contextlib.suppress(OSError):
            return [*self._find_connections(), *self._find_recorded()]
        return []

    def _find_connections(self) -> Iterator[FoundRank]:
        for path in self._candidates():
            try:
                yield self._read(path)
            except OSError:  # the file was removed in the meantime
                continue
            except ProtocolError as error:
                if path not in self._invalid and path.name.startswith("connection"):
                    logger.warning("%s", error)
                self._invalid.add(path)

    def _read(self, path: Path) -> FoundRank:
        """Return the rank of a connection file, which is read again only after a change."""
        status = path.stat()
        version = (status.st_ino, status.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != version:
            connection = read_connection(path)
            known = self._known[path] = version, FoundRank(
                connection.run, connection.rank, resolve_target(str(path)), connection.attempt, connection.session,
                connection.process, connection.world_size,
            )  # fmt: skip
        return known[1]

    def _candidates(self) -> Iterator[Path]:
        if self._path.is_file():
            yield self._path
            return
        for path in sorted([*self._path.glob("*.json"), *self._path.glob("*/connection-rank*.json")]):
            if path in self._known or not path.resolve().is_relative_to(self._output):
                yield path

    def _find_recorded(self) -> Iterator[FoundRank]:
        """Yield the ranks of a run's folder that have a journal but no connection file."""
        run = read_run_name(self._path)
        for rank in list_ranks(self._path) if run else ():
            attempts = list_attempts(self._path, rank)
            if run and attempts and not connection_path(self._path, rank).exists():
                yield FoundRank(run, rank, Target(self._path), attempts[-1].number)


class AddressSource:
    """The address of one publisher."""

    def __init__(self, endpoint: str, context: zmq.asyncio.Context) -> None:
        """Connect to `endpoint`.

        Raises:
            KeyFileError: the address requires keys that are not available.
        """
        self._endpoint = endpoint
        self._requester = Requester(context, endpoint, keys_to(endpoint))

    def __str__(self) -> str:
        return self._endpoint

    async def find(self) -> list[FoundRank]:
        """Return the publisher's rank, if the publisher answers."""
        try:
            hello = await self._requester.hello()
        except (TimeoutError, RequestError):
            return []
        run, rank, attempt, size = (hello.get(name) for name in ("run", "rank", "attempt", "world_size"))
        if not is_run_name(run) or type(rank) is not int or type(attempt) is not int or rank < 0 or attempt < 0:
            logger.warning("%s announces an invalid rank %.60r or run %.60r; ignoring it", self._endpoint, rank, run)
            return []
        target = Target(folder=None, request=self._endpoint)
        process = ProcessIdentity.from_fields(hello.get("process"))
        world_size = size if type(size) is int and size > 0 else 1
        return [FoundRank(str(run), rank, target, attempt, str(hello.get("session")), process, world_size)]

    async def close(self) -> None:
        """Close the socket."""
        await self._requester.close()


def make_source(text: str, output: Path, context: zmq.asyncio.Context) -> FolderSource | AddressSource:
    """Return the source for a SOURCE argument.

    Raises:
        OptionError: the path is in the relay's output folder.
        TargetError: the argument is neither an address nor an existing path.
        KeyFileError: the address requires keys that are not available.
    """
    if "://" in text:
        resolve_target(text)
        return AddressSource(text, context)
    path = Path(text)
    if path.resolve().is_relative_to(output.resolve()):
        raise OptionError(f"{path} is in the output folder of this relay: name a source outside of it")
    if not path.is_file():
        resolve_target(text)
    return FolderSource(path, output)
