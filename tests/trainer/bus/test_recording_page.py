"""The examples of `docs/recording.md` record what the page says."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import DOCS
from support.run_reader import read_events

import trainwire

pytest.importorskip("PIL")
from PIL import Image


class Figure:
    def savefig(self, file: Any, format: str) -> None:
        Image.new("L", (2, 2)).save(file, format)


def test_the_examples_record_what_the_page_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each example records its events, without a warning."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    known = {
        "loss": torch.tensor(0.5), "step": 3.0, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "batch": torch.rand(16, 3, 8, 8), "logits": torch.rand(2, 8, 8), "figure": Figure(), "parameter": weight,
        "waveform": torch.zeros(1, 100), "texts": ["a", "bcd"], "arguments": argparse.Namespace(lr=0.5),
        "epoch": 1, "dev_loss": 0.5, "accuracy": 0.75, "best": ("dev/loss", 1.0, 0),
    }  # fmt: skip
    with trainwire.open_bus(tmp_path) as bus:
        for block in re.findall(r"```python\n(.*?)```", (DOCS / "recording.md").read_text(), re.DOTALL):
            exec(block, known | {"bus": bus})
    events = [event for event in read_events(tmp_path) if event.type != "lifecycle"]
    assert [event.name for event in events] == [
        "train/loss", "dev/f1", "dev/accuracy", "learning_rate", "sample", "mask", "confusion", "speech", "weights",
        "lengths", "scores", "hparams", "dev/loss", "dev/accuracy",
    ]  # fmt: skip
    assert {event.step for event in events} == {3}
    assert not caplog.records
