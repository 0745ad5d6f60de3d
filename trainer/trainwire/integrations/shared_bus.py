"""Buses that several writers of one process share: one for each folder, from the first writer to the last.

Loggers open their folder without knowing of each other, and more than one may open the same. A fork shares nothing with
its parent.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.bus.process_end import status_of
from trainwire.bus.sink_processes import SinkProcesses
from trainwire_protocol.environment import LAUNCHED_SINKS, SinkCommand
from trainwire_protocol.errors import OptionError

SINK_TIMEOUT: Final = 60.0
"""How long the last writer waits for the sinks that the writers have started, in seconds."""

logger = logging.getLogger("trainwire")


class SharedBus:
    """A bus, and how many writers of this process use it."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.users = 0
        self._process = os.getpid()
        self._sinks = SinkProcesses()
        self._started: set[SinkCommand] = set()

    @property
    def is_usable(self) -> bool:
        """Whether the bus is open, and this process has opened it."""
        return self.bus.is_open and self._process == os.getpid()

    def start_sinks(self, sinks: Iterable[SinkCommand]) -> None:
        """Start the sinks that no other writer has started."""
        new = [sink for sink in sinks if sink not in self._started]
        self._started.update(new)
        self._sinks.start(new, self.bus.folder, self.bus.rank)

    def close(self, error: BaseException | None) -> None:
        """Close the bus, and wait for its sinks; does nothing in a fork."""
        if self._process == os.getpid():
            status, reason = status_of(error)
            self.bus.close(status=status, reason=reason)
            self._sinks.wait(0.0 if isinstance(error, KeyboardInterrupt) else SINK_TIMEOUT)


class _SharedBuses:
    """The buses that the writers of this process have open."""

    def __init__(self) -> None:
        self._buses: dict[Path, SharedBus] = {}
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._clear)

    def open(self, folder: str | os.PathLike[str], sinks: Iterable[SinkCommand]) -> SharedBus:
        with self._lock:
            path = Path(folder).expanduser().resolve()
            shared = self._buses.get(path)
            if shared is None or not shared.is_usable:
                shared = self._buses[path] = SharedBus(open_bus(folder, append=True))
            shared.users += 1
            shared.start_sinks(sinks)
            return shared

    def close(self, shared: SharedBus, error: BaseException | None) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            self._buses = {path: other for path, other in self._buses.items() if other is not shared}
        shared.close(error)

    def _clear(self) -> None:
        self._buses.clear()
        self._lock = threading.RLock()  # another thread of the parent may hold the lock


@cache
def _shared_buses() -> _SharedBuses:
    return _SharedBuses()


def open_shared(folder: str | os.PathLike[str], sinks: Iterable[SinkCommand] = ()) -> SharedBus:
    """Return the bus that this process has open on a folder, or open one that adds to what the folder contains.

    Call `close_shared` once for each call.

    Raises:
        RunInUseError: another process, or another part of this one, records into the folder.
        UsageError: the folder cannot be written.
    """
    return _shared_buses().open(folder, sinks)


def close_shared(shared: SharedBus, error: BaseException | None = None) -> None:
    """Close a bus, and wait for its sinks, if no other writer uses it.

    Args:
        shared: what `open_shared` returned.
        error: the exception that ends the writer's block; None if it ends normally.
    """
    _shared_buses().close(shared, error)


def parse_sinks(sinks: Iterable[str]) -> list[SinkCommand]:
    """Return the sinks to start, each given by its name and options as after `trainwire sink`.

    Raises:
        OptionError: it is not a list of names, or there is no such sink.
    """
    if isinstance(sinks, (str, bytes)) or not isinstance(sinks, Iterable):
        raise OptionError(f"sinks is {sinks!r:.60}; pass a list of names, such as ('tensorboard',)")
    commands = [SinkCommand.parse(str(sink)) for sink in sinks]
    for command in commands:
        command.check_name()
    return commands


def is_launched(sink: str) -> bool:
    """Return whether `trainwire launch` runs a sink beside this process."""
    return sink in os.environ.get(LAUNCHED_SINKS, "").split(",")
