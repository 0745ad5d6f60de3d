"""Journals that have lost their end, and clocks that jump."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest
from support.run_reader import read_batches, read_events, wait_until

import trainwire
from trainwire_protocol.errors import CursorAheadError, RunInUseError
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.cli import app
from trainwire_sinks.runtime.exit_codes import ExitCode

SINKS = {"loss-file": "loss.tsv", "log-file": "training.log", "jsonl": "events.jsonl"}


def train(folder: Path, epochs: range, state: dict[str, object] | None = None) -> dict[str, object]:
    """Record epochs, and return the state after the first one."""
    bus = trainwire.open_bus(folder, state=state)
    for epoch in epochs:
        bus.log({"train/loss": 1 / epoch}, step=epoch)
        bus.lifecycle("epoch/finished", epoch=epoch, complete=True, metrics={"train/loss": 1 / epoch})
        marked = bus.state_dict()
        assert bus.wait_until_journaled(marked, 10)
        state = marked if epoch == epochs[0] else state
    bus.close()
    assert state
    return state


def truncate_journal(folder: Path, attempt: int, keep: int) -> None:
    """Cut an attempt's journal to its first `keep` batches, as a crash of the host may."""
    batches = read_batches(folder, attempt=attempt)
    (segment,) = list_attempts(folder, 0)[attempt].folder.glob("*.journal")
    segment.write_bytes(b"".join(map(encode_record, batches[:keep])))


def run_sinks(folder: Path, output: Path, code: ExitCode = ExitCode.OK) -> None:
    for name in SINKS:
        assert app.run(["sink", name, str(folder), "--output", str(output)]) == code


def outputs(place: Path) -> list[bytes]:
    return [(place / name).read_bytes() for name in SINKS.values()]


def test_a_truncated_journal_of_a_run_that_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sinks that have read more than the journal holds report it, exit as incomplete, and keep their output."""
    folder, output = tmp_path / "run", tmp_path / "out"
    train(folder, range(1, 4))
    run_sinks(folder, output)
    before = outputs(output)
    truncate_journal(folder, 0, keep=3)
    run_sinks(folder, output, ExitCode.INCOMPLETE)
    assert "its disk has lost data" in capsys.readouterr().err
    assert outputs(output) == before


@pytest.mark.parametrize("keeps_mark", [True, False])
def test_a_truncated_journal_of_a_run_that_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keeps_mark: bool
) -> None:
    """When the run is resumed, sinks that were ahead rewrite their output, which equals that of a late sink."""
    folder, output = tmp_path / "run", tmp_path / "out"
    state = train(folder, range(1, 4))
    run_sinks(folder, output)
    marked = next(number for number, batch in enumerate(read_batches(folder)) if b"run/marked" in batch.body)
    truncate_journal(folder, 0, keep=marked + 1 if keeps_mark else marked - 1)
    train(folder, range(2, 5), state)
    run_sinks(folder, output, ExitCode.INCOMPLETE)
    run_sinks(folder, tmp_path / "late", ExitCode.INCOMPLETE)
    assert "its disk has lost data; rewriting its output" in capsys.readouterr().err.replace("\n", " ")
    assert outputs(output) == outputs(tmp_path / "late")


def test_a_cursor_in_a_missing_attempt(tmp_path: Path) -> None:
    """A cursor in an attempt that does not exist raises an error immediately."""
    train(tmp_path, range(1, 3))

    async def read() -> list[Batch]:
        async with Subscription(Target(tmp_path), cursor=Cursor(3, 10)) as subscription:
            return [batch async for batch in subscription]

    with pytest.raises(CursorAheadError, match="no attempt 3"):
        asyncio.run(asyncio.wait_for(read(), 10))


def test_a_cursor_ahead_of_a_publisher(tmp_path: Path) -> None:
    """A cursor ahead of the resumed run is also detected by a reader that has no access to its files."""
    state = train(tmp_path, range(1, 4))
    truncate_journal(tmp_path, 0, keep=3)

    async def read() -> None:
        subscription = Subscription(Target(tmp_path), cursor=Cursor(0, 1000), use_journal=False)
        async with subscription:
            async for _ in subscription:
                pass

    with trainwire.open_bus(tmp_path, state=state), pytest.raises(CursorAheadError, match="was read up to 1000"):
        asyncio.run(asyncio.wait_for(read(), 20))


def lease_age(folder: Path) -> float:
    """Return how many seconds a lease's time differs from the clock's."""
    lease = list_attempts(folder, 0)[0].read_lease()
    return abs(time.time() - lease.renewed) if lease else math.inf


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Order, steps, sinks and the lease are not affected; walltimes are those of the clock."""
    now = time.time
    monkeypatch.setattr("trainwire.bus.writer.RENEWAL_SECONDS", 0.02)
    with trainwire.open_bus(tmp_path / "run") as bus:
        bus.log({"train/loss": 1.0}, step=1)
        wait_until(lambda: len(read_events(tmp_path / "run")) == 2)
        for module in ("trainwire.bus.queue.time", "time.time"):
            monkeypatch.setattr(module, lambda: now() + jump)
        bus.log({"train/loss": 2.0}, step=2)
        wait_until(lambda: lease_age(tmp_path / "run") < 60)
        with pytest.raises(RunInUseError):
            trainwire.open_bus(tmp_path / "run")
        monkeypatch.undo()
        bus.log({"train/loss": 3.0}, step=3)
    events = [event for event in read_events(tmp_path / "run") if event.name == "train/loss"]
    assert [event.step for event in events] == [1, 2, 3]
    assert abs(events[1].walltime - events[0].walltime - jump) < 60
    run_sinks(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "events.jsonl").read_text().count("train/loss") == 3
    assert (tmp_path / "out" / "training.log").read_text().count("\n") == 2
