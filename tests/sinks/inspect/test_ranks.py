"""The ranks of a run compared, and where the comparison is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from support.recorder import Recorder

from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.app import run
from trainwire_sinks.inspect.ranks import RankOverview, describe_ranks, read_ranks

WriteRun = Callable[..., Path]


def steps(rank: int, walltimes: Iterable[tuple[int, float]]) -> list[Batch]:
    """Return what a rank records when it reaches these steps at these times."""
    events = [Event("train/loss", 1.0, "scalar", 1.75e9 + seconds, step) for step, seconds in walltimes]
    return [Recorder(rank=rank).record(events)]


def lags(folder: Path) -> dict[int, int]:
    return {rank.rank: rank.behind for rank in read_ranks(folder)}


@pytest.mark.parametrize(
    ("name", "walltimes", "behind"),
    [
        ("as fast", [(step, step / 10) for step in range(1001)], 0),
        ("a little slower", [(step, step / 9.6) for step in range(961)], 0),
        ("slow", [(step, step / 5) for step in range(501)], 500),
        ("halted", [(step, step / 10) for step in range(201)], 800),
        ("records now and then", [(step, step / 10) for step in range(0, 1000, 300)], 0),
        ("has recorded one step", [(900, 90.0)], 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stragglers(write_run: WriteRun, name: str, walltimes: list[tuple[int, float]], behind: int) -> None:
    """A rank that is slow or has stopped is a straggler; one that records less often is not."""
    folder = write_run(steps(0, [(step, step / 10) for step in range(1001)]), is_over=False)
    write_run(steps(1, walltimes), is_over=False)
    assert lags(folder) == {0: 0, 1: behind}


def test_ranks_that_have_ended_are_not_stragglers(write_run: WriteRun) -> None:
    """A rank that has ended or cannot be read is shown with its state."""
    folder = write_run(steps(0, [(step, step / 10) for step in range(1001)]), is_over=False)
    write_run(steps(1, [(step, step / 10) for step in range(10)]))
    write_run(steps(2, [(step, step / 10) for step in range(10)]), is_over=False)
    (segment,) = list_attempts(folder, 2)[0].folder.glob("*.journal")
    segment.unlink()
    segment.mkdir()
    assert [(rank.state, rank.behind) for rank in read_ranks(folder)] == [
        ("running", 0), ("finished", 0), ("unreadable", 0),
    ]  # fmt: skip


def test_many_stragglers_take_one_line() -> None:
    """The stragglers that are farthest behind are listed, and the others counted."""
    ranks = [RankOverview(rank, "running", behind=rank) for rank in range(8)]
    assert describe_ranks(ranks) == (
        "8: rank 7 7 steps behind, rank 6 6 steps behind, rank 5 5 steps behind, rank 4 4 steps behind, 3 more"
    )
    assert describe_ranks(ranks[:1]) == "1"


def test_stragglers_are_shown_by_runs_and_watch(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """`runs` and `watch` show the number of ranks, the stragglers, and ranks that have died."""
    folder = write_run(steps(0, [(step, step / 10) for step in range(1001)]))
    write_run(steps(1, [(step, step / 5) for step in range(501)]), is_over=False)
    write_run(steps(2, [(step, step / 10) for step in range(1001)]), is_over=False)
    lease = list_attempts(folder, 2)[-1].lease_path
    lease.write_text(lease.read_text().replace('"pid": ', '"pid": 99'))
    assert run(["runs", str(folder)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert "RANKS" in heading
    assert "running" in line
    summary = "3: rank 1 500 steps behind, rank 0 finished, rank 2 died"
    assert summary in line
    assert run(["runs", str(folder), "--json"]) == 0
    assert [rank["behind"] for rank in json.loads(capsys.readouterr().out)[0]["ranks"]] == [0, 500, 0]
    assert run(["watch", str(folder), "--plain"]) == 0
    assert f"; ranks: {summary};" in capsys.readouterr().out
