"""A stream that two processes read together, each with two workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.torchrun import torchrun

from trainwire.checkpointing.checkpoint import list_checkpoints

SCRIPT = """
import gc, os, sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.resumed_trainings import Interrupt, weights
from support.tiny_training import make_trainer, points, train
from trainwire import DividedStream, Plugin, hook

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
data = list(points(49))

def report(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # one write, since both processes share a pipe

class Points(IterableDataset):
    def __iter__(self):
        return iter([(inputs, target, number) for number, (inputs, target) in enumerate(data)])

class OwnDivision(IterableDataset):
    "The first process has 30 points for its two workers, the second one 19."
    def __iter__(self):
        worker = get_worker_info()
        return iter((data[:30], data[30:])[rank][worker.id :: worker.num_workers])

class Seen(Plugin):
    "Removes the numbers of the samples from the batches, and keeps them."
    def __init__(self):
        self.numbers = []
    @hook
    def before_training_batch(self, batch):
        inputs, target, numbers = batch.batch
        self.numbers += numbers.tolist()
        batch.batch = [inputs, target]

def options():
    return {"train": DividedStream(Points()), "max_epochs": 2, "mini_batch_size": 4, "num_workers": 2}

seen = Seen()
whole = weights(folder / "whole", (seen,), **options())
report("seen", rank, sorted(seen.numbers))
weights(folder / "parts", (Seen(), Interrupt(1)), **options())
report("resumed", rank, torch.equal(weights(folder / "parts", (Seen(),), **options()), whole))

result = train(folder / "own", train=DataLoader(OwnDivision(), 4, num_workers=2), dev=points(8), max_epochs=2)
is_left = any(type(each) is DistributedDataParallel for each in gc.get_objects())  # workers could not release it
report("own", rank, is_left, result.steps, result.history[1]["train/loss"])
"""


@pytest.mark.timeout(180)
def test_two_processes_with_two_workers_each_read_a_stream(tmp_path: Path) -> None:
    """Each sample is used once, except for the last ones of an uneven epoch; a resumed training is exact."""
    output = torchrun(SCRIPT, tmp_path / "runs")
    seen = [[int(each) for each in found.split(",")] for found in re.findall(r"seen \d \[(.*)\]", output)]
    assert sorted(seen) == [sorted([*range(first, 48, 2)] * 2) for first in (0, 1)], output  # in both epochs
    assert len(re.findall(r"resumed \d True", output)) == 2, output
    assert any(checkpoint.label.step < 6 for checkpoint in list_checkpoints(tmp_path / "runs" / "parts"))
    own = re.findall(r"own \d False (\d+ .+)", output)
    assert len(own) == 2
    assert own[0] == own[1]
    assert own[0].startswith("12 ")  # 3 batches of 4, 4, 2 and of 4, 4, 1 points by the second one's workers, twice
