"""Traces of the profiler."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from support.run_reader import read_events
from support.tiny_training import make_trainer, train

from trainwire.plugins.profiler import Profiler
from trainwire.training.hooks.payloads import AfterTrainingBatch
from trainwire_protocol.errors import OptionError


def traces(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("profile/*"))


def optimizer_steps(path: Path) -> int:
    """Return the number of optimizer updates in a trace."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sum(event.get("name", "").startswith("Optimizer.step#SGD") for event in events if event.get("ph") == "X")


@pytest.mark.parametrize(("first", "steps"), [(2, 2), (4, 1)])
def test_the_selected_steps_are_traced(tmp_path: Path, first: int, steps: int) -> None:
    """One trace contains the selected steps, and a log record has its path."""
    train(tmp_path, Profiler(first, steps))
    last = first + steps - 1
    (name,) = traces(tmp_path)
    assert name == f"profile/steps-{first}-{last}-rank0.json.gz"
    assert optimizer_steps(tmp_path / name) == steps
    messages = [event.value["message"] for event in read_events(tmp_path) if event.type == "log"]
    assert f"profiler: the trace of steps {first} to {last} is in {name}" in messages


def test_a_training_that_ends_early_has_a_trace(tmp_path: Path) -> None:
    """The steps traced until the end are written; no trace is written if there are none."""
    trainer = make_trainer()
    trainer.on("after_training_batch")(lambda batch: trainer.control.stop("enough") if batch.step == 3 else None)
    train(tmp_path / "a", Profiler(2, 10), trainer=trainer)
    assert traces(tmp_path / "a") == ["profile/steps-2-3-rank0.json.gz"]
    assert optimizer_steps(tmp_path / "a" / "profile" / "steps-2-3-rank0.json.gz") == 2
    for name, first in (("b", 4), ("c", 100)):
        train(tmp_path / name, Profiler(first), trainer=trainer)
        assert traces(tmp_path / name) == []


def test_a_failed_training_has_a_trace(tmp_path: Path) -> None:
    """The profiler is stopped when the training fails, so that the next training can use it."""
    trainer, plugin = make_trainer(), Profiler(2, 2)

    @trainer.on("after_training_batch")
    def fail(batch: AfterTrainingBatch) -> None:
        if batch.step == 2 and trainer.run.folder.name == "a":
            raise ValueError("failure of the test")

    with pytest.raises(ValueError, match="failure of the test"):
        train(tmp_path / "a", plugin, trainer=trainer)
    train(tmp_path / "b", plugin)
    assert (len(traces(tmp_path / "a")), len(traces(tmp_path / "b"))) == (1, 1)


def test_no_steps_are_refused() -> None:
    """A trace of 0 steps raises OptionError."""
    with pytest.raises(OptionError, match="first is 2 and steps is 0"):
        Profiler(2, 0)
