"""The ways in which a training ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.paths import TESTS
from support.run_reader import read_events, wait_until
from support.tiny_training import Recorder, make_trainer, train

from trainwire import ModelTrainer, Plugin, Result, hook
from trainwire.training.hooks.payloads import (
    AfterTrainingBatch,
    BeforeTrainingBatch,
    TrainingException,
    TrainingFinally,
)
from trainwire_protocol.events import Event


def finished_epochs(folder: Path) -> list[Event]:
    return [event for event in read_events(folder) if event.name == "epoch/finished"]


def at_step(trainer: ModelTrainer, step: int, action: Any) -> ModelTrainer:
    """Call `action` after the given number of updates."""

    @trainer.on("after_training_batch")
    def act(batch: AfterTrainingBatch) -> None:
        if batch.step == step:
            action()

    return trainer


@contextmanager
def handler(number: signal.Signals, function: Any) -> Iterator[None]:
    old = signal.signal(number, function)
    try:
        yield
    finally:
        signal.signal(number, old)


def test_a_stopped_training_finishes_its_step(tmp_path: Path) -> None:
    """The run is finished for the given reason; its last epoch is cut short, in the journal too, and in the history."""
    trainer = make_trainer()
    result = train(tmp_path, trainer=at_step(trainer, 4, lambda: trainer.control.stop("enough")))
    assert (result.status, result.reason, result.steps, result.epochs) == ("finished", "enough", 4, 2)
    assert [event.value["complete"] for event in finished_epochs(tmp_path)] == [True, False]
    assert result.history[1].keys() == {"train/loss", "learning_rate", "optimizer/momentum"}
    assert result.test_score is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_step(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM interrupt the run after the step; the final model is saved, and there is a result."""
    result = train(tmp_path, trainer=at_step(make_trainer(), 4, lambda: signal.raise_signal(number)))
    reason = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert (result.status, result.reason, result.steps) == ("interrupted", reason, 4)
    assert (tmp_path / "final-model.pt").exists()
    last = read_events(tmp_path)[-1]
    assert (last.name, last.value["reason"]) == ("run/interrupted", reason)
    assert [event.value["complete"] for event in finished_epochs(tmp_path)] == [True, False]
    assert result.test_score is None


def test_the_second_signal_ends_the_training_at_once(tmp_path: Path) -> None:
    """It raises KeyboardInterrupt; the run is interrupted, and its epoch is closed."""

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recorder, trainer=at_step(make_trainer(), 4, interrupt))
    assert recorder.names[-2:] == ["training_interrupt", "training_finally"]
    assert not (tmp_path / "final-model.pt").exists()
    assert read_events(tmp_path)[-1].name == "run/interrupted"
    cut = finished_epochs(tmp_path)[-1].value
    assert (cut["epoch"], cut["complete"]) == (2, False)
    assert "train/loss" in cut["metrics"]


def test_an_error_is_passed_to_plugins_and_raised_again(tmp_path: Path) -> None:
    """Plugins receive it, the run has failed because of it, and the epoch is closed with its metrics so far."""
    error = ValueError("no such luck")

    def fail() -> None:
        raise error

    recorder = Recorder()
    with pytest.raises(ValueError, match="no such luck") as raised:
        train(tmp_path, recorder, trainer=at_step(make_trainer(), 5, fail))
    assert raised.value is error
    assert [payload.error for payload in recorder.of(TrainingException)] == [error]
    assert [payload.status for payload in recorder.of(TrainingFinally)] == ["failed"]
    events = read_events(tmp_path)
    assert (events[-1].name, events[-1].value["reason"]) == ("run/failed", "ValueError: no such luck")
    assert "train/loss" in finished_epochs(tmp_path)[-1].value["metrics"]
    logged = [event.value for event in events if event.type == "log" and event.value["level"] == "ERROR"]
    assert "ValueError: no such luck" in logged[0]["exception"]


def test_a_plugin_that_fails_at_the_end_does_not_hide_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that ended the training is raised, and the plugin's is logged, or raised if it is the only one."""

    class Broken(Plugin):
        @hook("training_exception", "training_finally")
        def fail(self, payload: object) -> None:
            raise OSError("disk on fire")

    def fail() -> None:
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        train(tmp_path / "a", Broken(), trainer=at_step(make_trainer(), 1, fail))
    assert "disk on fire" in caplog.text
    with pytest.raises(OSError, match="disk on fire"):
        train(tmp_path / "b", Broken())
    assert read_events(tmp_path / "b")[-1].name == "run/failed"


def test_signal_handlers_are_restored(tmp_path: Path) -> None:
    """After the training, even after an error, the handlers are the same as before."""

    def fail() -> None:
        raise ValueError

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during: list[Any] = []
    train(tmp_path / "a", trainer=at_step(make_trainer(), 1, lambda: during.append(signal.getsignal(signal.SIGINT))))
    with pytest.raises(ValueError):
        train(tmp_path / "b", trainer=at_step(make_trainer(), 1, fail))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert during[0] is not before[0]


def test_handlers_set_by_the_program_are_kept(tmp_path: Path) -> None:
    """A handler set by the program, or a signal that it ignores, is not replaced."""
    caught = []

    def own(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    with handler(signal.SIGTERM, own), handler(signal.SIGINT, signal.SIG_IGN):
        trainer = make_trainer()
        at_step(trainer, 1, lambda: signal.raise_signal(signal.SIGTERM))
        at_step(trainer, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert train(tmp_path, trainer=trainer).status == "finished"
    assert caught == [signal.SIGTERM]


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    """Signal handlers cannot be set there, and the training works without them."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path)))
    thread.start()
    thread.join(60)
    assert results[0].status == "finished"


SCRIPT = """
from pathlib import Path
import sys
sys.path.insert(0, sys.argv[2])
from support.tiny_training import train
result = train(Path(sys.argv[1]), max_epochs=10**6)
print(result.status, result.reason)
"""


def test_ctrl_c_ends_a_process_with_its_result(tmp_path: Path) -> None:
    """A process that receives SIGINT during its training finishes and exits with code 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(TESTS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until((tmp_path / "run" / "best-model.pt").exists, 60)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "interrupted Ctrl-C\n")
    assert read_events(tmp_path / "run")[-1].name == "run/interrupted"


def test_a_stop_before_the_first_epoch_trains_nothing(tmp_path: Path) -> None:
    """A plugin that stops the training in `after_setup` leaves the model unchanged."""

    class Never(Plugin):
        @hook
        def after_setup(self, payload: object) -> None:
            self.run.control.stop("not today")

    recorder = Recorder()
    result = train(tmp_path, Never(), recorder)
    assert (result.status, result.reason, result.steps) == ("finished", "not today", 0)
    assert not recorder.of(BeforeTrainingBatch)
