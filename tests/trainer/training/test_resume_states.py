"""What a checkpoint holds, and where a training goes on from it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.reading import read_events
from support.resuming import Die, Interrupt, weights
from support.tiny import train
from torch.utils.data import RandomSampler

from trainwire import Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.hooks.payloads import AfterTrainingBatch
from trainwire_protocol.errors import UsageError


class EndEpoch(Plugin):
    """Cuts each epoch short after its second batch."""

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.number == 2:
            self.run.control.end_epoch()


@pytest.mark.parametrize("options", [{"max_steps": 4}, {"plugins": (EndEpoch(),)}])
def test_a_checkpoint_of_the_step_that_ends_an_epoch_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    """The epoch that was to end there ends there, also for who goes on from that checkpoint."""
    options = dict(options)
    plugins = options.pop("plugins", ())
    whole = weights(tmp_path / "whole", plugins, **options)
    with pytest.raises(RuntimeError, match="killed"):
        weights(tmp_path / "parts", (Checkpoints(steps=1), Die(4), *plugins), **options)
    assert torch.equal(weights(tmp_path / "parts", plugins, **options), whole)
    ends = [read_events(tmp_path / name)[-1] for name in ("parts", "whole")]
    assert (ends[0].name, ends[0].step) == (ends[1].name, ends[1].step)


def test_a_sampler_of_its_own_generator_is_resumed(tmp_path: Path) -> None:
    """Also one that is given by itself, and draws from a generator that nobody else has."""

    def sampler() -> dict[str, Any]:
        return {"sampler": lambda data: RandomSampler(data, generator=torch.Generator().manual_seed(3))}

    whole = weights(tmp_path / "whole", (), **sampler())
    weights(tmp_path / "parts", (Interrupt(5),), **sampler())
    assert torch.equal(weights(tmp_path / "parts", (), **sampler()), whole)


def test_a_plugin_whose_state_cannot_be_saved_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the checkpoint, not when it is read; one that is not essential is left out."""

    class Odd(Plugin):
        def state_dict(self) -> dict[str, Any]:
            return {"made of": {1, 2}}

    with pytest.raises(UsageError, match="the state of the plugin Odd cannot be saved: it contains a set"):
        train(tmp_path / "a", Odd(), Checkpoints(steps=1))
    Odd.essential = False
    train(tmp_path / "b", Odd(), Checkpoints(steps=1))
    assert "the state of the plugin Odd cannot be saved" in caplog.text
    assert list_checkpoints(tmp_path / "b")


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    """They are what a plugin easily has in its state, and what torch refuses to load."""

    class Best(Plugin):
        loaded: ClassVar[list[Any]] = []

        def state_dict(self) -> dict[str, Any]:
            return {"best": np.float64(0.5)}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.loaded.append(state["best"])

    train(tmp_path, Best(), Interrupt(2))
    train(tmp_path, Best(), resume=True)
    assert Best.loaded == [0.5]


def test_who_resumes_an_older_training_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that was begun anew since and left no checkpoint is not what goes on."""
    train(tmp_path, Checkpoints(epochs=1))
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, Die(3))
    train(tmp_path, resume=True, max_epochs=3)
    assert "attempt 1 started from the beginning and saved no checkpoint: resuming from one of attempt 0" in caplog.text


def test_a_cluster_sends_sigterm_more_than_once(tmp_path: Path) -> None:
    """To each process, and again: the checkpoint is saved all the same."""

    class Twice(Interrupt):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            if batch.step == self.step:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)

    result = train(tmp_path, Twice(2), resume=True)
    assert (result.status, result.reason) == ("interrupted", "SIGTERM")
    assert list_checkpoints(tmp_path)[0].label.step == 2
