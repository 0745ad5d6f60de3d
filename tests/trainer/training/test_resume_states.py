"""What a checkpoint contains, and how a training is resumed from it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.resumed_trainings import Die, Interrupt, weights
from support.run_reader import read_events
from support.tiny_training import points, train
from torch.utils.data import DataLoader, RandomSampler

from trainwire import Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch
from trainwire_protocol.errors import UsageError


class EndEpoch(Plugin):
    """Cuts each epoch short after its second batch."""

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.number == 2:
            self.run.control.end_epoch()


@pytest.mark.parametrize("options", [{"max_steps": 4}, {"plugins": (EndEpoch(),)}])
def test_a_checkpoint_of_the_step_that_ends_an_epoch_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    """A training that is resumed from it ends the epoch at the same step."""
    options = dict(options)
    plugins = options.pop("plugins", ())
    whole = weights(tmp_path / "whole", plugins, **options)
    with pytest.raises(RuntimeError, match="killed"):
        weights(tmp_path / "parts", (Checkpoints(steps=1), Die(4), *plugins), **options)
    assert torch.equal(weights(tmp_path / "parts", plugins, **options), whole)
    ends = [read_events(tmp_path / name)[-1] for name in ("parts", "whole")]
    assert (ends[0].name, ends[0].step) == (ends[1].name, ends[1].step)


def test_a_sampler_with_its_own_generator_is_resumed(tmp_path: Path) -> None:
    """The state of a generator that only the given sampler uses is restored."""

    def sampler() -> dict[str, Any]:
        return {"sampler": lambda data: RandomSampler(data, generator=torch.Generator().manual_seed(3))}

    whole = weights(tmp_path / "whole", (), **sampler())
    weights(tmp_path / "parts", (Interrupt(5),), **sampler())
    assert torch.equal(weights(tmp_path / "parts", (), **sampler()), whole)


def test_a_training_interrupted_before_its_first_batch_is_resumed_exactly(tmp_path: Path) -> None:
    """A checkpoint that is saved before any batch was read has the random states and the loader's position of the one
    that the training was resumed from.
    """

    class Noise(Plugin):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            with torch.no_grad():
                for parameter in self.run.model.parameters():
                    parameter.add_(torch.randn_like(parameter))

    class InterruptAtOnce(Plugin):
        @hook
        def after_setup(self, setup: AfterSetup) -> None:
            signal.raise_signal(signal.SIGTERM)

    class StatefulLoader(DataLoader[Any]):
        position = 0

        def __iter__(self) -> Any:
            return self._after(super().__iter__())  # which draws a random number at once

        def _after(self, batches: Iterator[Any]) -> Iterator[Any]:
            for index, batch in enumerate(batches):
                if index >= self.position:
                    self.position = index + 1
                    yield batch
            self.position = 0

        def state_dict(self) -> dict[str, Any]:
            return {"position": self.position}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.position = state["position"]

    def part(name: str, *plugins: Plugin) -> torch.Tensor:
        return weights(tmp_path / name, (Noise(), *plugins), train=StatefulLoader(points(48), 8))

    whole = part("whole")
    part("parts", Interrupt(8))
    part("parts", InterruptAtOnce())
    assert torch.equal(part("parts"), whole)


def test_a_plugin_whose_state_cannot_be_saved_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Saving the checkpoint fails; the state of a plugin that is not essential is left out instead."""

    class Odd(Plugin):
        def state_dict(self) -> dict[str, Any]:
            return {"made of": {1, 2}}

    with pytest.raises(UsageError, match="the state of the plugin Odd cannot be saved: it contains a set"):
        train(tmp_path / "a", Odd(), Checkpoints(steps=1))
    Odd.essential = False
    train(tmp_path / "b", Odd(), Checkpoints(steps=1))
    assert "the state of the plugin Odd cannot be saved" in caplog.text
    assert list_checkpoints(tmp_path / "b")


def test_numpy_numbers_in_a_state_are_saved_as_plain_numbers(tmp_path: Path) -> None:
    """torch would refuse to load them."""

    class Best(Plugin):
        loaded: ClassVar[list[Any]] = []

        def state_dict(self) -> dict[str, Any]:
            return {"best": np.float64(0.5)}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.loaded.append(state["best"])

    train(tmp_path, Best(), Interrupt(2))
    train(tmp_path, Best(), resume=True)
    assert Best.loaded == [0.5]


def test_resuming_an_older_attempt_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the latest attempt saved no checkpoint, the training is resumed from an earlier one."""
    train(tmp_path, Checkpoints(epochs=1))
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, Die(3))
    train(tmp_path, resume=True, max_epochs=3)
    assert "attempt 1 started from the beginning and saved no checkpoint: resuming from one of attempt 0" in caplog.text


def test_a_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    """A cluster may send the signal more than once; the checkpoint is still saved."""

    class Twice(Interrupt):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            if batch.step == self.step:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)

    result = train(tmp_path, Twice(2), resume=True)
    assert (result.status, result.reason) == ("interrupted", "SIGTERM")
    assert list_checkpoints(tmp_path)[0].label.step == 2
