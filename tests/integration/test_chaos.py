"""A few rounds of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.processes import make_context
from chaos.rounds import play_round


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(1, 7))
def test_random_faults_lose_and_duplicate_nothing(tmp_path: Path, seed: int) -> None:
    """After processes are killed and stopped and connections cut at random, every output equals that of a replay."""
    report = play_round(make_context(), tmp_path, seed)
    assert report.events > 0
    assert (report.lost, report.duplicated, report.hidden) == (0, 0, 0)
