"""Hooks that replace the batch or the loss."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import DOCS
from support.resumed_trainings import Interrupt, weights
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from support.torchrun import torchrun
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingForward, BeforeTrainingBatch
from trainwire_protocol.errors import UsageError

PLAIN: dict[str, Any] = {
    "sampler": SequentialSampler, "max_grad_norm": None, "attach_default_scheduler": False, "train": points(48),
    "max_epochs": 1,
}  # fmt: skip
"""A training of three batches that plain PyTorch repeats in a few lines."""


def plugins_of_the_page() -> dict[str, Any]:
    """Return the plugins that the page on plugins shows."""
    sources = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-plugin.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(next(source for source in sources if "class Mixup" in source), names)
    return names


def plain_weights(change_batch: Any = None, penalty: Any = None) -> torch.Tensor:
    """Return the weights after the same training in plain PyTorch."""
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(1)
    for inputs, target in DataLoader(points(48), 16, generator=torch.Generator()):
        inputs, target = change_batch(inputs, target) if change_batch else (inputs, target)
        loss = nn.functional.cross_entropy(model(inputs), target)
        optimizer.zero_grad()
        (loss + penalty(model) if penalty else loss).backward()
        optimizer.step()
    return model.weight.detach()


def trained_weights(folder: Path, *plugins: Plugin, **options: Any) -> torch.Tensor:
    model = linear()
    train(folder, *plugins, trainer=make_trainer(model), **{**PLAIN, **options})
    return model.weight.detach()


def test_mixup_trains_on_mixtures(tmp_path: Path) -> None:
    """The page's plugin trains as the same mixture in plain PyTorch does, and a resumed training is exact."""
    mixup = plugins_of_the_page()["Mixup"]
    beta = torch.distributions.Beta(0.2, 0.2)

    def mix(inputs: torch.Tensor, target: torch.Tensor) -> Any:
        order, share = torch.randperm(16), beta.sample().item()
        targets = nn.functional.one_hot(target, 2).float()
        return inputs + share * (inputs[order] - inputs), targets + share * (targets[order] - targets)

    expected = plain_weights(mix)
    torch.testing.assert_close(trained_weights(tmp_path / "plain", mixup()), expected)
    assert not torch.allclose(expected, plain_weights())

    whole = weights(tmp_path / "whole", (mixup(),))
    assert torch.equal(weights(tmp_path / "parts", (mixup(), Interrupt(4)), (mixup(),)), whole)


def test_a_new_batch_determines_the_number_of_samples(tmp_path: Path) -> None:
    """The following plugins and the step see the new batch, also if it has another size."""

    class Halve(Plugin):
        @hook
        def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
            batch.batch = [part[:8] for part in batch.batch]

    recorder = Recorder()
    train(tmp_path, Halve(), recorder, **PLAIN)
    assert [len(payload.batch[0]) for payload in recorder.of(BeforeTrainingBatch)] == [8, 8, 8]
    assert [payload.samples for payload in recorder.calls if hasattr(payload, "samples")] == [8, 8, 8]


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([16], {}), ([5, 5, 5, 1], {"mini_batch_chunk_size": 5}),
        ([4] * 4, {"mini_batch_size": 4, "accumulate_batches": 4}),
    ],
)  # fmt: skip
def test_a_penalty_counts_once_for_each_update(tmp_path: Path, sizes: list[int], options: dict[str, Any]) -> None:
    """The page's penalty trains and is recorded as in plain PyTorch, also with chunks or several batches."""
    recorder = Recorder()
    found = trained_weights(tmp_path, plugins_of_the_page()["SmallWeights"](), recorder, **options)
    torch.testing.assert_close(
        found, plain_weights(penalty=lambda model: 1e-3 * sum(each.abs().sum() for each in model.parameters()))
    )
    calls = recorder.of(AfterTrainingForward)
    assert [len(call.batch[0]) for call in calls] == sizes * 3
    assert [call.step for call in calls] == [step for step in (1, 2, 3) for _ in sizes]
    assert all(call.loss > call.forward.loss for call in calls)
    losses = [event.value for event in read_events(tmp_path) if event.name == "train/batch_loss"]
    means = [sum(call.loss.item() * len(call.batch[0]) for call in calls if call.step == step) for step in (1, 2, 3)]
    assert losses == pytest.approx([mean / 16 for mean in means], rel=1e-6)


class SkipThird(Plugin):
    """Skips the third batch of each epoch."""

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        if batch.number == 3:
            self.run.control.skip_batch()


def test_each_forward_pass_has_the_number_of_its_batch(tmp_path: Path) -> None:
    """It is that of `before_training_batch`, for each batch of an update, and for both chunks of one."""
    recorder = Recorder()
    train(
        tmp_path, SkipThird(), recorder, train=points(40), mini_batch_size=8, mini_batch_chunk_size=4,
        accumulate_batches=3, max_epochs=1, max_grad_norm=None,
    )  # fmt: skip
    assert [batch.number for batch in recorder.of(BeforeTrainingBatch)] == [1, 2, 3, 4, 5]
    calls = recorder.of(AfterTrainingForward)
    assert [call.number for call in calls] == [1, 1, 2, 2, 4, 4, 5, 5]
    assert [call.step for call in calls] == [1, 1, 1, 1, 2, 2, 2, 2]


class Assign(Plugin):
    """Assigns a value to the loss."""

    value: Any = None

    @hook
    def after_training_forward(self, forward: AfterTrainingForward) -> None:
        forward.loss = self.value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (0.5, "a float"), (None, "a NoneType"), (torch.ones(4, requires_grad=True), r"a tensor of shape \(4,\)"),
        (torch.tensor(1.0), "a tensor without a gradient"),
    ],
)  # fmt: skip
def test_an_invalid_loss_is_refused(tmp_path: Path, value: Any, what: str) -> None:
    """The error names the plugin; the loss of one that is not essential is not used."""
    plugin = Assign()
    plugin.value = value
    with pytest.raises(UsageError, match=rf"^Assign\.after_training_forward assigned {what} to loss; it must be"):
        trained_weights(tmp_path / "a", plugin)


def test_a_plugin_that_fails_changes_nothing(tmp_path: Path) -> None:
    """What a plugin that is not essential has assigned before it failed is not used."""

    class Fails(Assign):
        essential = False

        @hook
        def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
            batch.batch = None

    assert torch.equal(trained_weights(tmp_path, Fails()), plain_weights())
    failures = [event.value["error"] for event in read_events(tmp_path) if event.name == "plugin/failed"]
    assert failures[0].endswith("before_training_batch assigned None to batch: assign a batch")
    assert "after_training_forward assigned a NoneType to loss" in failures[1]


def test_other_fields_cannot_be_assigned(tmp_path: Path) -> None:
    """The error says which field can."""
    trainer = make_trainer()

    @trainer.on("after_training_forward")
    def assign(forward: AfterTrainingForward) -> None:
        forward.forward = None

    with pytest.raises(FrozenInstanceError, match="'forward' cannot be assigned, only 'loss'"):
        train(tmp_path, trainer=trainer)


TWO_PROCESSES = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from trainwire import ModelTrainer

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])

class TwoHeads(nn.Module):
    "Only the first head is used by its forward."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)
    def forward(self, inputs):
        return self.first(self.body(inputs))

def batches_of(rank):
    generator = torch.Generator().manual_seed(rank)
    return [(torch.randn(6, 3, generator=generator), torch.randn(6, 1, generator=generator)) for _ in range(4)]

def second_loss(model, inputs):
    return model.second(model.body(inputs)).abs().mean() + 0.01 * model.second.weight.square().sum()

expected = TwoHeads()
optimizer = torch.optim.SGD(expected.parameters(), 0.1)
for pair in zip(batches_of(0), batches_of(1)):
    optimizer.zero_grad()
    for inputs, target in pair:
        loss = nn.functional.mse_loss(expected(inputs), target) + second_loss(expected, inputs)
        (loss / 2).backward()
    optimizer.step()

for size in (None, 2):
    model = TwoHeads()
    trainer = ModelTrainer(model, loss=nn.MSELoss())

    @trainer.on("after_training_forward")
    def add_second(forward):
        forward.loss = forward.loss + second_loss(model, forward.batch[0])

    trainer.train(
        folder / str(size), train=DataLoader(batches_of(rank), None), max_epochs=1, sinks=(), learning_rate=0.1,
        max_grad_norm=None, attach_default_scheduler=False, mini_batch_chunk_size=size,
    )
    pairs = zip(model.parameters(), expected.parameters())
    sys.stdout.write(f"equal {all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)}\\n")
"""


@pytest.mark.timeout(180)
def test_two_processes_average_the_gradients_of_an_added_loss(tmp_path: Path) -> None:
    """Also those of parameters that the model's own loss does not depend on, with and without chunks."""
    output = torchrun(TWO_PROCESSES, tmp_path / "runs", seconds=120)
    assert output.splitlines().count("equal True") == 4, output
