"""For who writes a sink: run it on a recorded run, and check that each event takes effect exactly once.

    def test_epoch_times(tmp_path):
        check_sink(EpochTimes, tmp_path)

needs no trainer, socket or second process. `record` makes a run of your own events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from trainwire_protocol.events import LAST_EVENTS, Event, validate
from trainwire_protocol.journal.attempts import kept_ranges, resumed_from
from trainwire_protocol.wire import Batch, Cursor, Header, encode_batch
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.testing.sample import sample_attempts

MakeSink = Callable[[], Sink]
P = ParamSpec("P")
R = TypeVar("R")


class _KilledError(BaseException):
    """Stands for the death of the process: nothing that catches an `Exception` sees it."""


class Reaper:
    """Counts the moments at which a process may die, and makes it die at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.passed = 0
        self.last = ""
        """What was about to be done at the last moment that was passed."""

    def pass_by(self, what: str) -> None:
        """Die here, if this is the moment."""
        self.last = what
        self.passed += 1
        if self.passed == self.at:
            raise _KilledError


class Recording:
    """The batches of a run, to be read as by a `Subscription`; also a source of batches for a `SinkRunner`."""

    heartbeat = None
    silence = 0.0

    def __init__(self, batches: Iterable[Batch], reaper: Reaper | None = None) -> None:
        self._batches = iter(batches)
        self._reaper = reaper or Reaper()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch."""
        self._reaper.pass_by("reading a batch")
        for batch in self._batches:
            return batch
        raise StopAsyncIteration

    async def acknowledge(self, cursor: Cursor) -> None:  # as a Subscription has it
        """Nobody waits for it."""


def record(*attempts: Sequence[Sequence[Event]], run: str = "recorded") -> list[Batch]:
    """A run of one rank: its attempts, their batches, their events.

    Raises:
        InvalidEventError: an event cannot be on the wire.
    """
    return [batch for number, attempt in enumerate(attempts) for batch in _record_attempt(run, number, attempt)]


def sample_run() -> list[Batch]:
    """A run with events of every type, odd names and values, and a resumption that supersedes an epoch."""
    return record(*sample_attempts())


def run_sink(make_sink: MakeSink, folder: Path, batches: Sequence[Batch]) -> None:
    """Run a sink on recorded batches, to its end; its output is in `folder`."""
    _run(make_sink, folder, batches, Reaper(), commit_interval=1.0)


def check_sink(make_sink: MakeSink, folder: Path, batches: Sequence[Batch] | None = None) -> None:
    """Check that a sink writes the same bytes, however often it commits and wherever it is killed and started again.

    Args:
        make_sink: makes the sink: its class, or a function without arguments.
        folder: an empty folder to work in.
        batches: the run; `sample_run()` if left out.

    Raises:
        AssertionError: it does not; says after what, in which file and from which byte on.
    """
    batches = sample_run() if batches is None else batches
    reaper = Reaper()
    _run(make_sink, folder / "whole", batches, reaper, commit_interval=0)
    expected = _read_output(folder / "whole")
    _run(make_sink, folder / "one-commit", batches, Reaper(), commit_interval=3600)
    _compare(expected, folder / "one-commit", "with a single commit at the end")
    if not make_sink().keeps_superseded:
        _run(make_sink, folder / "skipped", _kept(batches), Reaper(), commit_interval=0)
        _compare(expected, folder / "skipped", "without the events that the run's resumption has superseded")
    for moment in range(1, reaper.passed + 1):
        _check_kill(make_sink, folder / f"killed-{moment}", batches, Reaper(moment), expected)


def _check_kill(
    make_sink: MakeSink, folder: Path, batches: Sequence[Batch], reaper: Reaper, expected: dict[str, bytes]
) -> None:
    try:
        _run(make_sink, folder, batches, reaper, commit_interval=0)
    except _KilledError:
        _run(make_sink, folder, batches, Reaper(), commit_interval=3600)
    _compare(expected, folder, f"killed before {reaper.last} (moment {reaper.at}), and started again")


def _run(
    make_sink: MakeSink, folder: Path, batches: Sequence[Batch], reaper: Reaper, *, commit_interval: float
) -> None:
    def subscribe(cursor: Cursor, skip_superseded: bool) -> Recording:
        wanted = _kept(batches) if skip_superseded else batches
        return Recording((batch for batch in wanted if batch.cursor > cursor), reaper)

    def make_mortal_sink() -> Sink:
        sink = make_sink()
        for method in ("handle", "flush", "state"):
            setattr(sink, method, _mortal(getattr(sink, method), reaper, f"calling {method}"))
        return sink

    async def run() -> None:
        await SinkRunner(make_mortal_sink, subscribe, folder, commit_interval=commit_interval).run()

    asyncio.run(run())


def _mortal(method: Callable[P, R], reaper: Reaper, what: str) -> Callable[P, R]:
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        reaper.pass_by(what)
        return method(*args, **kwargs)

    return wrapper


def _record_attempt(run: str, attempt: int, groups: Sequence[Sequence[Event]]) -> list[Batch]:
    batches = []
    seq, last_of_channel = 0, {"event": -1}
    for events in groups:
        is_last = bool(events) and events[-1].name in LAST_EVENTS
        header = Header(run, 0, attempt, "event", seq, len(events), dict(last_of_channel), last=is_last)
        batches.append(encode_batch(header, [validate(event) for event in events]))
        seq += len(events)
        last_of_channel["event"] = seq - 1
    return batches


def _kept(batches: Sequence[Batch]) -> list[Batch]:
    """The batches that no later attempt has superseded."""
    origins: dict[int, Cursor | None] = {}
    for batch in batches:
        origins.setdefault(batch.header.attempt, resumed_from(batch.events[0]))
    kept = kept_ranges(origins)
    return [batch for batch in batches if _is_kept(batch.cursor, kept)]


def _is_kept(cursor: Cursor, kept: dict[int, int | None]) -> bool:
    last = kept.get(cursor.attempt, -1)
    return last is None or cursor.seq <= last


def _read_output(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if ".trainwire" not in path.parts}


def _compare(expected: dict[str, bytes], folder: Path, what: str) -> None:
    found = _read_output(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            raise AssertionError(f"{what}: {name} is there in only one of two runs of the sink")
        if found[name] != expected[name]:
            pairs = zip(count(), found[name] + b"\0", expected[name] + b"\0", strict=False)
            place = next((at for at, one, other in pairs if one != other), len(expected[name]))
            before, after = (
                expected[name][max(0, place - 40) : place + 40],
                found[name][max(0, place - 40) : place + 40],
            )
            raise AssertionError(f"{what}: {name} differs at byte {place}: {after!r} should be {before!r}")
