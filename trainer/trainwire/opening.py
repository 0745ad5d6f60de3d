"""Opens a bus on a run's folder: takes the next attempt, binds the sockets, and tells where they are."""

from __future__ import annotations

import atexit
import json
import os
import platform
import secrets
import sys
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from trainwire.bus import EventBus
from trainwire.endpoints import Endpoints, advertised
from trainwire_protocol.atomic import write_atomically
from trainwire_protocol.attempts import find_mark
from trainwire_protocol.connection import Connection, connection_path, write_connection
from trainwire_protocol.errors import UsageError
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.run_folder import Attempt, begin_attempt, list_attempts
from trainwire_protocol.server import HIGH_WATER_MARK, Server

FLUSH_SECONDS: Final = 0.02
"""How often the bus thread empties the queue."""

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
    bind: str | None = None,
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
        bind: `tcp://address:port` to be reached from other hosts, encrypted; port 0 is any. Left out, it is what the
            environment's TRAINWIRE_BIND says, or a socket of this host.
        flush_interval: seconds between two looks at the queue.
        high_water_mark: messages kept for a subscriber that does not read, before more are dropped.

    Raises:
        RunInUseError: a live trainer holds the run.
        UsageError: the folder cannot be written, the state is of another run, or `bind` cannot be bound.
    """
    run_folder = Path(folder).absolute()
    session, process = secrets.token_hex(8), ProcessIdentity.of_this_process()
    endpoints = Endpoints.choose(bind)
    attempt = begin_attempt(run_folder, rank, session, take_over=take_over)
    resumed = _resumption(run_folder, attempt, state)

    def open_server(bus: EventBus) -> Server:
        def introduce() -> dict[str, Any]:
            known = {"session": session, "world_size": world_size, "process": process._asdict()}
            return known | {"hparams": bus.hyperparameters}

        bus.on_close(endpoints.remove)
        server = endpoints.open(attempt, bus.describe, introduce, high_water_mark)
        connection = Connection(
            advertised(server.publish_endpoint), advertised(server.request_endpoint),
            attempt.run, rank, world_size, session, attempt.number, process, endpoints.client_keys,
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
