"""What there is for a relay to copy: ranks of runs, found by address or in a folder of connection files."""

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
from trainwire_protocol.transport.connection import Connection, connection_path, read_connection
from trainwire_protocol.transport.key_files import keys_to
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.wire import is_run_name

logger = logging.getLogger("trainwire")


@dataclass(frozen=True)
class Found:
    """A rank of a run, and how to read it."""

    run: str
    rank: int
    target: Target
    attempt: int
    """The last one that has begun."""
    session: str | None = None
    """Of its publisher, if there has been one."""
    process: ProcessIdentity | None = None
    world_size: int = 1


class FolderSource:
    """A folder of connection files, of runs, or of one run; or a connection file. What comes into it is found too."""

    def __init__(self, path: Path, own: Path) -> None:
        """Watch `path`, but for what is below `own`, where the relay's copies are."""
        self._path, self._own = path, own.resolve()
        self._refused: set[Path] = set()
        self._known: dict[Path, tuple[tuple[int, int], Found]] = {}

    def __str__(self) -> str:
        return str(self._path)

    def find(self) -> list[Found]:
        """What there is by now. For a thread: it reads files."""
        with contextlib.suppress(OSError):
            return [*self._connections(), *self._recorded()]
        return []

    def _connections(self) -> Iterator[Found]:
        for path in self._files():
            try:
                yield self._read(path)
            except OSError:  # it is gone again
                continue
            except ProtocolError as error:
                if path not in self._refused and path.name.startswith("connection"):
                    logger.warning("%s", error)
                self._refused.add(path)

    def _read(self, path: Path) -> Found:
        """What a file says; one that is as it was is not read again."""
        status = path.stat()
        version = (status.st_ino, status.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != version:
            known = self._known[path] = version, _from_connection(read_connection(path), path)
        return known[1]

    def _files(self) -> Iterator[Path]:
        if self._path.is_file():
            yield self._path
            return
        for path in sorted([*self._path.glob("*.json"), *self._path.glob("*/connection-rank*.json")]):
            if path in self._known or not path.resolve().is_relative_to(self._own):
                yield path

    def _recorded(self) -> Iterator[Found]:
        """The ranks of a run's folder that have a journal and no connection file."""
        run = read_run_name(self._path)
        for rank in list_ranks(self._path) if run else ():
            attempts = list_attempts(self._path, rank)
            if run and attempts and not connection_path(self._path, rank).exists():
                yield Found(run, rank, Target(self._path), attempts[-1].number)


class AddressSource:
    """The address of one publisher."""

    def __init__(self, endpoint: str, context: zmq.asyncio.Context) -> None:
        """Ask at `endpoint`.

        Raises:
            KeyFileError: it needs keys, and there are none.
        """
        self._endpoint = endpoint
        self._requester = Requester(context, endpoint, keys_to(endpoint))

    def __str__(self) -> str:
        return self._endpoint

    async def find(self) -> list[Found]:
        """The publisher, if it answers."""
        try:
            hello = await self._requester.hello()
        except (TimeoutError, RequestError):
            return []
        run, rank, attempt, size = (hello.get(name) for name in ("run", "rank", "attempt", "world_size"))
        if not is_run_name(run) or type(rank) is not int or type(attempt) is not int or rank < 0 or attempt < 0:
            logger.warning("%s says that it is rank %.60r of run %.60r", self._endpoint, rank, run)
            return []
        target = Target(folder=None, request=self._endpoint)
        process = ProcessIdentity.from_fields(hello.get("process"))
        return [Found(str(run), rank, target, attempt, str(hello.get("session")), process, _size(size))]

    async def close(self) -> None:
        """Close the socket."""
        await self._requester.close()


def make_source(text: str, own: Path, context: zmq.asyncio.Context) -> FolderSource | AddressSource:
    """Understand a SOURCE as it was typed.

    Raises:
        OptionError: it is where the relay's own copies are.
        TargetError: it is neither an address nor a path that could be there.
        KeyFileError: an address needs keys, and there are none.
    """
    if "://" in text:
        resolve_target(text)
        return AddressSource(text, context)
    path = Path(text)
    if path.resolve().is_relative_to(own.resolve()):
        raise OptionError(f"{path} is where this relay puts its copies: it cannot be a source too")
    if not path.is_file():
        resolve_target(text)
    return FolderSource(path, own)


def _from_connection(connection: Connection, path: Path) -> Found:
    return Found(
        connection.run, connection.rank, resolve_target(str(path)), connection.attempt, connection.session,
        connection.process, connection.world_size,
    )  # fmt: skip


def _size(value: object) -> int:
    return value if type(value) is int and value > 0 else 1
