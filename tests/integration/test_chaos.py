"""A short round of what `make chaos` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.processes import make_context
from chaos.rounds import play_round


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(1, 7))
def test_random_faults_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """After random kills, stops and cuts every output holds each event once, in the bytes of a replay."""
    report = play_round(make_context(), tmp_path, seed)
    assert report.events > 0
    assert (report.lost, report.duplicated) == (0, 0)
