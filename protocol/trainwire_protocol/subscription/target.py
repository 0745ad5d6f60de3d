"""TARGET, the argument with which commands name a run: its folder, a connection file, or an address.

A folder that does not exist is searched for below `runs`, so that the names that `trainwire runs` lists can be used.

An address is the ZeroMQ endpoint of a publisher, or a URL with a scheme that an installed package adds. A package whose
name begins with `trainwire_` adds schemes by a module `target_schemes` with a mapping `RESOLVERS` from each scheme to a
function from the address to its `Target`. The packages are searched only for an address that is not an endpoint.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import pkgutil
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from trainwire_protocol.errors import OptionError, TargetError
from trainwire_protocol.journal.run_folder import expand_home, list_attempts, read_run_name
from trainwire_protocol.transport.connection import Connection, connection_path, is_endpoint, read_connection

if TYPE_CHECKING:
    from trainwire_protocol.subscription.history import ArchivedHistory

PACKAGE_PREFIX: Final = "trainwire_"
SCHEMES_MODULE: Final = "target_schemes"

RUNS_FOLDER: Final = Path("runs")
"""The folder, below the working directory, in which a TARGET that is the name of a run is searched for too."""

SEARCHED_ENTRIES: Final = 1000
"""Maximum number of folders that are searched for a similar name."""

_HOST_AND_PORT: Final = re.compile(r"[\w.-]+:[0-9]{2,5}")


class Archive(Protocol):
    """A log outside the publisher that stores runs; readers get both past and new batches from it."""

    def open(self, rank: int, channels: Collection[str]) -> ArchivedHistory:
        """Return the history of one rank."""

    def for_sink(self, sink: str, output: Path, rank: int) -> Archive:
        """Return this log for one sink; its position is stored under the sink and its output."""


@dataclass(frozen=True)
class Target:
    """A run, identified by its folder, by its publisher's request endpoint, or both; or by an archive."""

    folder: Path | None
    """The run's folder, which contains the journal and the connection file; it need not exist yet."""
    request: str | None = None
    """ZeroMQ endpoint of the publisher's ROUTER socket."""
    connection: Connection | None = None
    """The content of a connection file outside a run's folder, such as a copy on another host."""
    archive: Archive | None = None
    """A log that contains the run; then there is neither a folder nor a publisher."""

    def __str__(self) -> str:
        return str(self.folder or self.request or self.archive)

    def for_sink(self, sink: str, output: Path, rank: int) -> Target:
        """Return the target for one sink; an archive stores its position under the sink and its output."""
        return replace(self, archive=self.archive.for_sink(sink, output, rank)) if self.archive else self


def resolve_target(text: str) -> Target:
    """Return the run that a TARGET names.

    Raises:
        TargetError: it is not a folder, connection file or address, or cannot be accessed.
        ConnectionFileError: it is a file but not a valid connection file.
        OptionError: it is an address of a known scheme, but not a valid one.
    """
    if "://" in text:
        return _from_address(text)
    try:
        if not text:
            raise TargetError("the target is empty: give a run's folder, a connection file or an address")
        return _from_path(expand_home(text))
    except (OSError, ValueError) as error:
        raise TargetError(f"the target {text!r:.200} cannot be accessed: {error}") from error


def resolve_publisher(text: str, purpose: str) -> Target:
    """Return the run that a TARGET names, for a command that needs more than an archive.

    Args:
        text: the TARGET.
        purpose: what the command does, for the error message.

    Raises:
        OptionError: it names an archive, or is not a valid address of its scheme.
        TargetError: it is not a folder, connection file or address, or cannot be accessed.
        ConnectionFileError: it is a file but not a valid connection file.
    """
    target = resolve_target(text)
    if target.archive:
        raise OptionError(
            f"{purpose}, but {target} is a stream: give the run's folder, a connection file or tcp://host:port "
            "(streams can be read by sinks, watch, tail, export, compare and replay)"
        )
    return target


def _from_address(text: str) -> Target:
    if is_endpoint(text):
        return Target(folder=None, request=text)
    scheme, failure = text.partition("://")[0], ""
    packages = [found.name for found in pkgutil.iter_modules() if found.ispkg and found.name.startswith(PACKAGE_PREFIX)]
    for name in (f"{package}.{SCHEMES_MODULE}" for package in sorted(packages)):
        try:
            resolvers: Mapping[str, Callable[[str], Target]] = import_module(name).RESOLVERS if find_spec(name) else {}
        except Exception as error:
            failure = f"; the schemes in {name} cannot be loaded: {error!r}"
        else:
            if scheme in resolvers:
                return resolvers[scheme](text)
    raise TargetError(f"the address {text!r:.200} is neither tcp://host:port nor ipc://path{failure}")


def suggest_run(folder: Path) -> str:
    """Return a question that names a run with a similar name, to be added to the error that a folder holds no run."""
    if read_run_name(folder) is not None:
        return ""
    candidates = {name: place / name for place in (RUNS_FOLDER, folder.parent) for name in _runs_in(place)}
    close = difflib.get_close_matches(folder.name, candidates, n=1)
    return f"; did you mean {candidates[close[0]]}?" if close else ""


def _runs_in(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, SEARCHED_ENTRIES):
            if read_run_name(Path(entry.path)) is not None:
                yield entry.name


def _from_path(path: Path) -> Target:
    if not path.exists() and read_run_name(RUNS_FOLDER / path) is not None:
        path = RUNS_FOLDER / path
    if path.is_file():
        return _from_file(path)
    if not path.exists() and _HOST_AND_PORT.fullmatch(str(path)):
        raise TargetError(f"there is no folder {path}; an address begins with tcp://, as in tcp://{path}")
    if not path.exists() and not path.absolute().parent.exists():
        raise TargetError(
            f"the run {path.name!r} cannot be found: there is no folder {path.absolute().parent}{suggest_run(path)}"
        )
    return Target(folder=path)


def _from_file(path: Path) -> Target:
    connection = read_connection(path)
    folder = path.absolute().parent
    if path.name == connection_path(folder, connection.rank).name and list_attempts(folder, connection.rank):
        return Target(folder=folder, request=connection.request)
    return Target(folder=None, request=connection.request, connection=connection)
