"""The cache of ranks that the readers of a run share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainwire_sinks.inspect.ranks import RankOverview
from trainwire_sinks.monitor import reader
from trainwire_sinks.monitor.reader import RankOverviews

READS = [(RankOverview(0, "running"),), (RankOverview(0, "finished"),)]


def test_reading_again_returns_the_current_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read` returns cached ranks while a read is in progress; `read_again` waits for it, and reads again."""
    reads, begun, may_end = iter(READS), threading.Event(), threading.Event()

    def read_slowly(folder: Path, attempt: int) -> tuple[RankOverview, ...]:
        begun.set()
        assert may_end.wait(20)
        return next(reads)

    monkeypatch.setattr(reader, "read_ranks", read_slowly)
    ranks = RankOverviews(tmp_path)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(ranks.read)
        assert begun.wait(20)
        assert ranks.read() == ()
        last = threads.submit(ranks.read_again)
        may_end.set()
        assert last.result(20) == READS[1]
        assert first.result(20) in READS
    assert ranks.read() == READS[1]
