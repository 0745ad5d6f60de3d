"""What TensorBoard shows of a resumed run, with each of its loaders: pinned, as a later version may differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from reading import wait_until
from tensorboard_server import shown, tensorboard

import trainwire
from trainwire_sinks import cli

KEPT, KILLED_AT, END = 5, 10, 8


def train(folder: Path) -> dict[str, object]:
    """Ten steps, of which the first five are kept; one tag is logged only in what will be superseded."""
    bus = trainwire.open_bus(folder)
    log(bus, range(1, KEPT + 1), 0)
    state = bus.state_dict()
    log(bus, range(KEPT + 1, KILLED_AT + 1), 0)
    bus.log({"only/before": 7.0}, step=7)
    bus.close(status="failed")
    return state


def log(bus: trainwire.EventBus, steps: Sequence[int], base: int) -> None:
    for step in steps:
        bus.log({"train/loss": float(base + step)}, step=step)


def resume(folder: Path, state: dict[str, object]) -> None:
    with trainwire.open_bus(folder, state=state) as bus:
        log(bus, range(KEPT + 1, END + 1), 100)


KEPT_POINTS = {step: float(step) for step in range(1, KEPT + 1)}
OLD_POINTS = KEPT_POINTS | {step: float(step) for step in range(KEPT + 1, KILLED_AT + 1)}
NEW_POINTS = KEPT_POINTS | {step: 100.0 + step for step in range(KEPT + 1, END + 1)}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("load_fast", [True, False])
def test_a_run_that_is_resumed_under_tensorboard(tmp_path: Path, load_fast: bool) -> None:
    """Both loaders replace what is logged again; what is not, the fast one keeps and the Python one takes away."""
    folder = tmp_path / "run"
    state = train(folder)
    assert cli.run(["sink", "tensorboard", str(folder)]) == 0
    with tensorboard(folder / "tensorboard", load_fast=load_fast) as address:
        wait_until(lambda: shown(address, "rank-0", "train/loss") == OLD_POINTS, 60)
        assert shown(address, "rank-0", "only/before") == {7: 7.0}
        resume(folder, state)
        assert cli.run(["sink", "tensorboard", str(folder)]) == 0
        wait_until(lambda: shown(address, "rank-0", "train/loss") == NEW_POINTS, 60)
        assert shown(address, "rank-0", "only/before") == ({7: 7.0} if load_fast else {})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("load_fast", [True, False])
def test_a_replay_without_what_is_superseded_is_clean(tmp_path: Path, load_fast: bool) -> None:
    """`replay --skip-superseded` gives a folder in which both loaders show exactly what counts."""
    folder = tmp_path / "run"
    resume(folder, train(folder))
    assert cli.run(["replay", str(folder), "--to", "tensorboard", "--skip-superseded"]) == 0
    with tensorboard(folder / "replay" / "tensorboard", load_fast=load_fast) as address:
        wait_until(lambda: shown(address, "rank-0", "train/loss") == NEW_POINTS, 60)
        assert shown(address, "rank-0", "only/before") == {}
