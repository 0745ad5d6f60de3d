"""The examples run and reach the results that they state."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import EXAMPLES

from trainwire_protocol.errors import MissingExtraError

DIGITS = EXAMPLES / "digits.py"


@pytest.mark.timeout(300)
def test_digits_reaches_97_percent(tmp_path: Path) -> None:
    """The example reaches an accuracy of 97 % on the test split, and prints how to open TensorBoard."""
    pytest.importorskip("sklearn", reason="the example needs scikit-learn's images")
    folder = tmp_path / "run"
    completed = subprocess.run(
        [sys.executable, DIGITS, folder], capture_output=True, text=True, timeout=280, check=True
    )
    accuracy = re.search(r"test accuracy ([\d.]+)%", completed.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) >= 97
    assert f"tensorboard --logdir {folder.parent}" in completed.stdout
    assert {"loss.tsv", "training.log", "best-model.pt", "final-model.pt"} <= {file.name for file in folder.iterdir()}
    assert completed.stderr == ""


@pytest.mark.timeout(200)
def test_the_gan_comes_closer_to_the_circle(tmp_path: Path) -> None:
    """After three epochs, the points are closer to the real ones than after one."""
    command = [sys.executable, EXAMPLES / "gan.py", tmp_path / "run", "--epochs", "3"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    found = re.search(r"distance ([\d.]+) after the first epoch, ([\d.]+) after epoch (\d)", completed.stdout)
    assert found is not None
    assert float(found[2]) < float(found[1]) < 0.3
    assert "TRAIN_LOSS_GENERATOR" in (tmp_path / "run" / "loss.tsv").read_text()


def test_a_missing_scikit_learn_is_reported_in_one_line(tmp_path: Path) -> None:
    """Without scikit-learn, the example exits with a single line that names the extra."""
    script = f"import runpy, sys; sys.modules['sklearn'] = None; runpy.run_path({str(DIGITS)!r}, run_name='__main__')"
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert completed.returncode == 1
    assert completed.stderr == "examples/digits.py needs scikit-learn: pip install 'trainwire[demo]'\n"
    assert not list(tmp_path.iterdir())


def test_a_missing_rich_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the progress bar without rich raises an error that says what to install."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "trainwire.plugins.progress_bar", raising=False)
    with pytest.raises(MissingExtraError, match=r"progress bar needs rich: pip install 'trainwire\[torch\]'"):
        import trainwire.plugins.progress_bar  # noqa: F401  # importing it is the test


@pytest.mark.timeout(300)
def test_the_language_model_learns_and_is_resumed(tmp_path: Path) -> None:
    """Its loss is lower than that of chance, and a second start resumes from the checkpoint of the first."""
    script = DIGITS.with_name("char_lm.py")
    losses = []
    for steps in (20, 24):
        command = [sys.executable, script, tmp_path / "run", "--steps", str(steps), "--kibibytes", "64"]
        completed = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
        found = re.search(rf"finished after {steps} steps: dev loss ([\d.]+)", completed.stdout)
        assert found is not None
        losses.append(float(found[1]))
    assert losses[1] < 4
    assert "resumed from step-00000020" in (tmp_path / "run" / "training.log").read_text()
