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

from trainwire_protocol.errors import IncompleteError, OutputError, SinkBugError, SinkError
from trainwire_protocol.wire import START, Batch, Cursor, Header, encode_batch
from trainwire_sinks import AppendSink, Event, Sink
from trainwire_sinks.runtime import source
from trainwire_sinks.runtime.claim import Claim
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.retry import RetryPolicy
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.runtime.sink import PublisherStatus
from trainwire_sinks.runtime.source import BatchSource
from trainwire_sinks.testing.check_sink import Recording, record, run_sink

QUICK = RetryPolicy(retries=3, first_delay=0.001)


class Names(AppendSink):
    """Appends the name of each event."""

    name = "names"
    file_name = "names.txt"

    async def handle(self, events: Sequence[Event]) -> None:
        await self.output.write("".join(f"{event.name}\n" for event in events))


class Live(Recording):
    """A recording after which the run continues without events, or ends with an error."""

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

    async def acknowledge(self, cursor: Cursor) -> bool:
        self.acknowledged.append(cursor)
        return True


def named(*names: str) -> list[Event]:
    return [Event(name, 1.0, "scalar", 0.0, 0) for name in names]


BATCHES = record([named("a"), named("b"), named("c")])


def subscribe_to(batches: Sequence[Batch]) -> Callable[[Cursor, bool], AbstractAsyncContextManager[BatchSource]]:
    return lambda cursor, _: Recording(batch for batch in batches if batch.cursor > cursor)


def run(sink: Callable[[], Sink], folder: Path, batches: Sequence[Batch] = BATCHES) -> None:
    asyncio.run(SinkRunner(sink, subscribe_to(batches), folder, retry_policy=QUICK, commit_interval=0).run())


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
    """No file is accessed on the event loop, which the subscription uses as well."""
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_a_commit_does_not_need_another_event(tmp_path: Path) -> None:
    """Handled events are committed and acknowledged after the interval, without a further event."""
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


def test_a_sink_reports_its_position_from_the_start_and_repeatedly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closing trainer waits for a sink that has had no event yet, or none for long, so it must know its position."""
    monkeypatch.setattr(source, "REPEAT_SECONDS", 0.01)
    live = Live([])

    async def run() -> None:
        runner = SinkRunner(Names, lambda *_: live, tmp_path)
        running = asyncio.create_task(runner.run())
        while len(live.acknowledged) < 3:
            await asyncio.sleep(0)
        runner.stop()
        await running

    asyncio.run(run())
    assert set(live.acknowledged) == {START}


def test_a_sink_that_is_stopped_commits_everything(tmp_path: Path) -> None:
    """Stopping ends the wait for the next batch, and commits the handled events."""

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


def test_what_was_read_is_committed_before_an_incomplete_end(tmp_path: Path) -> None:
    """An error of the subscription ends the sink after a commit of everything read before it."""

    async def run() -> None:
        live = Live(BATCHES, IncompleteError("the rest is unavailable"))
        await SinkRunner(Names, lambda *_: live, tmp_path, commit_interval=3600).run()

    with pytest.raises(IncompleteError, match="the rest"):
        asyncio.run(run())
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert CursorFile(tmp_path, "names", 0).load().point.cursor == Cursor(0, 2)  # type: ignore[union-attr]  # it is there


def test_an_unjournaled_batch_is_skipped(tmp_path: Path) -> None:
    """A batch marked unjournaled does not reach the output, which receives it once it is journaled."""
    header = Header("recorded", 0, 0, "event", 1, 1, {"event": 0}, unjournaled=True)
    run(Names, tmp_path, [BATCHES[0], encode_batch(header, named("live")), BATCHES[1]])
    assert names_in(tmp_path) == ["a", "b"]


def failing_at(
    name: str, times: int, error: Exception, retried: tuple[type[Exception], ...] = (OSError,)
) -> Callable[[], Sink]:
    """Create sinks that raise when they receive an event of this name, `times` times in total."""
    left = [times]

    class Failing(Names):
        retries_on = retried

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
    """A failure rolls back what was written since the commit, so that the retry writes it once."""
    with caplog.at_level(logging.WARNING, "trainwire"):
        run(failing_at("b", 2, ConnectionError("no")), tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "names failed after attempt 0, seq 0: ConnectionError: no"
    ] * 2


def test_a_sink_that_keeps_failing_stops_with_its_reason(tmp_path: Path) -> None:
    """After its retries a sink stops with an error that names the position; a later start continues."""
    with pytest.raises(OutputError, match=r"seq 0: ConnectionError: no; gave up after 4 attempts") as caught:
        run(failing_at("b", 99, ConnectionError("no")), tmp_path)
    assert isinstance(caught.value.__cause__, ConnectionError)
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [KeyError("loss"), ValueError("no number"), ZeroDivisionError(), RuntimeError("odd")])
def test_a_bug_in_a_sink_is_not_retried(tmp_path: Path, error: Exception) -> None:
    """An error that waiting cannot cure ends the sink at once, with its cursor intact."""
    with pytest.raises(SinkBugError, match=type(error).__name__) as caught:
        run(failing_at("b", 1, error), tmp_path)
    assert caught.value.__cause__ is error
    run(Names, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_a_sink_names_the_errors_of_its_client(tmp_path: Path) -> None:
    """An error in `retries_on` is retried, and reported as the sink's own once the retries are used up."""

    class ClientError(Exception):
        pass

    with pytest.raises(SinkError, match="ClientError: busy; gave up after 4 attempts"):
        run(failing_at("b", 99, ClientError("busy"), (OSError, ClientError)), tmp_path)
    run(failing_at("b", 2, ClientError("busy"), (OSError, ClientError)), tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_failures_are_counted_from_the_last_progress(tmp_path: Path) -> None:
    """Only failures without a commit in between are added up."""
    failing = failing_at("a", 3, ConnectionError("first"))
    also = failing_at("c", 3, ConnectionError("later"))
    instances = []

    def make() -> Sink:
        instances.append(None)
        return failing() if len(instances) < 8 else also()

    run(make, tmp_path)
    assert names_in(tmp_path) == ["a", "b", "c"]


def test_a_full_disk_is_retried_and_then_reported(tmp_path: Path) -> None:
    """A write that fails for lack of space is retried, and then ends the sink with an output error."""
    with pytest.raises(OutputError, match=r"No space left.*gave up after 4 attempts"):
        run(failing_at("b", 99, OSError(errno.ENOSPC, "No space left on device")), tmp_path)


def test_a_real_write_without_space_fails_the_output(tmp_path: Path) -> None:
    """On a full device the sink ends with an output error, not with one from closing the file."""
    (tmp_path / "names.txt").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        run(Names, tmp_path)


def test_a_permanent_error_is_not_retried(tmp_path: Path) -> None:
    """An output that waiting does not make writable ends the sink at its first failure."""
    (tmp_path / "rank-1").write_text("")
    runner = SinkRunner(Names, subscribe_to(BATCHES), tmp_path, 1, retry_policy=RetryPolicy(first_delay=3600))
    with pytest.raises(OutputError, match=r"rank-1.*--output"):
        asyncio.run(runner.run())


def test_a_claimed_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes the output, the runner waits a moment and then names the process."""
    monkeypatch.setattr("trainwire_sinks.runtime.runner.CLAIM_WAIT", 0.2)
    claim = Claim(tmp_path, "names", 0)
    claim.take()
    with pytest.raises(OutputError, match="is being written by process"):
        run(Names, tmp_path)
    claim.release()


def test_an_output_that_is_released_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink that is just ending, as when a run is resumed at once, is waited for."""

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


def test_the_run_is_read_again_without_superseded_events(tmp_path: Path) -> None:
    """A resumption from an unknown mark leads to a second pass, and to the correct output."""
    resumed = Event("run/resumed", {"from": {"attempt": 0, "seq": 0}, "from_step": 0}, "lifecycle", 0.0, 0)
    run_sink(Names, tmp_path, record([named("a"), named("b")], [[resumed, *named("c")]]))
    assert names_in(tmp_path) == ["a", "run/resumed", "c"]


def test_an_output_of_another_run_is_refused_before_reading(tmp_path: Path) -> None:
    """If the run's name is known, the output is refused before any event is read."""
    run(Names, tmp_path)
    runner = SinkRunner(Names, lambda *_: Live([]), tmp_path, run="another")
    with pytest.raises(OutputError, match="not to run another"):
        asyncio.run(runner.run())


def test_tick_is_called_at_its_interval(tmp_path: Path) -> None:
    """It is called while no event arrives and once when the run is over, and its result is committed."""
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
