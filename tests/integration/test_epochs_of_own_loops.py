"""A hand-written loop reports its epochs: `runs`, `watch` and loss.tsv show them as those of a `ModelTrainer`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_batches, read_events

import trainwire
from trainwire_protocol.events import Event
from trainwire_sinks.inspect.overview import Best, read_overview
from trainwire_sinks.monitor.view import View


def test_epochs_reach_the_sinks_and_monitors(tmp_path: Path) -> None:
    """Rows of loss.tsv, the columns EPOCH and BEST, and the remaining time, as computed here."""
    losses, best = [0.5, 0.25, 0.375], ("dev/loss", float("inf"), 0)
    with trainwire.open_bus(tmp_path) as bus:
        for epoch, loss in enumerate(losses, start=1):
            bus.start_epoch(epoch, max_epochs=4)
            bus.log({"train/loss": loss * 2}, step=epoch * 10)
            best = min(best, ("dev/loss", loss, epoch))
            bus.finish_epoch(epoch, {"dev/loss": torch.tensor(loss), "dev/accuracy": 1 - loss}, best)
    command = [sys.executable, "-m", "trainwire_sinks", "sink", "loss-file", str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    header, *rows = [line.split("\t") for line in (tmp_path / "loss.tsv").read_text().splitlines()]
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    shown = [(int(row["EPOCH"]), *(float(row[name]) for name in ("TRAIN_LOSS", "DEV_LOSS"))) for row in cells]
    assert shown == [(epoch, loss * 2, loss) for epoch, loss in enumerate(losses, start=1)]
    assert [float(row["DEV_ACCURACY"]) for row in cells] == [1 - loss for loss in losses]
    overview = read_overview(tmp_path)
    assert (overview.epoch, overview.max_epochs, overview.best) == (3, 4, Best(2, "dev/loss", 0.25))
    view = View("a")
    for batch in read_batches(tmp_path):
        view.add_batch(batch)
    assert view.progress.fraction == pytest.approx(0.75)
    assert view.progress.seconds_left is not None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"epoch": "first"}, "epoch/finished"),
        ({"epoch": 1.5}, "epoch/finished"),
        ({"epoch": 1, "best": 0.25}, "epoch/finished"),
        ({"epoch": 1, "metrics": [0.5]}, "epoch/finished"),
    ],
)
def test_invalid_epochs_are_reported(
    tmp_path: Path, arguments: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No call raises, a message names the event, and the loop continues."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.finish_epoch(**arguments)
        bus.start_epoch(2)
        assert any(name in str(kind) for kind in bus.rejections)
    assert any(name in record.getMessage() for record in caplog.records)
    assert happened(tmp_path, "epoch/started")[0].value == {"epoch": 2}


def test_whole_numbers_of_other_types_are_epochs(tmp_path: Path) -> None:
    """What a loop may have as a number: a whole float, or a tensor."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.start_epoch(torch.tensor(1), 3.0)  # type: ignore[arg-type]  # not annotated, and accepted
        bus.finish_epoch(1, best=("dev/f1", torch.tensor(0.5), 1))
    assert happened(tmp_path, "epoch/started")[0].value == {"epoch": 1, "max_epochs": 3}
    best = {"metric": "dev/f1", "score": 0.5, "epoch": 1}
    assert happened(tmp_path, "epoch/finished")[0].value == {"epoch": 1, "best": best}


def happened(folder: Path, name: str) -> list[Event]:
    return [event for event in read_events(folder) if event.name == name]
