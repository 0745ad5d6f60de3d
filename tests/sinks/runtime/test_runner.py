from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from trainwire_protocol.errors import IncompleteError, OutputError, SinkError
from trainwire_protocol.wire import Batch, Cursor, Header, encode_batch
from trainwire_sinks import AppendSink, Event, Sink
from trainwire_sinks.runtime.base import PublisherStatus
from trainwire_sinks.runtime.claim import Claim
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.retry import RetryPolicy
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.runtime.source import BatchSource
from trainwire_sinks.testing.check_sink import Recording, record, run_sink

HASTE = RetryPolicy(retries=3, first_delay=0.001)


class Names(AppendSink):
    """Appends the names of all events."""

    name = "names"
    file_name = "names.txt"

    async def handle(self, events: Sequence[Event]) -> None:
        await self.output.write("".join(f"{event.name}\n" for event in events))


class Live(Recording):
    """A recording after whose end the run goes on without events, or breaks off with an error."""

    def __init__(self, batches: Sequence[Batch], end: Exception | None = None) -> None:
        super().__init__(batches)
        self._end = end
        self.is_read = asyncio.Event()
        self.acknowledged: list[Cursor] = []

    async def __anext__(self) -> Batch:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            self.is_read.set()
            if self._end is not None:
                raise self._end from None
            await asyncio.Event().wait()
            raise

    async def acknowledge(self, cursor: Cursor) -> None:
        self.acknowledged.append(cursor)


def named(*names: str) -> list[Event]:
    return [Event(name, 1.0, "scalar", 0.0, 0) for name in names]


BATCHES = record([named("a"), named("b"), named("c")])


def subscribe_to(batches: Sequence[Batch]) -> Callable[[Cursor, bool], AbstractAsyncContextManager[BatchSource]]:
    return lambda cursor, _: Recording(batch for batch in batches if batch.cursor > cursor)


def run(sink: Callable[[], Sink], folder: Path, batches: Sequence[Batch] = BATCHES) -> None:
    asyncio.run(SinkRunner(sink, subscribe_to(batches), folder, retry_policy=HASTE, commit_interval=0).run())


def names_in(folder: Path) -> list[str]:
    return (folder / "names.txt").read_text().split()


@pytest.fixture
def blocking_calls() -> AsyncIterator[BlockBuster]:
    with blockbuster_ctx("trainwire_sinks") as buster:
        yield buster


def test_a_sink_reads_to_the_runs_end(tmp_path: Path) -> None:
    """When the run is over, everything is written and committed."""
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert CursorFile(tmp_path, "names", 0).load().point.cursor == Cursor(0, 2)  # type: ignore[union-attr]  # it is there


def test_the_event_loop_is_never_blocked(tmp_path: Path, blocking_calls: BlockBuster) -> None:
    """No file is touched on the event loop, which the subscription needs as well."""
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_a_commit_comes_while_nothing_happens(tmp_path: Path) -> None:
    """What was handled is committed and acknowledged after the interval, though no further event comes."""
    live = Live(BATCHES)

    async def run() -> None:
        runner = SinkRunner(Names, lambda *_: live, tmp_path, commit_interval=0.01)
        running = asyncio.create_task(runner.run())
        while live.acknowledged[-1:] != [Cursor(0, 2)]:
            await asyncio.sleep(0)
        assert names_in(tmp_path) == ["a", "b", "c"]
        runner.stop()
        await running

    asyncio.run(run())


def test_a_sink_that_is_stopped_leaves_everything_committed(tmp_path: Path) -> None:
    """Stopping ends the wait for the next batch, and commits what was handled."""

    async def run() -> None:
        live = Live(BATCHES)
        runner = SinkRunner(Names, lambda *_: live, tmp_path, commit_interval=3600)
        running = asyncio.create_task(runner.run())
        await live.is_read.wait()
        runner.stop()
        runner.stop()
        await running

    asyncio.run(run())
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert CursorFile(tmp_path, "names", 0).load().point.cursor == Cursor(0, 2)  # type: ignore[union-attr]  # it is there


def test_what_could_be_had_is_committed_before_the_incomplete_end(tmp_path: Path) -> None:
    """A subscription that cannot go on ends the sink with its error, and with the cursor at what it had."""

    async def run() -> None:
        live = Live(BATCHES, IncompleteError("the rest cannot be had"))
        await SinkRunner(Names, lambda *_: live, tmp_path, commit_interval=3600).run()

    with pytest.raises(IncompleteError, match="the rest"):
        asyncio.run(run())
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert CursorFile(tmp_path, "names", 0).load().point.cursor == Cursor(0, 2)  # type: ignore[union-attr]  # it is there


def test_a_batch_that_is_on_no_disk_is_left(tmp_path: Path) -> None:
    """A batch marked unjournaled does not reach the output, and comes again once it is journaled."""
    header = Header("recorded", 0, 0, "event", 1, 1, {"event": 0}, unjournaled=True)
    run(Names, tmp_path, [BATCHES[0], encode_batch(header, named("live")), BATCHES[1]])
    assert names_in(tmp_path) == ["a", "b"]


def failing_at(name: str, times: int, error: Exception) -> Callable[[], Sink]:
    """Makes sinks that fail, all together so many times, when they get an event of this name."""
    left = [times]

    class Failing(Names):
        async def handle(self, events: Sequence[Event]) -> None:
            await super().handle(events)
            if events[0].name == name and left[0]:
                left[0] -= 1
                await self.output.flush()
                raise error

    return Failing


def test_a_sink_that_fails_is_tried_again_from_its_last_commit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure takes back what was written since the commit, so that the retry writes it once."""
    with caplog.at_level(logging.WARNING, "trainwire"):
        run(failing_at("b", 2, ValueError("no")), tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "names failed behind attempt 0, seq 0: ValueError: no"
    ] * 2


def test_a_sink_that_keeps_failing_stops_with_its_reason(tmp_path: Path) -> None:
    """After its retries a sink gives up, with the place and the cursor of its last commit; a later start goes on."""
    with pytest.raises(SinkError, match=r"seq 0: ValueError: no; gave up after 4 tries") as caught:
        run(failing_at("b", 99, ValueError("no")), tmp_path)
    assert isinstance(caught.value.__cause__, ValueError)
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_failures_count_anew_after_progress(tmp_path: Path) -> None:
    """Only failures without any progress between them add up."""
    failing = failing_at("a", 3, ValueError("first"))
    also = failing_at("c", 3, ValueError("later"))
    instances = []

    def make() -> Sink:
        instances.append(None)
        return failing() if len(instances) < 8 else also()

    run(make, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_a_full_disk_is_waited_for_and_then_named(tmp_path: Path) -> None:
    """A write that fails for want of space is tried again, and ends the sink as a failed output."""
    with pytest.raises(OutputError, match=r"No space left.*gave up after 4 tries"):
        run(failing_at("b", 99, OSError(errno.ENOSPC, "No space left on device")), tmp_path)


def test_a_real_write_without_space_fails_the_output(tmp_path: Path) -> None:
    """On a device that is always full the sink ends with an output error, and no traceback from closing the file."""
    (tmp_path / "names.txt").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        run(Names, tmp_path)


def test_a_file_in_the_way_is_not_waited_for(tmp_path: Path) -> None:
    """An output that no waiting makes writable ends the sink at its first failure."""
    (tmp_path / "rank-1").write_text("")
    runner = SinkRunner(Names, subscribe_to(BATCHES), tmp_path, 1, retry_policy=RetryPolicy(first_delay=3600))
    with pytest.raises(OutputError, match=r"rank-1.*--output"):
        asyncio.run(runner.run())


def test_an_output_that_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes the output the runner waits a moment, and then says who it is."""
    monkeypatch.setattr("trainwire_sinks.runtime.runner.CLAIM_WAIT", 0.2)
    claim = Claim(tmp_path, "names", 0)
    claim.take()
    with pytest.raises(OutputError, match="is being written by process"):
        run(Names, tmp_path)
    claim.release()


def test_an_output_that_is_let_go_of_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink that is just ending, as of a run that is resumed at once, is waited for."""

    async def start() -> None:
        claim = Claim(tmp_path, "names", 0)
        claim.take()
        running = asyncio.create_task(SinkRunner(Names, subscribe_to(BATCHES), tmp_path).run())
        while "waiting 3 s for it to end" not in caplog.text:
            await asyncio.sleep(0)
        claim.release()
        await running

    with caplog.at_level(logging.INFO, "trainwire"):
        asyncio.run(start())
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_the_run_is_read_again_without_what_is_superseded(tmp_path: Path) -> None:
    """A resumption from a mark that is not known leads to a second reading, and to the output that it should have."""
    resumed = Event("run/resumed", {"from": {"attempt": 0, "seq": 0}, "from_step": 0}, "lifecycle", 0.0, 0)
    run_sink(Names, tmp_path, record([named("a"), named("b")], [[resumed, *named("c")]]))
    assert names_in(tmp_path) == ["a", "run/resumed", "c"]


def test_an_output_of_another_run_is_refused_before_reading(tmp_path: Path) -> None:
    """If the run's name is known, nothing of it has to be read to refuse."""
    run(Names, tmp_path)
    runner = SinkRunner(Names, lambda *_: Live([]), tmp_path, run="another")
    with pytest.raises(OutputError, match="this is run another"):
        asyncio.run(runner.run())


def test_a_sink_that_watches_the_time_is_called(tmp_path: Path) -> None:
    """It is called while nothing comes and once when the run is over, and what it then has is committed."""
    statuses: list[PublisherStatus] = []

    class Watcher(AppendSink):
        name = "watcher"
        file_name = "watched.txt"
        tick_interval = 0.01

        async def handle(self, events: Sequence[Event]) -> None:
            return

        async def tick(self, status: PublisherStatus) -> bool:
            statuses.append(status)
            await self.output.write("tick\n")
            return True

    class Halting(Recording):
        async def __anext__(self) -> Batch:
            committed = tmp_path / ".trainwire" / "watcher-rank0.cursor"
            while len(statuses) < 3 or json.loads(committed.read_bytes())["length"] < 10:
                await asyncio.sleep(0.005)
            return await super().__anext__()

    async def run() -> None:
        runner = SinkRunner(Watcher, lambda *_: Halting(record([[]])), tmp_path, commit_interval=0.02)
        await asyncio.wait_for(runner.run(), 20)

    asyncio.run(run())
    assert [status.is_over for status in statuses] == [False] * (len(statuses) - 1) + [True]
    assert (tmp_path / "watched.txt").read_text() == "tick\n" * len(statuses)
