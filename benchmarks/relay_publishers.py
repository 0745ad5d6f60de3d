"""A process of `relay_scale` that publishes many ranks of one run, each with its own journal and sockets.

Each rank is a bus, or, with --simulated, the input and output of a bus without its threads: the same batches,
heartbeats, leases and replies, from the same servers and journals, on one event loop. Hundreds of buses with threads
would compete for the processor with the relay that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trainwire
from trainwire_protocol.events import Row
from trainwire_protocol.journal.run_folder import RENEWAL_SECONDS, Lease, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.connection import Connection, connection_path, write_connection
from trainwire_protocol.transport.endpoints import Endpoints, Tcp
from trainwire_protocol.transport.server import HIGH_WATER_MARK, Server, ServerContext
from trainwire_protocol.wire import Header, encode_batch

STEP_SECONDS = 0.1
CLOSE_SECONDS = 60.0
"""How long a publisher waits for the relay when it closes."""

BIND = "tcp://127.0.0.1:0"
VALUES = {f"metric-{number}": 0.5 for number in range(10)}


@dataclass(frozen=True)
class Options:
    """The command line options."""

    folder: Path
    ranks: Sequence[int]
    world_size: int
    flush: float
    """Seconds between the batches of a rank."""
    high_water_mark: int


def wait_for_start() -> tuple[float, float]:
    """Print that all ranks are reachable, and return the begin and end of the logging, read from standard input."""
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    return begin, begin + float(sys.stdin.readline())


def publish_by_buses(options: Options) -> None:
    """Log to one bus for each rank."""
    with ExitStack() as stack:
        buses = [
            stack.enter_context(
                trainwire.open_bus(
                    options.folder, rank=rank, world_size=options.world_size, bind=BIND,
                    flush_interval=options.flush, high_water_mark=options.high_water_mark,
                )
            )
            for rank in options.ranks
        ]  # fmt: skip
        begin, end = wait_for_start()
        step = 0
        while time.time() < end:
            step += 1
            time.sleep(max(0.0, begin + step * STEP_SECONDS - time.time()))
            for bus in buses:
                bus.log(VALUES, step=step)
        # All ranks of a cluster end at the same moment.
        with ThreadPoolExecutor(len(buses)) as closers:
            list(closers.map(lambda bus: bus.close(timeout=CLOSE_SECONDS), buses))


class SimulatedBus:
    """The input and output of a bus."""

    def __init__(self, options: Options, rank: int, endpoints: Endpoints, context: ServerContext) -> None:
        self._session = secrets.token_hex(8)
        self._attempt = begin_attempt(options.folder, rank, self._session)
        self._journal = JournalWriter(self._attempt.folder)
        self._process = ProcessIdentity.of_this_process()
        self._server = Server.open(
            self._attempt, endpoints, lambda: {"state": "running", "step": self._step},
            lambda: {"process": self._process._asdict(), "session": self._session, "world_size": options.world_size},
            options.high_water_mark, context,
        )  # fmt: skip
        connection = Connection(
            self._server.publish_endpoint, self._server.request_endpoint, self._attempt.run, rank, options.world_size,
            self._session, self._attempt.number, self._process, endpoints.client_keys,
        )  # fmt: skip
        write_connection(connection_path(options.folder, rank), connection)
        self._flush_interval = options.flush
        self._seq = self._step = 0
        self._replies = asyncio.ensure_future(self._server.answer_requests())

    async def run(self, begin: float, end: float) -> None:
        """Publish from `begin` to `end`, and wait for the relay."""
        self._publish([("run/started", {}, "lifecycle", time.time(), 0)])
        flushing = asyncio.ensure_future(self._flush(begin, end))
        beats = 0
        while not flushing.done():
            self._server.beat()
            if beats % RENEWAL_SECONDS == 0:
                self._attempt.write_lease(Lease(self._process, self._session, time.time()))
            beats += 1
            await asyncio.wait([flushing], timeout=1.0)
        await flushing
        self._publish([("run/finished", {"last_seq": self._seq}, "lifecycle", time.time(), self._step)], last=True)
        self._server.beat()
        await self._server.wait_for_sinks(self._seq - 1, CLOSE_SECONDS)
        self._replies.cancel()
        await asyncio.gather(self._replies, return_exceptions=True)
        self._server.close(linger=0.2)
        self._journal.close()
        self._attempt.release(self._session)

    async def _flush(self, begin: float, end: float) -> None:
        """Publish what a training logs, at each flush interval."""
        while time.time() < end:
            await asyncio.sleep(self._flush_interval)
            steps = range(self._step + 1, int((min(time.time(), end) - begin) / STEP_SECONDS) + 1)
            rows = [
                (name, value, "scalar", begin + step * STEP_SECONDS, step)
                for step in steps
                for name, value in VALUES.items()
            ]
            if rows:
                self._step = steps[-1]
                self._publish(rows)

    def _publish(self, rows: Sequence[Row], *, last: bool = False) -> None:
        attempt, before = self._attempt, dict(self._server.heads)
        header = Header(attempt.run, attempt.rank, attempt.number, "event", self._seq, len(rows), before, last=last)
        batch = encode_batch(header, rows)
        self._journal.append([batch])
        self._server.publish(batch)
        self._seq += len(rows)


async def publish_simulated(options: Options) -> None:
    """Publish from one simulated bus for each rank."""
    endpoints = Endpoints.choose(Tcp(BIND))
    context = ServerContext(endpoints.server_keys)
    publishers = [SimulatedBus(options, rank, endpoints, context) for rank in options.ranks]
    begin, end = await asyncio.to_thread(wait_for_start)
    shift = options.flush / len(publishers)
    await asyncio.gather(
        *(run_after(number * shift, publisher, begin, end) for number, publisher in enumerate(publishers))
    )
    context.close()


async def run_after(seconds: float, publisher: SimulatedBus, begin: float, end: float) -> None:
    await asyncio.sleep(max(0.0, begin + seconds - time.time()))
    await publisher.run(begin, end)


def main() -> None:
    """Parse the command line, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", required=True)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--flush", type=float, required=True)
    parser.add_argument("--high-water-mark", type=int, default=HIGH_WATER_MARK)
    given = parser.parse_args()
    options = Options(given.folder, given.ranks, given.world_size, given.flush, given.high_water_mark)
    if given.simulated:
        asyncio.run(publish_simulated(options))
    else:
        publish_by_buses(options)


if __name__ == "__main__":
    main()
