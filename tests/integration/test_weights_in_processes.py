"""The weights of losses in two processes that train together: compared with plain PyTorch on the data of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.torchrun import torchrun

SCRIPT = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import linear
from trainwire import Forward, ModelTrainer

FOLDER, RANK = Path(sys.argv[1]), int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")

def tokens(generator, ignored, length):
    inputs, labels = torch.randn(4, length, 4, generator=generator), torch.randint(2, (4, length), generator=generator)
    return inputs, labels.masked_fill(torch.rand((4, length), generator=generator) < ignored, -100)

def batches(rank):
    '''Return a rank's batches: in the second one, the first rank has no token that counts.'''
    generator = torch.Generator().manual_seed(rank)
    ignored = [(0.1, 1.0, 0.5), (0.8, 0.3, 0.9)][rank]
    return [tokens(generator, share, 3 + 2 * rank + number) for number, share in enumerate(ignored)]

def cross_entropy(output, target):
    return functional.cross_entropy(output.flatten(0, 1), target.flatten(), weight=torch.tensor([0.2, 3.0]))

def masked(output, target):
    counts = target != -100
    losses = functional.cross_entropy(output.flatten(0, 1), target.clamp(min=0).flatten(), reduction="none")
    return (losses * counts.flatten()).sum() / counts.sum().clamp(min=1)

def squares(output, target):
    return functional.mse_loss(output, target[..., None].clamp(min=0).float().expand_as(output))

class Masked(ModelTrainer):
    def forward(self, batch):
        return Forward(masked(self.model(batch[0]), batch[1]), weight=(batch[1] != -100).sum())

class Squares(ModelTrainer):
    def forward(self, batch):
        output = self.model(batch[0])
        return Forward(squares(output, batch[1]), weight=output.numel())

def plain(loss):
    '''Return the weights and the mean losses of a training in one process, on the batches of both together.'''
    model, both = linear(), list(zip(*(batches(rank) for rank in (0, 1))))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    def joined(parts):
        outputs = torch.cat([model(inputs).flatten(0, 1) for inputs, _ in parts])
        return loss(outputs[None], torch.cat([labels.flatten() for _, labels in parts])[None])
    sums = []
    for parts in both:
        value = joined(parts)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        dev = joined([part for parts in both for part in parts])
    return model.weight.detach(), dev.item()

def loader():
    return DataLoader(batches(RANK), None)

def compare(name, trainer, loss, **options):
    result = trainer.train(FOLDER / name, train=loader(), dev=loader(), learning_rate=0.5, max_epochs=1,
                           max_grad_norm=None, sinks=(), use_final_model_for_eval=True, **options)
    weights, dev = plain(loss)
    final = torch.load(FOLDER / name / "final-model.pt", weights_only=True)["weight"]
    close = torch.allclose(final, weights, rtol=1e-4, atol=1e-6), abs(result.history[0]["dev/loss"] - dev) < 1e-5
    sys.stdout.write(f"{name} {RANK} {close[0]} {close[1]}\\n")  # one write, since both processes share a pipe

for size in (None, 3):
    options = {"mini_batch_chunk_size": size}
    compare(f"torch-{size}", ModelTrainer(linear(), loss=cross_entropy), cross_entropy, **options)
    compare(f"given-{size}", Masked(linear()), masked, **options)
    compare(f"shapes-{size}", Squares(linear()), squares, **options)
"""


@pytest.mark.timeout(180)
def test_two_processes_weight_their_batches(tmp_path: Path) -> None:
    """Final weights and dev loss are those of one process that has the batches of both, whole or in chunks."""
    output = torchrun(SCRIPT, tmp_path)
    found = sorted(line for line in output.splitlines() if line.startswith(("torch-", "given-", "shapes-")))
    names = [f"{name}-{size}" for name in ("given", "shapes", "torch") for size in (3, None)]
    assert found == [f"{name} {rank} True True" for name in names for rank in (0, 1)], output
