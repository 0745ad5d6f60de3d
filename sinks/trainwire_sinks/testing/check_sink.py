"""Runs a sink on a recorded run, and checks that each event takes effect exactly once.

    def test_epoch_times(tmp_path):
        check_sink(EpochTimes, tmp_path)

needs no trainer, socket or second process. `record` creates a run from your own events.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from trainwire_protocol.events import LAST_EVENTS, Event, validate
from trainwire_protocol.journal.attempts import LATEST, kept_ranges, resumed_from
from trainwire_protocol.wire import Batch, Cursor, Header, encode_batch
from trainwire_sinks.runtime.output import Output
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.runtime.sink import Sink
from trainwire_sinks.testing.sample import sample_attempts, sample_restarts

MakeSink = Callable[[], Sink]
P = ParamSpec("P")
R = TypeVar("R")


def record(*attempts: Sequence[Sequence[Event]], run: str = "recorded") -> list[Batch]:
    """Return the batches of a run with one rank. Each attempt is a list of batches, and a batch a list of events.

    Raises:
        InvalidEventError: an event is invalid.
    """
    return [batch for number, attempt in enumerate(attempts) for batch in _record_attempt(run, number, attempt)]


def sample_run() -> list[Batch]:
    """Return a run with events of every type, unusual names and values, and a resumption that supersedes an epoch."""
    return record(*sample_attempts())


def run_sink(make_sink: MakeSink, folder: Path, batches: Sequence[Batch]) -> None:
    """Run a sink on recorded batches to their end. Its output is in `folder`."""
    _run(make_sink, folder, batches, CrashInjector(), commit_interval=1.0)


def check_sink(make_sink: MakeSink, folder: Path, batches: Sequence[Batch] | None = None) -> None:
    """Check that a sink writes the same bytes however often it commits, and wherever it is killed and restarted.

    Args:
        make_sink: creates the sink: its class, or a function without arguments.
        folder: an empty folder to work in.
        batches: the run; by default that of `sample_run()`, which is then started anew, added to, and resumed from its
            first start.

    Raises:
        AssertionError: the bytes differ; the message says in which case, in which file and from which byte on.
    """
    batches = record(*sample_attempts(), *sample_restarts()) if batches is None else batches
    steps = CrashInjector()
    _run(make_sink, folder / "whole", batches, steps, commit_interval=0)
    expected = _read_output(folder / "whole")
    _run(make_sink, folder / "one-commit", batches, CrashInjector(), commit_interval=3600)
    _compare(expected, folder / "one-commit", "with a single commit at the end")
    if not make_sink().keeps_superseded:
        _run(make_sink, folder / "skipped", _kept(batches), CrashInjector(), commit_interval=0)
        current = {name: data for name, data in expected.items() if not _is_aside(name)}
        _compare(current, folder / "skipped", "without the events that later attempts of the run have superseded")
    for step in range(1, steps.count + 1):
        _check_kill(make_sink, folder / f"killed-{step}", batches, CrashInjector(step), expected)


class Recording:
    """The batches of a recorded run, to be read like a `Subscription` by a `SinkRunner`."""

    heartbeat = None
    silence = 0.0

    def __init__(self, batches: Iterable[Batch], crashes: CrashInjector | None = None) -> None:
        self._batches = iter(batches)
        self._crashes = crashes or CrashInjector()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """Return the next batch."""
        self._crashes.step("reading a batch")
        for batch in self._batches:
            return batch
        raise StopAsyncIteration

    async def acknowledge(self, cursor: Cursor) -> bool:  # noqa: ARG002  # there is no publisher
        """Return True without doing anything: there is no publisher."""
        return True


class _KilledError(BaseException):
    """Simulates the death of the process: no handler of `Exception` catches it."""


class CrashInjector:
    """Counts the steps before which a process may die, and simulates its death before one of them.

    Args:
        crash_at: the number, from 1, of the step before which the process dies; None only counts steps.
    """

    def __init__(self, crash_at: int | None = None) -> None:
        self.crash_at = crash_at
        self.count = 0
        self.last = ""
        """What the last step was about to do."""

    def step(self, action: str) -> None:
        """Count a step; raise if the process dies before it."""
        self.last = action
        self.count += 1
        if self.count == self.crash_at:
            raise _KilledError


def _check_kill(
    make_sink: MakeSink, folder: Path, batches: Sequence[Batch], crashes: CrashInjector, expected: dict[str, bytes]
) -> None:
    try:
        _run(make_sink, folder, batches, crashes, commit_interval=0)
    except _KilledError:
        _run(make_sink, folder, batches, CrashInjector(), commit_interval=3600)
    _compare(expected, folder, f"killed before {crashes.last} (step {crashes.crash_at}), and restarted")


def _run(
    make_sink: MakeSink, folder: Path, batches: Sequence[Batch], crashes: CrashInjector, *, commit_interval: float
) -> None:
    def subscribe(cursor: Cursor, superseded_by: int | None) -> Recording:
        wanted = batches if superseded_by is None else _kept(batches, superseded_by)
        return Recording((batch for batch in wanted if batch.cursor > cursor), crashes)

    def make_crashing_sink() -> Sink:
        sink = make_sink()
        for method in ("handle", "flush", "state"):
            setattr(sink, method, _crashing(getattr(sink, method), crashes, f"calling {method}"))
        setattr(sink, "make_output", make_crashing_output(sink.make_output))  # noqa: B010  # a method, for mypy
        return sink

    def make_crashing_output(make_output: Callable[[Path, int], Output]) -> Callable[[Path, int], Output]:
        def wrapper(folder: Path, rank: int) -> Output:
            output = make_output(folder, rank)
            for method in ("open", "keep_aside"):
                setattr(output, method, _crashing(getattr(output, method), crashes, f"{method} of the output"))
            return output

        return wrapper

    async def run() -> None:
        await SinkRunner(make_crashing_sink, subscribe, folder, commit_interval=commit_interval).run()

    asyncio.run(run())


def _crashing(method: Callable[P, R], crashes: CrashInjector, action: str) -> Callable[P, R]:
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        crashes.step(action)
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


def _kept(batches: Sequence[Batch], superseded_by: int = LATEST) -> list[Batch]:
    """Return the batches that no attempt up to `superseded_by` has superseded."""
    origins: dict[int, Cursor | None] = {}
    for batch in batches:
        if batch.header.attempt <= superseded_by:
            origins.setdefault(batch.header.attempt, resumed_from(batch.events[0]))
    last_kept = kept_ranges(origins)

    def is_kept(cursor: Cursor) -> bool:
        last = last_kept.get(cursor.attempt, -1) if cursor.attempt in origins else None
        return last is None or cursor.seq <= last

    return [batch for batch in batches if is_kept(batch.cursor)]


def _is_aside(name: str) -> bool:
    """Return whether a file is the output of an earlier start, which was kept aside."""
    return re.search(r"[./]attempt-\d+\b", name) is not None


def _read_output(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if ".trainwire" not in path.parts}


def _compare(expected: dict[str, bytes], folder: Path, case: str) -> None:
    found = _read_output(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            raise AssertionError(f"{case}: only one of two runs of the sink has written {name}")
        if found[name] != expected[name]:
            pairs = zip(count(), found[name] + b"\0", expected[name] + b"\0", strict=False)
            place = next((at for at, one, other in pairs if one != other), len(expected[name]))
            around = slice(max(0, place - 40), place + 40)
            raise AssertionError(
                f"{case}: {name} differs at byte {place}: {found[name][around]!r} should be {expected[name][around]!r}"
            )
