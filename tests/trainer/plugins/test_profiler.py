"""Profiler traces."""

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
    """How many updates are in a trace."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sum(event.get("name", "").startswith("Optimizer.step#SGD") for event in events if event.get("ph") == "X")


@pytest.mark.parametrize(("first", "steps"), [(2, 2), (4, 1)])
def test_the_chosen_steps_are_traced(tmp_path: Path, first: int, steps: int) -> None:
    """There is one trace with as many updates as were chosen, and a log record that names it."""
    train(tmp_path, Profiler(first, steps))
    last = first + steps - 1
    (name,) = traces(tmp_path)
    assert name == f"profile/steps-{first}-{last}-rank0.json.gz"
    assert optimizer_steps(tmp_path / name) == steps
    messages = [event.value["message"] for event in read_events(tmp_path) if event.type == "log"]
    assert f"profiler: steps {first} to {last} are traced in {name}" in messages


def test_a_training_that_ends_earlier_has_its_trace(tmp_path: Path) -> None:
    """What was traced when the training stopped is written; if that is nothing, there is no trace."""
    trainer = make_trainer()
    trainer.on("after_training_batch")(lambda batch: trainer.control.stop("enough") if batch.step == 3 else None)
    train(tmp_path / "a", Profiler(2, 10), trainer=trainer)
    assert traces(tmp_path / "a") == ["profile/steps-2-3-rank0.json.gz"]
    assert optimizer_steps(tmp_path / "a" / "profile" / "steps-2-3-rank0.json.gz") == 2
    for name, first in (("b", 4), ("c", 100)):
        train(tmp_path / name, Profiler(first), trainer=trainer)
        assert traces(tmp_path / name) == []


def test_a_failing_training_has_its_trace(tmp_path: Path) -> None:
    """The profiler is ended when the training fails, so that the next one can begin."""
    trainer, plugin = make_trainer(), Profiler(2, 2)

    @trainer.on("after_training_batch")
    def fail(batch: AfterTrainingBatch) -> None:
        if batch.step == 2 and trainer.run.folder.name == "a":
            raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        train(tmp_path / "a", plugin, trainer=trainer)
    train(tmp_path / "b", plugin)
    assert (len(traces(tmp_path / "a")), len(traces(tmp_path / "b"))) == (1, 1)


def test_it_needs_a_step_at_least() -> None:
    """A trace of no step is refused."""
    with pytest.raises(OptionError, match="first is 2 and steps is 0"):
        Profiler(2, 0)
