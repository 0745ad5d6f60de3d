"""Opens a bus on a run's folder: begins the next attempt, binds the sockets, and writes the connection file."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.notice import print_notice
from trainwire.bus.origin import NEW_START, find_append, find_state, report_superseded
from trainwire.bus.process_end import process_end
from trainwire_protocol.environment import RENDEZVOUS, LaunchEnvironment
from trainwire_protocol.errors import OptionError, TrainwireError, UsageError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.journal.run_folder import Attempt, begin_attempt, parse_folder
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.connection import Connection, connection_path, write_connection
from trainwire_protocol.transport.endpoints import Endpoints, Tcp
from trainwire_protocol.transport.server import HIGH_WATER_MARK, Server

FLUSH_SECONDS: Final = 0.02
"""Default time between two checks of the queue."""

CLOSE_TIMEOUT: Final = "TRAINWIRE_CLOSE_TIMEOUT"
"""Environment variable with the default of `close_timeout`, in seconds."""

CLOSE_SECONDS: Final = 2.0
"""Default of `close_timeout` if the variable is not set."""

MAX_SECONDS: Final = 3600.0
"""Upper bound of intervals and timeouts."""


def open_bus(
    folder: str | os.PathLike[str],
    *,
    hparams: Any = None,
    rank: int | None = None,
    world_size: int | None = None,
    state: Mapping[str, Any] | None = None,
    append: bool = False,
    take_over: bool = False,
    bind: str | Tcp | None = None,
    flush_interval: float = FLUSH_SECONDS,
    high_water_mark: int = HIGH_WATER_MARK,
    close_timeout: float | None = None,
    quiet: bool = False,
) -> EventBus:
    """Begin a run in a folder, or the next attempt of the run in it.

    Without `state` and `append`, a further attempt is a new start: it supersedes everything that was recorded before,
    and says so. What is superseded stays in the journal, where `--attempt` shows it, and sinks keep its outputs aside.

    Args:
        folder: the run's folder; created if it does not exist.
        hparams: the run's hyperparameters, to be recorded first: a mapping, or an object with fields.
        rank: the number of this process among `world_size`. Default: the one that torchrun or Slurm assigned, or 0.
        world_size: number of processes that train together and open a bus. Default: as torchrun or Slurm report, or 1.
        state: what `state_dict` returned in an earlier attempt, from which this attempt then continues. It supersedes
            what was recorded after that.
        append: add to what was recorded, and supersede nothing: for a test score of a finished run, for example. In a
            folder without a run, this begins one.
        take_over: continue even if another live trainer holds the run; that one then stops journaling.
        bind: address for encrypted connections from other hosts: `tcp://address:port`, port 0 for any free port, or a
            `Tcp` with further settings. Default: the environment variable TRAINWIRE_BIND, or only this host.
        flush_interval: seconds between two checks of the queue.
        high_water_mark: number of messages queued for a subscriber that does not read; further ones are dropped.
        close_timeout: seconds that `close` waits by default for the journal's disk and for sinks. Default: the
            environment variable TRAINWIRE_CLOSE_TIMEOUT, or 2.
        quiet: do not print on a terminal where the run is recorded; the environment variable TRAINWIRE_QUIET does the
            same.

    Raises:
        RunInUseError: a live trainer holds the run. In an interactive session, an earlier bus of this process is
            closed instead.
        OptionError: the value of an argument or environment variable is invalid.
        UsageError: the folder cannot be written, the state belongs to another run, or `bind` cannot be bound.
    """
    launched = LaunchEnvironment.read()
    rank = launched.rank if rank is None else rank
    world_size = launched.world_size if world_size is None else world_size
    _check_options(rank, world_size, state, append, flush_interval, high_water_mark)
    close_timeout = _choose_close_timeout(close_timeout)
    run_folder, session = parse_folder(folder), secrets.token_hex(8)
    fields = {"world_size": world_size, "python": platform.python_version()}
    fields |= {"job": launched.job} if launched.job else {}
    if not take_over:
        process_end().close_earlier(run_folder, rank)
    origin = NEW_START if state is None else find_state(run_folder, rank, state)
    attempt = begin_attempt(run_folder, rank, session, take_over=take_over)
    try:
        if append:
            origin = find_append(run_folder, attempt)
        else:
            report_superseded(run_folder, attempt, origin)
        endpoints = Endpoints.choose(Tcp.from_environment(bind))
    except TrainwireError:
        attempt.abandon()
        raise
    open_server = partial(
        _open_server, attempt=attempt, world_size=world_size, endpoints=endpoints, high_water_mark=high_water_mark
    )
    bus = EventBus(run_folder, attempt, session, open_server, flush_interval, close_timeout)
    try:
        bus.start({"run": bus.run, "rank": bus.rank, **fields}, origin.fields() if attempt.number else None)
    except BaseException:
        endpoints.remove()
        attempt.abandon()
        raise
    bus.on_close(endpoints.remove)
    if hparams is not None:
        bus.hparams(hparams)
    process_end().add(bus)
    bus.on_close(partial(process_end().remove, bus))
    rendezvous = os.environ.get(RENDEZVOUS)
    if rendezvous and Path(rendezvous).is_dir():
        pointer = {"folder": str(bus.folder), "rank": bus.rank}
        write_atomically(Path(rendezvous) / f"{session}.json", json.dumps(pointer).encode())
    print_notice(bus.folder, bus.rank, quiet=quiet)
    return bus


def _check_options(
    rank: int, world_size: int, state: object, append: object, flush_interval: float, high_water_mark: int
) -> None:
    is_rank = _is_count(rank) and _is_count(world_size) and rank < world_size
    is_interval = isinstance(flush_interval, (int, float)) and 0 < flush_interval < MAX_SECONDS
    is_mark = _is_count(high_water_mark) and high_water_mark > 0
    checks = {
        f"rank is {rank!r}; it must be a number below world_size, which is {world_size!r}": is_rank,
        f"state is {state!r:.60}; it must be what state_dict returned": state is None or isinstance(state, Mapping),
        f"append is {append!r:.60}; it must be True or False": isinstance(append, bool),
        "append=True supersedes nothing, and state= what was recorded after it: pass one of them": (
            not append or state is None
        ),
        f"flush_interval is {flush_interval!r}; it must be a number of seconds above 0 and below 3600": is_interval,
        f"high_water_mark is {high_water_mark!r}; it must be a number of at least 1": is_mark,
    }
    problem = next((message for message, is_valid in checks.items() if not is_valid), None)
    if problem:
        raise OptionError(f"open_bus: {problem}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _choose_close_timeout(given: float | None) -> float:
    """Return the given timeout, or that of the environment.

    Raises:
        OptionError: it is invalid.
    """
    source, value = ("close_timeout", given) if given is not None else (CLOSE_TIMEOUT, os.environ.get(CLOSE_TIMEOUT))
    if value is None:
        return CLOSE_SECONDS
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise OptionError(f"open_bus: {source} is {value!r:.60}; it must be a number of seconds from 0 to 3600")
    return seconds


def _open_server(
    bus: EventBus, *, attempt: Attempt, world_size: int, endpoints: Endpoints, high_water_mark: int
) -> Server:
    """Bind the bus's server, and write the connection file; called on the bus thread.

    Raises:
        UsageError: the endpoints cannot be bound, or the file cannot be written.
    """
    process = ProcessIdentity.of_this_process()
    known = {"session": bus.session, "world_size": world_size, "process": process._asdict()}
    server = Server.open(
        attempt, endpoints, bus.describe, lambda: known | {"hparams": bus.hyperparameters}, high_water_mark
    )
    server.responder.on_command = bus.receive_command
    server.connection = Connection(
        server.publish_endpoint, server.request_endpoint,
        attempt.run, attempt.rank, world_size, bus.session, attempt.number, process,
        endpoints.client_keys,
    )  # fmt: skip
    try:
        write_connection(connection_path(bus.folder, attempt.rank), server.connection)
    except OSError as error:
        server.close(linger=0)
        raise UsageError(f"the connection file in {bus.folder} cannot be written: {error}") from error
    return server
