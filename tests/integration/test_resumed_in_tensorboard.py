"""What TensorBoard shows of a resumed run with each of its loaders. Later versions may behave differently."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.run_reader import wait_until
from support.tensorboard_server import LOADERS, get, get_bytes, shown, tensorboard

import trainwire
from trainwire_sinks.cli import app

KEPT, KILLED_AT, END = 5, 10, 8


def train(folder: Path) -> dict[str, object]:
    """Record ten steps, and return the state after the fifth; `only/before` has only points that will be superseded."""
    bus = trainwire.open_bus(folder)
    log(bus, range(1, KEPT + 1), 0)
    bus.log({"sometimes": 3.0}, step=3)
    bus.log({"epoch/loss": 0.5}, step=1)
    state = bus.state_dict()
    log(bus, range(KEPT + 1, KILLED_AT + 1), 0)
    bus.log({"only/before": 7.0, "sometimes": 7.0}, step=7)
    bus.log({"epoch/loss": 9.0}, step=2)
    bus.close(status="failed")
    return state


def log(bus: trainwire.EventBus, steps: Sequence[int], base: int) -> None:
    for step in steps:
        value = float(base + step)
        bus.log({"train/loss": value}, step=step)
        bus.text("note", f"{value}", step=step)
        bus.table("table", {"columns": ["value"], "rows": [[value]]}, step=step)
        bus.image("picture", np.full((1, 1), base + step, np.uint8), step=step)
        bus.histogram("weights", [value], step=step)
        if step > KEPT:
            bus.scalars("losses", [value], step=step)


def resume(folder: Path, state: dict[str, object]) -> None:
    with trainwire.open_bus(folder, state=state) as bus:
        log(bus, range(KEPT + 1, END + 1), 100)
        bus.log({"epoch/loss": 0.25}, step=2)
        bus.log({"last": 1.0}, step=END)


KEPT_POINTS = {step: float(step) for step in range(1, KEPT + 1)}
OLD_POINTS = KEPT_POINTS | {step: float(step) for step in range(KEPT + 1, KILLED_AT + 1)}
NEW_POINTS = KEPT_POINTS | {step: 100.0 + step for step in range(KEPT + 1, END + 1)}


def check_dashboards(address: str) -> None:
    """Check that the other dashboards show the kept and the new points, each step once."""
    for tag, form in (("note", "<p>{}</p>"), ("table", "<td>{:g}</td>")):
        found = get(address, "data/plugin/text/text", run="rank-0", tag=tag, markdown="true")
        assert [point["step"] for point in found] == [*NEW_POINTS]
        assert all(form.format(NEW_POINTS[point["step"]]) in point["text"] for point in found)
    found = get(address, "data/plugin/histograms/histograms", run="rank-0", tag="weights")
    assert {step: buckets[0][0] for _, step, buckets in found} == NEW_POINTS
    assert len(found) == len(NEW_POINTS)
    found = get(address, "data/plugin/images/images", run="rank-0", tag="picture", sample=0)
    assert [point["step"] for point in found] == [*NEW_POINTS]
    for point in found:
        data, _ = get_bytes(address, f"data/plugin/images/individualImage?{point['query']}")
        assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == NEW_POINTS[point["step"]]
    assert shown(address, "rank-0", "sometimes") == {3: 3.0}
    assert shown(address, "rank-0", "epoch/loss") == {1: 0.5, 2: 0.25}
    (category,) = get(address, "data/plugin/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]] == ["losses"]
    assert [*shown(address, "rank-0", "losses/0")] == [*range(KEPT + 1, END + 1)]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("load_fast", LOADERS)
def test_a_run_is_resumed_while_tensorboard_is_open(tmp_path: Path, load_fast: bool) -> None:
    """Both loaders show the effective points; only the fast one keeps a tag whose points are all superseded."""
    folder = tmp_path / "run"
    state = train(folder)
    assert app.run(["sink", "tensorboard", str(folder)]) == 0
    with tensorboard(folder / "tensorboard", load_fast=load_fast) as address:
        wait_until(lambda: shown(address, "rank-0", "train/loss") == OLD_POINTS, 60)
        assert shown(address, "rank-0", "only/before") == {7: 7.0}
        resume(folder, state)
        assert app.run(["sink", "tensorboard", str(folder)]) == 0
        wait_until(lambda: shown(address, "rank-0", "last"), 60)
        assert shown(address, "rank-0", "train/loss") == NEW_POINTS
        assert shown(address, "rank-0", "only/before") == ({7: 7.0} if load_fast else {})
        check_dashboards(address)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("load_fast", LOADERS)
def test_a_replay_without_superseded_events(tmp_path: Path, load_fast: bool) -> None:
    """Both loaders show exactly the effective points of a folder made by `replay --skip-superseded`."""
    folder = tmp_path / "run"
    resume(folder, train(folder))
    assert app.run(["replay", str(folder), "--to", "tensorboard", "--skip-superseded"]) == 0
    with tensorboard(folder / "replay" / "tensorboard", load_fast=load_fast) as address:
        wait_until(lambda: shown(address, "rank-0", "last"), 60)
        assert shown(address, "rank-0", "train/loss") == NEW_POINTS
        assert shown(address, "rank-0", "only/before") == {}
        check_dashboards(address)
