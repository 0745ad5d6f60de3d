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
from support.tiny_training import Recorder, linear, make_trainer, points, train
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, default_collate

from trainwire import Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, AfterTrainingEpoch, BeforeTrainingBatch
from trainwire_protocol.errors import OptionError, UsageError


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


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_sampler_is_resumed(tmp_path: Path, drop_last: bool) -> None:
    """The state of a generator inside it is restored; numbers that `collate_fn` draws are drawn again."""

    def noisy(samples: list[Any]) -> Any:
        inputs, target = default_collate(samples)
        return inputs + torch.rand_like(inputs), target

    def options() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        return {
            "batch_sampler": lambda data: BatchSampler(RandomSampler(data, generator=generator), 10, drop_last),
            "collate_fn": noisy,
        }

    whole = weights(tmp_path / "whole", (), **options())
    weights(tmp_path / "parts", (Interrupt(5),), **options())
    assert torch.equal(weights(tmp_path / "parts", (), **options()), whole)


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
    """The training ends before its first batch; the state of a plugin that is not essential is left out instead."""

    class Odd(Plugin):
        def state_dict(self) -> dict[str, Any]:
            return {"made of": [object()]}

    recorder = Recorder()
    with pytest.raises(
        UsageError, match=r"plugin Odd cannot be saved: its state\['made of'\]\[0\] is a builtins.object"
    ):
        train(tmp_path / "a", Checkpoints(), Odd(), recorder)
    assert not recorder.of(BeforeTrainingBatch)
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


def test_a_state_that_cannot_be_saved_any_more_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it, and the checkpoint before it is kept."""

    class Odd(Plugin):
        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.run.state.step if self.run.state.step < 4 else lambda: 0}

    result = train(tmp_path, Odd(), Checkpoints(steps=1))
    assert (result.status, result.steps) == ("finished", 6)
    assert list_checkpoints(tmp_path)[0].label.step == 3
    assert "the checkpoint of step 6 could not be saved: the state of the plugin Odd" in caplog.text


class Table(nn.Module):
    """A linear model that keeps an array, a number, a path and a mode of its own in its `state_dict`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()
        self.own: dict[str, Any] = {
            "scale": np.float32(2), "table": np.arange(4.0), "path": Path("a"), "kind": torch.float32, "seen": {1},
        }  # fmt: skip

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.own["table"], np.ndarray)
        assert isinstance(self.own["scale"], np.float32)
        assert self.own["path"].suffix == ""
        output: torch.Tensor = self.linear(inputs)
        return output * float(self.own["scale"]) + float(self.own["table"].sum())

    def get_extra_state(self) -> dict[str, Any]:
        return self.own

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.own = state


def test_the_extra_state_of_a_model_is_saved_and_restored(tmp_path: Path) -> None:
    """The resumed model and the tested one have it in the classes that the model uses; the files are loadable."""
    whole = train(tmp_path / "whole", trainer=make_trainer(Table()), max_epochs=3)
    train(tmp_path / "parts", Interrupt(4), trainer=make_trainer(Table()), max_epochs=3)
    parts = train(tmp_path / "parts", trainer=make_trainer(model := Table()), max_epochs=3, resume=True)
    assert parts.test_metrics == whole.test_metrics
    assert model.own["scale"] == 2
    for name in ("best-model.pt", "final-model.pt"):
        saved = torch.load(tmp_path / "parts" / name, weights_only=True)["_extra_state"]
        assert torch.equal(saved.pop("table"), torch.arange(4.0, dtype=torch.float64))
        assert saved == {"scale": 2.0, "path": "a", "kind": torch.float32, "seen": {1}}


def test_an_extra_state_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    """The error names it, and nothing is opened."""
    model = Table()
    model.own["callback"] = print
    with pytest.raises(OptionError, match=r"the model's state_dict\['_extra_state'\]\['callback'\] is a builtins"):
        train(tmp_path / "run", trainer=make_trainer(model))
    assert not (tmp_path / "run").exists()


def test_options_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    """A training with them is resumed, and equals one with the same numbers of Python."""
    numbers: dict[str, Any] = {
        "learning_rate": np.float32(0.25), "optimizer_arguments": {"momentum": np.float64(0.5)},
        "max_epochs": np.int64(3), "mini_batch_size": np.int32(16), "shuffle": np.bool_(True), "seed": np.int64(1),
    }  # fmt: skip
    plain: dict[str, Any] = {
        "learning_rate": 0.25, "optimizer_arguments": {"momentum": 0.5}, "mini_batch_size": 16, "seed": 1,
    }  # fmt: skip
    whole = weights(tmp_path / "whole", (), **plain)
    assert torch.equal(weights(tmp_path / "parts", (Interrupt(4),), (), **numbers), whole)


def test_epoch_metrics_and_schedules_may_contain_numbers_of_numpy(tmp_path: Path) -> None:
    """They are in the resumed history, and the schedule continues with them."""

    class Recall(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.record_epoch({"dev/recall": np.array([0.5, 1.0]), "dev/f1": np.float32(epoch.epoch)})

    def schedule() -> Plugin:
        return TorchScheduler(lambda optimizer: MultiStepLR(optimizer, [1, 2], gamma=float(np.float64(0.5))))

    for epochs in (2, 3):
        trainer = make_trainer(model := linear())
        given = {"optimizer": SGD(model.parameters(), lr=np.float64(0.8)), "resume": True, "max_epochs": epochs}
        result = train(tmp_path, Recall(), schedule(), Checkpoints(epochs=1), trainer=trainer, **given)
    assert [epoch["dev/f1"] for epoch in result.history] == [1.0, 2.0, 3.0]
    assert [epoch["dev/recall"] for epoch in result.history] == [[0.5, 1.0]] * 3
    assert [epoch["learning_rate"] for epoch in result.history] == [0.8, 0.4, 0.2]


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
