"""Models that are divided among processes: trained, interrupted, resumed and saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.sharded_training import Layers, train_layers
from support.tiny_training import points
from support.torchrun import finish_torchrun, start_torchrun, torchrun
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from trainwire.checkpointing.checkpoint import Checkpoint, list_checkpoints
from trainwire.training.data.loaders import epoch_seed
from trainwire_protocol.errors import DamagedCheckpointError

BEGIN = """
import json, os, signal, sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.run_reader import wait_until
from support.sharded_training import Layer, Layers, layers_trainer, train_layers
from trainwire import Forward, ModelTrainer
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.histograms import Histograms
from trainwire.plugins.swa import SWA
from trainwire_protocol.errors import OptionError

FOLDER, RANK = Path(sys.argv[1]), int(os.environ["RANK"])
"""

COMPARE = (
    BEGIN
    + """
class Weighted(ModelTrainer):
    def forward(self, batch):
        output, weight = self.model(batch[0]), batch[1].sum()
        losses = nn.functional.cross_entropy(output, batch[1], reduction="none")
        return Forward((losses * batch[1]).sum() / weight.clamp(min=1), output, batch[1], weight=weight)

def train(name, trainer=None, *plugins, **options):
    train_layers(FOLDER / name, *plugins, trainer=trainer or layers_trainer(RANK), **options)

train("ddp")
train("classes", fsdp=Layer, save_optimizer_state=True)
train("bf16", None, Histograms(every=10), EMA(0.9), fsdp=True, write_weights=True,
      fsdp_arguments={"mp_policy": "bf16", "reshard_after_forward": False})
train("fp16", fsdp=True, use_amp="fp16", optimizer=torch.optim.AdamW, optimizer_arguments={}, max_epochs=1)
for name, options in {"weighted-ddp": {}, "weighted-fsdp": {"fsdp": True}}.items():
    train(name, Weighted(Layers(RANK)), mini_batch_chunk_size=3, **options)

trained = layers_trainer(RANK)
train("function", trained, fsdp=lambda name, module: name.startswith("layers.") and name.count(".") == 1)
wrapped, sparse, meta = layers_trainer(), layers_trainer(), layers_trainer()
wrapped.model = torch.compile(wrapped.model)
sparse.model.embedding = nn.Embedding(3, 3, sparse=True)
meta.model.first.to("meta")
refused = []
for trainer, plugins, options in [
    (layers_trainer(), [], {"fsdp": nn.Conv1d}),
    (layers_trainer(), [], {"fsdp": lambda module: False}),
    (layers_trainer(), [], {"fsdp": nn.Tanh}),
    (layers_trainer(), [], {"fsdp": True, "optimizer": torch.optim.Adafactor, "optimizer_arguments": {}}),
    (layers_trainer(), [], {"fsdp": True, "fsdp_arguments": {"mp_policy": torch.bfloat16}}),
    (layers_trainer(), [], {"fsdp": True, "fsdp_arguments": {"offload_policy": "cpu"}}),
    (layers_trainer(), [SWA()], {"fsdp": True}),
    (wrapped, [], {"fsdp": True}),
    (sparse, [], {"fsdp": True}),
    (meta, [], {"fsdp": True}),
    (trained, [], {}),
]:
    try:
        train("refused", trainer, *plugins, **options)
    except OptionError as error:
        refused.append(str(error))
    else:
        refused.append("")
if RANK == 0:
    (FOLDER / "refused.json").write_text(json.dumps(refused))
"""
)

MESSAGES = [
    "fsdp selects no module of the model; the classes in the model are Layer, LayerNorm, Linear, ModuleList: choose",
    "fsdp selects no module of the model",
    "fsdp selects no module of the model",
    "the optimizer Adafactor cannot update parameters that fsdp has sharded: ",
    "fsdp_arguments contains mp_policy=torch.bfloat16; it must be a MixedPrecisionPolicy",
    "fsdp_arguments: offload_policy moves shards from a GPU to the host, but device is cpu",
    "SWA copies the model, which fsdp does not allow: average the weights with EMA instead",
    "fsdp: the model is compiled by torch.compile: ",
    "fsdp: embedding has sparse gradients, which cannot be sharded: omit sparse=True",
    "fsdp: parameters of the model are on the meta device: create the model with data",
    "the model was sharded by an earlier training (fsdp): create it anew, and load the weights that were saved",
]

RESUME = (
    BEGIN
    + """
kill_at, trainer = int(sys.argv[3]), layers_trainer()

@trainer.on("after_training_batch")
def kill(batch):
    if batch.step == kill_at and RANK == 1:
        wait_until(lambda: list_checkpoints(FOLDER / "run"), 60)  # they are written in the background
        os.kill(os.getpid(), signal.SIGKILL)

train_layers(FOLDER / "run", Checkpoints(steps=1), EMA(0.9), trainer=trainer, fsdp=True, resume=True,
             save_optimizer_state=True)
"""
)


FAIL = (
    BEGIN
    + """
trainer = layers_trainer()

@trainer.on("after_training_batch")
def fail(batch):
    if RANK == 1 and batch.step == 2:
        raise ValueError("the sample is damaged")

train_layers(FOLDER / "run", trainer=trainer, fsdp=True)
"""
)


def values(folder: Path, name: str, ranks: int = 2) -> list[float]:
    """Return a metric of each step: the mean over the ranks."""
    of_ranks = [
        [float(event.value) for event in read_events(folder, rank) if event.name == name] for rank in range(ranks)
    ]
    return [sum(numbers) / ranks for numbers in zip(*of_ranks, strict=True)]


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def assert_equal(state: dict[str, Any], other: dict[str, Any]) -> None:
    torch.testing.assert_close(state, other, rtol=0, atol=0)


@pytest.mark.timeout(240)
def test_a_sharded_model_trains_as_a_whole_one(tmp_path: Path) -> None:
    """20 steps have the losses and gradient norms of DistributedDataParallel and of one process, and the models that
    are saved are whole; what cannot be sharded is refused."""
    output = torchrun(COMPARE, tmp_path, seconds=220)
    train_layers(tmp_path / "one", mini_batch_size=8)
    for metric, count in {"train/batch_loss": 20, "train/gradient_norm": 20, "dev/loss": 2, "test/loss": 1}.items():
        expected = values(tmp_path / "one", metric, 1)
        assert len(expected) == count
        for name in ("ddp", "function", "classes"):
            assert values(tmp_path / name, metric) == pytest.approx(expected, rel=1e-4), (name, output)
    losses = values(tmp_path / "one", "train/batch_loss", 1)
    assert values(tmp_path / "bf16", "train/batch_loss") == pytest.approx(losses, rel=0.1)
    for file in ("best-model.pt", "final-model.pt"):
        whole = load(tmp_path / "classes" / file)
        Layers().load_state_dict(whole)
        torch.testing.assert_close(whole, load(tmp_path / "one" / file), rtol=1e-4, atol=1e-5)
    momentum = load(tmp_path / "classes" / "final-model.optimizer.pt")["state"][0]["momentum_buffer"]
    assert momentum.shape == (5, 4)
    torch.testing.assert_close(
        load(tmp_path / "weighted-fsdp" / "final-model.pt"), load(tmp_path / "weighted-ddp" / "final-model.pt"),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    names = {event.name for event in read_events(tmp_path / "bf16", 0)}
    assert {"parameters/layers.0.linear.weight", "gradients/layers.0.linear.weight"} <= names
    for message, expected_message in zip(json.loads((tmp_path / "refused.json").read_text()), MESSAGES, strict=True):
        assert expected_message in message
    assert not (tmp_path / "refused" / "checkpoints").exists()


def replayed(checkpoint: Checkpoint, folder: Path, batches: list[list[list[int]]]) -> dict[str, Any]:
    """Return the weights after plain PyTorch has continued from a checkpoint with the batches of the last epochs."""
    dcp_to_torch_save(checkpoint.folder / "shards", folder / "whole.pt")
    saved, model = load(folder / "whole.pt"), Layers()
    model.load_state_dict(saved["model"])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for number, parameter in enumerate(model.parameters()):
        optimizer.state[parameter] = dict(saved["optimizers"][""]["state"][str(number)])
    inputs, labels = points(80).tensors
    for indices in (indices for epoch in batches for indices in epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[indices]), labels[indices]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return model.state_dict()


def order(epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(epoch_seed(1, epoch))
    indices: list[int] = torch.randperm(80, generator=generator).tolist()
    return indices


@pytest.mark.timeout(300)
def test_a_killed_training_is_resumed_with_the_same_and_with_other_numbers_of_processes(tmp_path: Path) -> None:
    """With the same number, everything is bitwise equal to an uninterrupted training; with another one, the rest of the
    epoch is divided anew, and plain PyTorch reaches the same weights."""
    for name in ("whole", "killed", "four", "one"):
        (tmp_path / name).mkdir()
    assert finish_torchrun(start_torchrun(RESUME, tmp_path / "killed", 9))[0] != 0
    torchrun(RESUME, tmp_path / "whole", -1)
    for name in ("kept", "four", "one"):
        shutil.copytree(tmp_path / "killed" / "run", tmp_path / name / "run")
    checkpoint = list_checkpoints(tmp_path / "kept" / "run")[0]
    assert checkpoint.label.epoch == 1
    assert not checkpoint.label.epoch_is_over

    torchrun(RESUME, tmp_path / "killed", -1)
    torchrun(RESUME, tmp_path / "four", -1, processes=4)
    for file in ("final-model.pt", "final-model.optimizer.pt", "best-model.pt"):
        assert_equal(load(tmp_path / "killed" / "run" / file), load(tmp_path / "whole" / "run" / file))

    train_layers(tmp_path / "one" / "run", resume=True)  # not sharded
    done = checkpoint.label.step
    for name, size, first in (("four", 16, done // 2), ("one", 4, done * 2)):
        batches = [[order(epoch)[at : at + size] for at in range(0, 80, size)] for epoch in (1, 2)]
        expected = replayed(checkpoint, tmp_path, [batches[0][first:], batches[1]])
        path = tmp_path / name / "run"
        state = load(list_checkpoints(path)[0].folder / "rank-0.pt") if name == "one" else None
        found = state["model"] if state else whole_model(list_checkpoints(path)[0], tmp_path)
        torch.testing.assert_close(dict(found), dict(expected), rtol=1e-3, atol=1e-5)
    messages = [str(event.value) for event in read_events(tmp_path / "four" / "run", 0)]
    message = f"epoch 1 goes on after batch {done // 2} of now 5 in each process; it was at batch {done}"
    assert any(message in each for each in messages)

    shard = next((checkpoint.folder / "shards").glob("__1_*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpointError, match=r"__1_0\.distcp is damaged"):
        checkpoint.verify()
    shard.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"__1_0\.distcp cannot be read"):
        checkpoint.verify()


def whole_model(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    dcp_to_torch_save(checkpoint.folder / "shards", folder / "four.pt")
    model: dict[str, Any] = load(folder / "four.pt")["model"]
    return model


@pytest.mark.timeout(180)
def test_a_process_that_fails_ends_the_others_with_its_message(tmp_path: Path) -> None:
    """The others fail too, or are ended by torchrun, in less than a minute; the output has the message."""
    (tmp_path / "failing").mkdir()
    code, output = finish_torchrun(start_torchrun(FAIL, tmp_path / "failing"))
    assert code != 0
    assert "ValueError: the sample is damaged" in output
    last = read_events(tmp_path / "failing" / "run", 1)[-1]
    failed_at = last.walltime
    assert (last.name, last.value["reason"]) == ("run/failed", "ValueError: the sample is damaged")
    assert read_events(tmp_path / "failing" / "run", 0)[-1].walltime - failed_at < 60
