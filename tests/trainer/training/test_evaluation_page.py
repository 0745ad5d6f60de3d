"""`docs/evaluation.md` matches the code, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.paths import DOCS
from support.tiny_training import linear, make_trainer, points, train
from torch import nn

from trainwire.training.inference import InferenceOptionsDict
from trainwire.training.options.options import TrainingOptionsDict

PAGE = (DOCS / "evaluation.md").read_text()


def test_the_page_has_every_option() -> None:
    """The table has them in order; each is an option of `train` too."""
    found = re.findall(r"^\| `(\w+)` \| .+ \|$", PAGE.partition("## Options")[2], flags=re.MULTILINE)
    assert found == list(InferenceOptionsDict.__annotations__)
    assert InferenceOptionsDict.__annotations__.keys() <= TrainingOptionsDict.__annotations__.keys()


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's examples run, given a model, data and the run of a training."""
    monkeypatch.chdir(tmp_path)
    train(Path("runs/mine"), max_epochs=1)
    known: dict[str, Any] = {
        "model": linear(), "loss": nn.CrossEntropyLoss(), "metrics": make_trainer().metrics, "test": points(16),
    }  # fmt: skip
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet, known)
    assert known["outputs"].shape == (16, 2)
    assert known["probabilities"].sum().item() == pytest.approx(16)
