"""Evaluations, predictions and loaded models outside of a training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import corpus, linear, make_trainer, points, train
from support.torchrun import torchrun
from torch import Tensor, distributed, nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from trainwire import Forward, ModelTrainer, Plugin, hook
from trainwire.training.data.outputs import interleaved, joined
from trainwire.training.hooks.payloads import AfterSetup
from trainwire.training.inference import Inference
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts


def plain_scores(model: nn.Module, data: TensorDataset) -> tuple[float, float]:
    """Return the loss and the accuracy, computed at once."""
    inputs, target = data.tensors
    with torch.no_grad():
        output = model(inputs)
    accuracy = (output.argmax(1) == target).float().mean()
    return nn.functional.cross_entropy(output, target).item(), accuracy.item()


@pytest.mark.parametrize("is_loader", [False, True])
def test_the_scores_are_those_of_all_data(*, is_loader: bool) -> None:
    """A Dataset in uneven batches, or a DataLoader, gives the mean loss and the metrics; no folder is needed."""
    trainer, data = make_trainer(), points(50)
    given: Any = DataLoader(data, 7) if is_loader else data
    loss, accuracy = plain_scores(trainer.model, data)
    scores = trainer.evaluate(given, mini_batch_size=8)
    assert scores == pytest.approx({"loss": loss, "accuracy": accuracy})
    assert trainer.evaluate(given, split="test").keys() == {"test/loss", "test/accuracy"}


def test_a_trained_model_is_evaluated_as_in_the_training(tmp_path: Path) -> None:
    """The scores are those that the training recorded, and the run gets an attempt with the new ones."""
    trainer = make_trainer(metrics={"accuracy": MulticlassAccuracy(2), "recall": MulticlassRecall(2, average=None)})
    result = train(tmp_path, trainer=trainer, max_epochs=1)
    scores = trainer.evaluate(corpus().test, split="test", run_folder=tmp_path)  # type: ignore[arg-type]  # it has one
    assert scores == result.test_metrics
    assert len(list_attempts(tmp_path, 0)) == 2
    events = read_events(tmp_path, attempt=1)
    assert [event.name for event in events if event.type == "lifecycle"] == [
        "run/resumed", "evaluation/started", "evaluation/finished", "run/finished",
    ]  # fmt: skip
    recorded: dict[str, Any] = {event.name: event.value for event in events if event.type in ("scalar", "scalars")}
    assert {**recorded, "test/recall": list(recorded["test/recall"])} == scores
    assert {event.step for event in events if event.type == "scalar"} == {3}


class Noisy(nn.Module):
    """Uses random numbers, also in evaluation, and has a part that is frozen in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(4, 2), nn.BatchNorm1d(4), nn.Dropout()
        self.norm.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.dropout(self.linear(self.norm(inputs))) + torch.rand(len(inputs), 2)


def state_of(trainer: ModelTrainer, generator: torch.Generator) -> Any:
    modes = [module.training for module in trainer.model.modules()]
    return modes, torch.get_rng_state().tolist(), random.getstate(), generator.get_state().tolist()


def test_modes_and_random_states_are_restored() -> None:
    """After an evaluation or a prediction, and between two batches, everything is as before."""
    generator = torch.Generator()
    trainer, data = make_trainer(Noisy()), DataLoader(points(20), 8, shuffle=True, generator=generator)
    before = state_of(trainer, generator)
    trainer.evaluate(data)
    assert state_of(trainer, generator) == before
    outputs = []
    for output in trainer.predict_batches(data):
        assert state_of(trainer, generator) == before
        assert torch.is_grad_enabled()
        outputs.append(output)
    assert torch.equal(torch.cat(outputs), trainer.predict(data))
    with pytest.raises(RuntimeError, match="in a batch of data"):
        trainer.predict(TensorDataset(torch.zeros(3, 5)))
    assert state_of(trainer, generator) == before
    model = linear().eval()
    make_trainer(model).evaluate(points(8))
    assert not model.training


@pytest.mark.parametrize("has_target", [False, True])
def test_predictions_are_the_outputs_of_all_samples(*, has_target: bool) -> None:
    """They are in order, and the data need not have a target."""
    inputs, target = points(21).tensors
    model = linear()
    data = TensorDataset(inputs, target) if has_target else TensorDataset(inputs)
    predicted = make_trainer(model).predict(data, mini_batch_size=8)
    assert not predicted.requires_grad
    torch.testing.assert_close(predicted, model(inputs).detach())
    batches = list(make_trainer(model).predict_batches(DataLoader(data, 8)))
    assert [len(batch) for batch in batches] == [8, 8, 5]
    assert torch.equal(torch.cat(batches), predicted)


def test_a_stream_of_mappings_is_predicted() -> None:
    """A loader without a length, batches that are tensors or mappings, and `collate_fn` work too."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from ({"input": each} for each in inputs)

    inputs = points(10).tensors[0]
    expected = linear()(inputs).detach()
    assert torch.equal(make_trainer().predict(DataLoader(Stream(), 4)), expected)
    assert torch.equal(make_trainer().predict(inputs), expected)  # type: ignore[arg-type]  # a sequence of samples
    assert torch.equal(make_trainer().predict(range(10), collate_fn=lambda rows: inputs[rows]), expected)  # type: ignore[arg-type]


def test_forward_or_predict_batch_may_be_overridden() -> None:
    """The output of an overridden `forward` is predicted, unless `predict_batch` is overridden too."""

    class Own(ModelTrainer):
        def forward(self, batch: Any) -> Forward:
            output = self.model(batch["x"]) if "x" in batch else None
            return Forward(torch.zeros(()), output)

    class Classes(Own):
        def predict_batch(self, batch: Any) -> Any:
            return self.model(batch["x"]).argmax(1)

    inputs = points(6).tensors[0]
    data: Any = [{"x": each} for each in inputs]
    expected = linear()(inputs)
    assert torch.equal(Own(linear()).predict(data), expected)
    assert torch.equal(Classes(linear()).predict(data), expected.argmax(1))
    with pytest.raises(UsageError, match="forward returned no output"):
        Own(linear()).predict([{"y": 1}])  # type: ignore[arg-type]  # a sequence of samples


def test_mixed_precision_and_a_device() -> None:
    """`use_amp` gives outputs in its precision, and `device` moves the model and the batches."""
    assert make_trainer().predict(points(4), use_amp="bf16").dtype is torch.bfloat16
    assert make_trainer().predict(points(4), device="cpu").dtype is torch.float32
    with pytest.raises(OptionError, match="device is 'nowhere'"):
        make_trainer().predict(points(4), device="nowhere")


def test_outputs_that_are_not_one_tensor_are_joined() -> None:
    """Parts are joined one by one; rows of different shapes, and lists, have an item for each sample."""
    outputs = [
        ({"a": torch.ones(2, 3)}, [1, 2], torch.ones(2, 4), 7),
        ({"a": torch.zeros(1, 3)}, [3], torch.ones(1, 5), 8),
    ]
    first, numbers, rows, rest = joined(outputs)
    assert first["a"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert (numbers, [len(row) for row in rows], rest) == ([1, 2, 3], [4, 4, 5], [7, 8])


def test_outputs_of_processes_take_turns() -> None:
    """Each process has every n-th sample; what has no row for each sample follows each other."""
    parts = [
        (torch.tensor([0, 2, 4]), ["a", "c", "e"], torch.zeros(4)),
        (torch.tensor([1, 3]), ["b", "d"], torch.ones(1)),
    ]
    tensor, items, others = interleaved(parts, [3, 2])
    assert (tensor.tolist(), items, others.tolist()) == ([0, 1, 2, 3, 4], list("abcde"), [0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda trainer: trainer.evaluate(7), "data is 7: give a Dataset or a DataLoader"),
        (lambda trainer: trainer.evaluate([]), "data is empty: it has no samples"),
        (lambda trainer: trainer.evaluate(points(4), split=""), "split is ''"),
        (lambda trainer: trainer.evaluate(points(4), max_epochs=3), r"evaluate\(\) has no option 'max_epochs'; its"),
        (lambda trainer: trainer.evaluate(points(4), batch_size=3), "use instead of 'batch_size': mini_batch_size"),
        (lambda trainer: trainer.predict(points(4), mini_batch_size=0), "mini_batch_size is 0"),
        (lambda trainer: trainer.predict_batches(points(4), multi_gpu=True), "start the program with torchrun"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Any, message: str) -> None:
    """It raises OptionError, before a batch is read."""
    with pytest.raises(OptionError, match=message):
        call(make_trainer())


def test_they_are_refused_inside_a_training(tmp_path: Path) -> None:
    """The error says what to do instead; a training is refused while predictions are read."""

    class Calls(Plugin):
        @hook
        def after_setup(self, setup: AfterSetup) -> None:
            for name in ("evaluate", "predict", "predict_batches"):
                with pytest.raises(UsageError, match=f"{name}.*: this trainer is training.*control.evaluate"):
                    getattr(trainer, name)(points(4))
            with pytest.raises(UsageError, match="loading a model: this trainer is training"):
                trainer.load_best(tmp_path)

    trainer = make_trainer()
    train(tmp_path / "run", Calls(), trainer=trainer, max_epochs=1)
    batches = trainer.predict_batches(points(9), mini_batch_size=4)
    next(batches)
    with pytest.raises(UsageError, match="predict_batches of this trainer is not finished"):
        trainer.train(tmp_path / "other", train=points(4))
    assert len(list(batches)) == 2
    train(tmp_path / "other", trainer=trainer, max_epochs=1)


def test_the_best_and_the_final_model_are_loaded(tmp_path: Path) -> None:
    """Another trainer, with a model of the same class, gets the weights of the run, and of the loss."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return self.scale * nn.functional.cross_entropy(output, target)

    first = make_trainer(loss=Scaled())
    train(tmp_path, trainer=first, use_final_model_for_eval=True)
    trainer = make_trainer(torch.compile(linear(), backend="eager"), loss=Scaled())
    for load, name in ((trainer.load_final, "final-model"), (trainer.load_best, "best-model")):
        load(tmp_path)
        state = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.equal(trainer.model.get_parameter("_orig_mod.weight"), state["weight"])
        scale = torch.load(tmp_path / f"{name}.loss.pt", weights_only=True)["scale"]
        assert scale != 1
        assert torch.equal(trainer.loss.scale, scale)  # type: ignore[union-attr]  # it is a module
    assert not torch.equal(trainer.model.get_parameter("_orig_mod.weight"), linear().weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(4, 3), r"of another model than this Linear: weight has the shape \(2, 4\), not \(3, 4\), bias has"),
        (nn.Sequential(nn.Linear(4, 2)), "0.weight is missing, 0.bias is missing, weight is not part of the model"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, model: nn.Module, message: str) -> None:
    """The error names what differs, and nothing is loaded."""
    train(tmp_path, max_epochs=1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(UsageError, match=message):
        make_trainer(model).load_best(tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_missing_or_damaged_model_is_one_error(tmp_path: Path) -> None:
    """It says whether there is no run, or which models it has."""
    trainer = make_trainer()
    with pytest.raises(OptionError, match="which does not exist"):
        trainer.load_best(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="which contains no run"):
        trainer.load_final(tmp_path)
    train(tmp_path, train=points(16), max_epochs=1)
    with pytest.raises(OptionError, match=r"has no best-model.pt: it has final-model.pt; the best model is saved if"):
        trainer.load_best(tmp_path)
    (tmp_path / "final-model.pt").write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"final-model.pt cannot be read"):
        trainer.load_final(tmp_path)


SCRIPT = """
import os, sys
from pathlib import Path
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import linear, make_trainer, points

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
data = points(21)
inputs, target = data.tensors
expected = linear()(inputs).detach()
trainer, sampler = make_trainer(), DistributedSampler(data, 2, rank, shuffle=False)
results = {
    "dataset": trainer.predict(data, mini_batch_size=4),
    "batches": torch.cat(list(trainer.predict_batches(data, mini_batch_size=5))),
    "sampler": trainer.predict(DataLoader(data, 4, sampler=sampler)),
    "batch_sampler": trainer.predict(DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False))),
    "loader": trainer.predict(DataLoader(data, 4)),
    "few": trainer.predict(TensorDataset(inputs[:1])),
    "alone": trainer.predict(data, multi_gpu=False),
}
correct = {name: torch.equal(value, expected[:1] if name == "few" else expected) for name, value in results.items()}
scores = trainer.evaluate(data, mini_batch_size=4, run_folder=folder / "run")
loss = torch.nn.functional.cross_entropy(expected, target).item()
accuracy = (expected.argmax(1) == target).float().mean().item()
correct["loss"], correct["accuracy"] = abs(scores["loss"] - loss) < 1e-6, abs(scores["accuracy"] - accuracy) < 1e-6
sys.stdout.write(f"{rank} {[name for name, is_correct in correct.items() if not is_correct]}\\n")
"""


def test_processes_divide_the_samples(tmp_path: Path) -> None:
    """Both processes have the outputs of all samples in order, without repeated ones, and the scores of all."""
    output = torchrun(SCRIPT, tmp_path / "script")
    assert "0 []" in output
    assert "1 []" in output
    for rank in (0, 1):
        assert read_events(tmp_path / "script" / "run", rank=rank)[-1].name == "run/finished"


class Doubled(Metric):
    """Contains another metric, and is computed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SumMetric()

    def update(self, output: Tensor, target: Tensor) -> None:
        self.inner.update(torch.ones(len(output)))

    def compute(self) -> Tensor:
        value: Tensor = 2 * self.inner.compute()
        return value


def test_a_process_alone_does_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `multi_gpu=False`, no metric and none inside it is synchronized, though there is a process group."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(distributed, "barrier", lambda *_, **__: pytest.fail("it waits for other processes"))
        metrics: Any = {"accuracy": MulticlassAccuracy(2), "doubled": Doubled()}
        assert make_trainer(metrics=metrics).evaluate(points(9), multi_gpu=False)["doubled"] == 18
        assert all(each._to_sync for metric in metrics.values() for each in (metric, *metric.children()))
    finally:
        distributed.destroy_process_group()


def test_a_sampler_inside_a_batch_sampler_divides_the_samples() -> None:
    """Then predictions are gathered, without those that it repeats."""
    sampler = BatchSampler(DistributedSampler(points(9), 2, 0), 4, drop_last=False)
    inference = Inference(make_trainer(), DataLoader(points(9), batch_sampler=sampler), {}, "predict")
    assert inference._is_divided
    assert inference._samples() == 9
