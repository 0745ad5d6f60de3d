"""The look at all ranks that the views of a run share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainwire_sinks.inspect.ranks import RankOverview
from trainwire_sinks.monitor import reader
from trainwire_sinks.monitor.reader import RankOverviews

LOOKS = [(RankOverview(0, "running"),), (RankOverview(0, "finished"),)]


def test_who_looks_at_the_end_sees_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that is being taken is waited for, and another taken, where what is known does not do."""
    looks, begun, may_end = iter(LOOKS), threading.Event(), threading.Event()

    def read_slowly(folder: Path) -> tuple[RankOverview, ...]:
        begun.set()
        assert may_end.wait(20)
        return next(looks)

    monkeypatch.setattr(reader, "read_ranks", read_slowly)
    ranks = RankOverviews(tmp_path)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(ranks.read)
        assert begun.wait(20)
        assert ranks.read() == ()
        last = threads.submit(ranks.read_again)
        may_end.set()
        assert last.result(20) == LOOKS[1]
        assert first.result(20) in LOOKS
    assert ranks.read() == LOOKS[1]
