"""Plugins that are not essential."""

from __future__ import annotations

from pathlib import Path

from support.run_reader import read_events
from support.tiny_training import Recorder, train

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingBatch


class Flaky(Plugin):
    """Fails at each step, and is not essential."""

    essential = False

    def __init__(self) -> None:
        self.calls = 0

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.calls += 1
        raise OSError("no such sensor")


def test_a_plugin_that_is_not_essential_does_not_end_the_training(tmp_path: Path) -> None:
    """Each failure is published, the third disables the plugin, and the training and other plugins are not affected."""
    flaky, recorder = Flaky(), Recorder()
    result = train(tmp_path, flaky, recorder)
    assert (result.status, result.steps, flaky.calls) == ("finished", 6, 3)
    assert len(recorder.of(AfterTrainingBatch)) == 6
    failed = [event for event in read_events(tmp_path) if event.name == "plugin/failed"]
    assert [event.step for event in failed] == [1, 2, 3]
    assert [event.value["disabled"] for event in failed] == [False, False, True]
    assert failed[0].value["error"] == "OSError: no such sensor"
    assert (failed[0].value["plugin"], failed[0].value["hook"]) == ("Flaky", "after_training_batch")


def test_a_disabled_plugin_is_enabled_in_the_next_training(tmp_path: Path) -> None:
    """Failures are counted for each training separately."""
    flaky = Flaky()
    train(tmp_path / "a", flaky)
    train(tmp_path / "b", flaky)
    assert flaky.calls == 6
