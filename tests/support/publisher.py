"""A small real publisher: the protocol's own journal and server, without the training process.

Run as a program, it records in a process that can be stopped and killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.recorder import Recorder
from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import Lease, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.auth import ServerKeys
from trainwire_protocol.transport.connection import Connection, connection_path, write_connection
from trainwire_protocol.transport.server import HIGH_WATER_MARK, Server
from trainwire_protocol.wire import Batch

BEAT_SECONDS = 0.1


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on its own event loop, for at most 50 seconds."""
    asyncio.run(asyncio.wait_for(main, 50))


class Publisher:
    """Publishes one attempt of a run, on the loop on which it is entered."""

    def __init__(
        self,
        folder: Path,
        *,
        rank: int = 0,
        high_water_mark: int = HIGH_WATER_MARK,
        take_over: bool = False,
        keys: ServerKeys | None = None,
    ) -> None:
        self.session = secrets.token_hex(4)
        self.folder = folder
        self.attempt = begin_attempt(folder, rank, self.session, take_over=take_over)
        self.recorder = Recorder(self.attempt.run, rank, self.attempt.number)
        self.recorded: list[Batch] = []
        """All batches that were journaled."""
        self._journal = JournalWriter(self.attempt.folder, segment_bytes=1 << 20)
        self._high_water_mark, self._keys = high_water_mark, keys
        # The path of a socket is limited to about 100 bytes, which the folders of tests may exceed.
        self._sockets = tempfile.mkdtemp(prefix="tw-", dir="/tmp")

    async def __aenter__(self) -> Self:
        names = ("tcp://127.0.0.1:*",) * 2 if self._keys else (f"ipc://{self._sockets}/p", f"ipc://{self._sockets}/r")
        process = ProcessIdentity.of_this_process()
        self.server = Server(
            self.attempt, *names, lambda: {"state": "running"}, lambda: {"process": process._asdict()},
            self._high_water_mark, self._keys,
        )  # fmt: skip
        self.connection = Connection(
            self.server.publish_endpoint, self.server.request_endpoint, self.attempt.run, self.attempt.rank, 1,
            self.session, self.attempt.number, process,
        )  # fmt: skip
        write_connection(connection_path(self.folder, self.attempt.rank), self.connection)
        self._tasks = [asyncio.create_task(self.server.answer_requests()), asyncio.create_task(self._beat())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets, without a last event and without releasing the lease if `end` did not."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.server.close(linger=0.2)
        self._journal.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def record(self, events: Sequence[Event], channel: str = "event") -> Batch:
        """Journal and publish events."""
        return self.publish(self.recorder.record(events, channel))

    def scalars(self, count: int = 1, channel: str = "event") -> Batch:
        """Journal and publish `count` scalars."""
        return self.publish(self.recorder.scalars(count, channel))

    def happened(self, name: str, **value: Any) -> Batch:
        """Journal and publish a lifecycle event."""
        return self.publish(self.recorder.happened(name, **value))

    def publish(self, batch: Batch) -> Batch:
        """Journal and publish a batch."""
        self._journal.append([batch])
        self.recorded.append(batch)
        self.server.publish(batch)
        return batch

    def rest(self) -> None:
        """Stop sending heartbeats."""
        self._tasks[1].cancel()

    def renew(self, *, released: bool = False) -> None:
        """Renew the lease, or release it."""
        process = ProcessIdentity.of_this_process()
        self.attempt.write_lease(Lease(process, self.session, time.time(), released=released))

    def end(self) -> None:
        """Record the end of the run, and release its lease."""
        self.happened("run/finished", last_seq=self.recorder.seq)
        self.server.beat()
        self.renew(released=True)

    async def _beat(self) -> None:
        while True:
            self.server.beat()
            await asyncio.sleep(BEAT_SECONDS)


async def main(folder: Path, batches: int, per_batch: int, *, end: bool) -> None:
    """Record batches on two channels, print the number of events, and then end or stay alive without recording."""
    async with Publisher(folder) as publisher:
        for number in range(batches):
            publisher.scalars(per_batch, "media" if number % 5 == 4 else "event")
        print(publisher.recorder.seq, flush=True)
        if end:
            publisher.end()
        else:
            await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("batches", type=int)
    parser.add_argument("per_batch", type=int)
    parser.add_argument("--end", action="store_true")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.folder, options.batches, options.per_batch, end=options.end))
