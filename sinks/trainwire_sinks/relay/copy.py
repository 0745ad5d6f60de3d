"""The copies of a relay, each a journal with the batches of one rank, and the thread that writes them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

from trainwire_protocol.journal.run_folder import Lease, copy_attempt, list_attempts
from trainwire_protocol.journal.segments import JournalReader, JournalWriter, recover
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import START, Batch, Cursor

HPARAMS: Final = b"hparams"

Call: TypeAlias = tuple[Callable[[], None], "asyncio.Future[None]"]


class Copy:
    """The copied journal of one rank. Its methods block on files, so they must not be called on an event loop."""

    def __init__(self, folder: Path, run: str, rank: int, session: str) -> None:
        """Open the copy, or create one.

        Args:
            folder: the folder of the copied run.
            run: the run's name.
            rank: the rank that is copied.
            session: the relay's session.

        Raises:
            UsageError: the folder holds another run.
            OSError: the folder cannot be read or written.
        """
        self.folder, self.run, self.rank = folder, run, rank
        self.cursor = START
        """The position up to which the journal is complete."""
        self.ended: str | None = None
        """The name of the last event of the attempt in progress, once it is copied."""
        self.heads: dict[str, int] = {}
        """The seq of the last event of each channel in that attempt."""
        self.hparams: dict[str, Any] = {}
        self._session = session
        known = list_attempts(folder, rank)
        self.attempt = copy_attempt(folder, run, rank, known[-1].number if known else 0)
        self.cursor = Cursor(self.attempt.number, -1)
        self._writer = JournalWriter(self.attempt.folder)
        last = recover(self.attempt.folder)
        if last:
            self._advance(last)
        for attempt in known:
            with contextlib.closing(JournalReader(attempt.folder)) as reader:
                self._collect_hparams(reader.read())

    def begin_attempt(self, number: int) -> None:
        """Continue with a later attempt."""
        self._writer.close()
        self.attempt = copy_attempt(self.folder, self.run, self.rank, number)
        self._writer = JournalWriter(self.attempt.folder)
        self.cursor, self.ended = Cursor(number, -1), None
        self.heads = {}
        self.write_lease()

    def append(self, batches: Sequence[Batch]) -> None:
        """Append batches of the attempt in progress to the journal.

        Raises:
            OSError: the disk rejected them. None of them was kept, so the call can be repeated.
        """
        self._writer.append(batches)
        for batch in batches:
            self._advance(batch)
        self._collect_hparams(batches)

    def write_lease(self) -> None:
        """Write or renew the lease. It is valid while the attempt is copied, including a restart of the relay."""
        process = ProcessIdentity.of_this_process()
        self.attempt.write_lease(Lease(process, self._session, time.time(), relay=True))

    def renew_lease(self) -> None:
        """Renew the lease; an error is ignored, as the next renewal follows soon."""
        with contextlib.suppress(OSError):
            self.write_lease()

    def end(self, trainer: ProcessIdentity | None) -> None:
        """End the attempt: release its lease if its last event is copied, otherwise write its dead trainer's lease."""
        process = trainer or ProcessIdentity.of_this_process()
        self.attempt.write_lease(Lease(process, self._session, time.time(), released=self.ended is not None))

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    def _advance(self, batch: Batch) -> None:
        header = batch.header
        self.cursor = batch.cursor
        self.heads = {**header.before, header.channel: batch.cursor.seq}
        if header.last:
            events = events_of(batch)
            self.ended = events[-1].name if events else "run/finished"

    def _collect_hparams(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if HPARAMS in batch.body:
                for event in events_of(batch):
                    self.hparams |= event.value if event.type == "hparams" else {}


class CopyWriter:
    """Calls functions for all copies on one thread; functions that are submitted meanwhile are called together."""

    def __init__(self) -> None:
        """Start, on the running event loop."""
        self._pending: list[Call] = []
        self._has_calls = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "trainwire-copies")
        self._task = asyncio.ensure_future(self._run())

    def submit(self, function: Callable[[], None]) -> asyncio.Future[None]:
        """Call `function` after everything submitted before; it is called even if the result is not awaited."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((function, done))
        self._has_calls.set()
        return done

    async def close(self) -> None:
        """Finish the pending calls and stop."""
        await self.submit(lambda: None)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_calls.wait()
            self._has_calls.clear()
            calls, self._pending = self._pending, []
            errors = await loop.run_in_executor(self._thread, _call_all, calls)
            for (_, done), error in zip(calls, errors, strict=True):
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)


def _call_all(calls: Sequence[Call]) -> list[Exception | None]:
    errors: list[Exception | None] = []
    for function, _ in calls:
        try:
            function()
            errors.append(None)
        except Exception as error:
            errors.append(error)
    return errors
