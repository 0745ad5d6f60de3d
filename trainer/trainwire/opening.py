"""Opens a bus on a run's folder: takes the next attempt, binds the sockets, and tells where they are."""

from __future__ import annotations

import atexit
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import zmq

from trainwire.bus import EventBus
from trainwire_protocol.atomic import write_atomically
from trainwire_protocol.attempts import find_mark
from trainwire_protocol.connection import Connection, connection_path, write_connection
from trainwire_protocol.errors import UsageError
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.run_folder import Attempt, begin_attempt, list_attempts
from trainwire_protocol.server import HIGH_WATER_MARK, Server
from trainwire_protocol.wire import VERSION

FLUSH_SECONDS: Final = 0.02
"""How often the bus thread empties the queue."""

MAX_SOCKET_PATH: Final = 100
"""Longest path of an ipc socket, in bytes: the system's own limit is 107."""

RENDEZVOUS: Final = "TRAINWIRE_RENDEZVOUS"
"""Environment variable that names the folder where `trainwire launch` looks for runs."""


def open_bus(
    folder: str | os.PathLike[str],
    *,
    hparams: Mapping[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    state: Mapping[str, Any] | None = None,
    take_over: bool = False,
    flush_interval: float = FLUSH_SECONDS,
    high_water_mark: int = HIGH_WATER_MARK,
) -> EventBus:
    """Begin a run in a folder, or the next attempt of the run that it holds.

    Args:
        folder: the run's folder; it is made if it is not there.
        hparams: the run's hyperparameters, recorded first.
        rank: which of `world_size` processes this is.
        world_size: how many processes train together.
        state: what `state_dict` of an earlier attempt returned: this attempt goes on from there. Without it, a
            further attempt begins anew, and supersedes all that was recorded before.
        take_over: go on although another live trainer holds the run; that one then stops journaling.
        flush_interval: seconds between two looks at the queue.
        high_water_mark: messages kept for a subscriber that does not read, before more are dropped.

    Raises:
        RunInUseError: a live trainer holds the run.
        UsageError: the folder cannot be written, or the state is of another run.
    """
    run_folder = Path(folder).absolute()
    session = secrets.token_hex(8)
    attempt = begin_attempt(run_folder, rank, session, take_over=take_over)
    resumed = _resumption(run_folder, attempt, state)

    def open_server(bus: EventBus) -> Server:
        server = _bind(bus, attempt, high_water_mark)
        process = ProcessIdentity.of_this_process()
        connection = Connection(
            server.publish_endpoint, server.request_endpoint,
            attempt.run, rank, world_size, session, attempt.number, process,
        )  # fmt: skip
        write_connection(connection_path(run_folder, rank), connection)
        return server

    bus = EventBus(run_folder, attempt, session, open_server, flush_interval)
    begun = {"run": attempt.run, "rank": rank, "world_size": world_size, "python": platform.python_version()}
    if attempt.number:
        bus.publish("run/resumed", begun | resumed, "lifecycle", resumed["from_step"])
    else:
        bus.publish("run/started", begun, "lifecycle", 0)
    if hparams is not None:
        bus.hparams(hparams)
    bus.start()
    _close_at_exit(bus)
    _announce(bus)
    return bus


def _resumption(run_folder: Path, attempt: Attempt, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `run/resumed` tells: the position of the mark that is resumed from, and its step."""
    if state is None:
        return {"from": None, "from_step": 0}
    if state.get("run") != attempt.run:
        raise UsageError(f"the state is of run {state.get('run')!r}; {run_folder} holds {attempt.run!r}")
    marked = next((old for old in list_attempts(run_folder, attempt.rank) if old.number == state["attempt"]), None)
    if marked is None or marked.number >= attempt.number:
        raise UsageError(f"the state is of attempt {state['attempt']}, which {run_folder} does not hold")
    return {"from": find_mark(marked, state["mark"])._asdict(), "from_step": state["step"]}


def _bind(bus: EventBus, attempt: Attempt, high_water_mark: int) -> Server:
    sockets = _socket_folder()
    bus.on_close(lambda: shutil.rmtree(sockets, ignore_errors=True))
    process = ProcessIdentity.of_this_process()

    def introduce() -> dict[str, Any]:
        return {
            "session": bus.session, "hparams": bus.hyperparameters, "process": process._asdict(),
            "world_size": os.environ.get("WORLD_SIZE"), "version": VERSION,
        }  # fmt: skip

    try:
        return Server(attempt, f"ipc://{sockets}/pub", f"ipc://{sockets}/req", bus.describe, introduce, high_water_mark)
    except zmq.ZMQError as error:
        raise UsageError(f"the sockets in {sockets} cannot be bound: {error}") from error


def _socket_folder() -> Path:
    """A folder for this bus's sockets that only its owner can enter, with a path that is short enough."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    for candidate in candidates:
        if candidate and os.access(candidate, os.W_OK) and len(os.fsencode(candidate)) < MAX_SOCKET_PATH - 24:
            return Path(tempfile.mkdtemp(prefix="trainwire-", dir=candidate))
    raise UsageError("no folder for sockets can be written: set XDG_RUNTIME_DIR to one with a short path")


def _announce(bus: EventBus) -> None:
    """Drop a pointer to the run where `trainwire launch` looks for it."""
    rendezvous = os.environ.get(RENDEZVOUS)
    if rendezvous and Path(rendezvous).is_dir():
        pointer = {"folder": str(bus.folder), "rank": bus.rank}
        write_atomically(Path(rendezvous) / f"{bus.session}.json", json.dumps(pointer).encode())


def _close_at_exit(bus: EventBus) -> None:
    """Close a bus that is still open when the interpreter exits, and disown it in forks."""
    reference = weakref.ref(bus)

    def close() -> None:
        forgotten = reference()
        if forgotten is not None:
            failed = getattr(sys, "last_value", None)
            forgotten.close(status="failed" if failed else "finished", reason=repr(failed)[:1000] if failed else None)

    atexit.register(close)
    bus.on_close(lambda: atexit.unregister(close))
    _open_buses().add(bus)


@cache
def _open_buses() -> weakref.WeakSet[EventBus]:
    """The buses of this process, and with the first of them the handler that disowns them in forks."""
    buses: weakref.WeakSet[EventBus] = weakref.WeakSet()

    def disown() -> None:
        for bus in list(buses):
            bus.disown()

    os.register_at_fork(after_in_child=disown)
    return buses
