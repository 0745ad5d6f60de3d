"""The gradients of two processes: unused and unfrozen parameters, numbers of batches that differ, and arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.run_reader import read_events
from support.torchrun import finish_torchrun, start_torchrun, torchrun

HEAD = """
import os, sys
from pathlib import Path
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from trainwire import Forward, ModelTrainer

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])

def report(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # one write, since both processes share a pipe

def batches_of(rank, count):
    generator = torch.Generator().manual_seed(10 + rank)
    return [(torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]

class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count
    def __iter__(self):
        return iter(batches_of(rank, self.count))

def plain(model, counts, epochs, before_epoch=lambda model, epoch: None, forward=lambda model, inputs: model(inputs)):
    "Train with the mean of the gradients of both processes, for as long as both have batches."
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(1, epochs + 1):
        before_epoch(model, epoch)
        for pair in zip(batches_of(0, counts[0]), batches_of(1, counts[1])):
            optimizer.zero_grad()
            for inputs, target in pair:
                (nn.functional.mse_loss(forward(model, inputs), target) / 2).backward()
            optimizer.step()
    return model

def train(name, trainer, data, epochs=2, **options):
    return trainer.train(
        folder / name, train=data, max_epochs=epochs, sinks=(), learning_rate=0.1, max_grad_norm=None,
        attach_default_scheduler=False, **options,
    )

def seeded(make):
    torch.manual_seed(0)
    return make()

def are_equal(model, expected):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
"""

BATCHES = """
class Experts(nn.Module):
    "Each batch uses one of two experts, and a third is never used."
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))
        self.features = nn.Linear(3, 2)
    def forward(self, inputs):
        return self.experts[int(inputs.sum() > 0)](inputs)

class Features(ModelTrainer):
    "Returns, for metrics, an output of parameters that the loss does not depend on."
    def forward(self, batch):
        inputs, target = batch
        return Forward(self.loss(self.model(inputs), target), self.model.features(inputs), target)

model = seeded(Experts)
result = train("experts", Features(model, loss=nn.MSELoss()), DataLoader(Stream(6), None))
report("experts", result.steps, are_equal(model, plain(seeded(Experts), (6, 6), 2)))
report("unused", model.experts[2].weight.grad is None, model.features.weight.grad is None)

model = seeded(lambda: nn.Linear(3, 1))
result = train("streams", ModelTrainer(model, loss=nn.MSELoss()), DataLoader(Stream((5, 3)[rank]), None))
epochs = [metrics["train/loss"] for metrics in result.history]
report("streams", result.steps, are_equal(model, plain(seeded(lambda: nn.Linear(3, 1)), (5, 3), 2)), epochs)

model = seeded(lambda: nn.Linear(3, 1))
rows = TensorDataset(*(torch.cat(parts) for parts in zip(*batches_of(rank, (2, 4)[rank]))))
trainer, announced = ModelTrainer(model, loss=nn.MSELoss()), []
trainer.on("before_training_epoch")(lambda epoch: announced.append((epoch.batches, trainer.run.planned_steps)))
result = train("loaders", trainer, DataLoader(rows, 4))
report("loaders", result.steps, are_equal(model, plain(seeded(lambda: nn.Linear(3, 1)), (2, 4), 2)), announced)

def frozen():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    return model

def unfreeze(model, epoch):
    model[0].requires_grad_(epoch == 2)

model = seeded(frozen)
trainer = ModelTrainer(model, loss=nn.MSELoss())
trainer.on("before_training_epoch")(lambda epoch: unfreeze(model, epoch.epoch))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
train("unfrozen", trainer, DataLoader(Stream(3), None), epochs=3, optimizer=optimizer)
report("unfrozen", are_equal(model, plain(seeded(frozen), (3, 3), 3, unfreeze)))

result = train("empty", ModelTrainer(nn.Linear(3, 1), loss=nn.MSELoss()), DataLoader(Stream(4 * rank), None))
"""

ARGUMENTS = """
distributed.init_process_group("gloo")
del os.environ["WORLD_SIZE"], os.environ["RANK"]  # the process group says the same

class Checkpointed(nn.Module):
    "Computes its first layer again in the backward pass."
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
    def forward(self, inputs):
        return self.last(checkpoint(self.first, inputs.requires_grad_(), use_reentrant=True))

model = seeded(Checkpointed)
trainer = ModelTrainer(DistributedDataParallel(model), loss=nn.MSELoss())
train("static", trainer, DataLoader(Stream(3), None), ddp_arguments={"static_graph": True})
report("static", are_equal(model, plain(seeded(Checkpointed), (3, 3), 2)), trainer.model is model)

class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)
    def forward(self, inputs):
        return self.used(inputs)

trainer = ModelTrainer(Half(), loss=nn.MSELoss())
try:
    train("strict", trainer, DataLoader(Stream(3), None), ddp_arguments={"find_unused_parameters": False})
except RuntimeError as error:
    report("strict", error.__notes__[-1])
"""


@pytest.mark.timeout(180)
def test_gradients_are_those_of_the_batches_that_both_processes_have(tmp_path: Path) -> None:
    """The weights are those of plain PyTorch, and each epoch ends when one of the processes has no more batches."""
    code, output = finish_torchrun(start_torchrun(HEAD + BATCHES, tmp_path))
    lines = output.splitlines()
    assert lines.count("experts 12 True") == 2, output
    assert lines.count("unused True True") == 2
    streams = [line for line in lines if line.startswith("streams 6 True")]
    assert len(streams) == 2
    assert streams[0] == streams[1]
    assert lines.count("loaders 4 True [(2, 4), (2, 4)]") == 2
    assert lines.count("unfrozen True") == 2
    assert code != 0
    reasons = [read_events(tmp_path / "empty", rank)[-1].value["reason"] for rank in (0, 1)]
    assert all(reason.startswith("UsageError: train had no batches in epoch 1") for reason in reasons)


@pytest.mark.timeout(180)
def test_arguments_of_distributed_data_parallel(tmp_path: Path) -> None:
    """They are passed on, a model that is wrapped already is unwrapped, and torch's error names the remedy."""
    output = torchrun(HEAD + ARGUMENTS, tmp_path)
    lines = output.splitlines()
    assert lines.count("static True True") == 2, output
    assert lines.count("strict pass ddp_arguments={'find_unused_parameters': True} to train") == 2
