"""ModelTrainer: trainings from the call to the result."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import Recorder, corpus, linear, make_trainer, points, train
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import BinaryAccuracy

from trainwire import Corpus, ModelTrainer, Plugin, hook
from trainwire.training.forward import Forward
from trainwire.training.hooks.payloads import (
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeTrainingBatch,
    TrainingFinally,
)
from trainwire.training.model.models import load_model
from trainwire_protocol.errors import OptionError, RunInUseError, UsageError


class Stream(IterableDataset[Any]):
    """Five points, without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(points(5))


def test_a_training_learns_and_returns_its_result(tmp_path: Path) -> None:
    """The result contains the counts, the best epoch, the test scores and the metrics of each epoch."""
    result = train(tmp_path, max_epochs=10, learning_rate=1.0)
    assert (result.status, result.reason) == ("finished", "max_epochs reached: 10")
    assert (result.epochs, result.steps, len(result.history)) == (10, 30, 10)
    assert result.history[-1]["train/loss"] < result.history[0]["train/loss"]  # type: ignore[operator]
    assert result.history[-1].keys() == {
        "train/loss", "learning_rate", "optimizer/momentum", "dev/loss", "dev/accuracy",
    }  # fmt: skip
    assert result.best_epoch is not None
    assert result.best_score == result.history[result.best_epoch - 1]["dev/accuracy"]
    assert result.test_score == result.test_metrics["test/accuracy"]
    assert result.test_score > 0.7


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    """Sample order and dropout depend on `seed` or, without one, on torch's generator."""

    def weights(folder: str, seed: int | None) -> torch.Tensor:
        linear_layer = linear()
        model = nn.Sequential(nn.Dropout(0.5), linear_layer)
        train(tmp_path / folder, trainer=make_trainer(model), seed=seed, default_plugins=False)
        return linear_layer.weight.detach()

    torch.manual_seed(3)
    first, second = weights("a", 7), weights("b", None)
    assert torch.equal(first, weights("c", 7))
    torch.manual_seed(3)
    assert torch.equal(first, weights("d", 7))
    assert torch.equal(second, weights("e", None))
    assert not torch.equal(first, weights("f", 8))


def test_data_can_be_a_corpus_datasets_or_loaders(tmp_path: Path) -> None:
    """The same data given in each of these ways trains the same model."""
    parts, trained = corpus(), []
    ways: list[dict[str, Any]] = [
        {"corpus": parts},
        {"train": parts.train, "dev": parts.dev, "test": parts.test},
        {name: DataLoader(getattr(parts, name), batch_size=16) for name in ("train", "dev", "test")},
    ]
    for number, way in enumerate(ways):
        model = linear()
        train(tmp_path / str(number), trainer=make_trainer(model), shuffle=False, **way)
        trained.append(model.weight.detach())
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])


def test_the_best_and_the_final_model_are_saved(tmp_path: Path) -> None:
    """Both files load; at the end the model has the best weights, unless `use_final_model_for_eval` is True."""

    class Worsen(Plugin):
        """Negates the weights at the start of the second epoch."""

        @hook
        def before_training_epoch(self, payload: object) -> None:
            if self.run.state.epoch.number == 2:
                with torch.no_grad():
                    self.run.model.weight.neg_()  # type: ignore[operator]  # a tensor

    for folder, options in (("best", {}), ("final", {"use_final_model_for_eval": True})):
        model, best, final = linear(), linear(), linear()
        result = train(tmp_path / folder, Worsen(), trainer=make_trainer(model), learning_rate=0.5, **options)
        load_model(best, tmp_path / folder / "best-model.pt")
        load_model(final, tmp_path / folder / "final-model.pt")
        assert not torch.equal(best.weight, final.weight)
        assert torch.equal(model.weight, best.weight if folder == "best" else final.weight)
        assert result.best_epoch == 1
    saved = [event.value for event in read_events(tmp_path / "best") if event.name == "checkpoint/saved"]
    saved = [value for value in saved if value["kind"] != "resume"]
    assert [(value["path"], value["kind"], value["epoch"]) for value in saved] == [
        ("best-model.pt", "best", 1), ("final-model.pt", "final", 2),
    ]  # fmt: skip
    assert (saved[0]["metric"], saved[0]["score"]) == ("dev/accuracy", result.best_score)


def test_without_a_dev_split_the_final_model_is_tested(tmp_path: Path) -> None:
    """No best model is saved, and the last one is tested."""
    result = train(tmp_path, train=points(32), test=points(16, 1))
    assert (result.best_epoch, result.best_score) == (None, None)
    assert result.test_score == pytest.approx(result.test_metrics["test/loss"])
    assert not (tmp_path / "best-model.pt").exists()
    assert (tmp_path / "final-model.pt").exists()


def test_training_ends_at_max_steps(tmp_path: Path) -> None:
    """The last epoch is ended, and evaluated, as it counts."""
    recorder = Recorder()
    result = train(tmp_path, recorder, max_epochs=10, max_steps=5)
    assert (result.steps, result.epochs, result.reason) == (5, 2, "max_steps reached: 5")
    assert [epoch.complete for epoch in recorder.of(AfterTrainingEpoch)] == [True, True]
    assert "dev/accuracy" in result.history[1]


def test_a_stream_is_trained_on(tmp_path: Path) -> None:
    """The epochs of a loader without a length have an unknown size, and are complete at its end."""
    recorder = Recorder()
    result = train(tmp_path, recorder, train=Stream(), mini_batch_size=2)
    assert result.steps == 6
    assert [epoch.complete for epoch in recorder.of(AfterTrainingEpoch)] == [True, True]
    assert {batch.batches for batch in recorder.of(AfterTrainingBatch)} == {None}
    assert [batch.samples for batch in recorder.of(AfterTrainingBatch)] == [2, 2, 1] * 2


def test_a_stream_that_cannot_be_read_again_is_an_error(tmp_path: Path) -> None:
    """The error names the epoch without batches."""

    class Once(IterableDataset[Any]):
        samples = iter(points(4))

        def __iter__(self) -> Iterator[Any]:
            return self.samples

    with pytest.raises(UsageError, match="train had no batches in epoch 2"):
        train(tmp_path, train=Once())


def test_control_can_skip_a_batch_and_end_an_epoch(tmp_path: Path) -> None:
    """A skipped batch makes no update; an epoch that is ended is evaluated, and the next one starts."""

    class Impatient(Plugin):
        @hook
        def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
            if batch.number == 1:
                self.run.control.skip_batch()

        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            self.run.control.end_epoch()

    recorder = Recorder()
    result = train(tmp_path, Impatient(), recorder)
    assert result.steps == 2
    assert [(batch.epoch, batch.number) for batch in recorder.of(AfterTrainingBatch)] == [(1, 2), (2, 2)]
    assert [epoch.complete for epoch in recorder.of(AfterTrainingEpoch)] == [True, True]
    assert all("dev/accuracy" in epoch for epoch in result.history)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """The gradients' norm is at most `max_grad_norm`; the norm before clipping is what hooks receive."""

    class Measure(Plugin):
        """Collects the norm in the payload, and the norm of the clipped gradients."""

        norms: list[tuple[float, float]]

        @hook
        def before_training_optimizer_step(self, step: Any) -> None:
            parameters = [parameter.grad for parameter in self.run.model.parameters() if parameter.grad is not None]
            self.norms.append((float(step.gradient_norm), float(torch.nn.utils.get_total_norm(parameters))))

    measure = Measure()
    for number, limit in enumerate((1e-3, None)):
        measure.norms = []
        train(tmp_path / str(number), measure, max_grad_norm=limit)
        for reported, actual in measure.norms:
            assert reported > 0.01
            assert actual == pytest.approx(1e-3 if limit else reported, rel=1e-3)


def test_sparse_gradients_are_clipped_like_dense_ones(tmp_path: Path) -> None:
    """An embedding with sparse gradients learns the same weights as one with dense gradients."""
    words = torch.randint(0, 9, (48, 3), generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.TensorDataset(words, words[:, 0] % 2)
    weights = []
    for sparse in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=sparse), nn.Linear(4, 2))
        train(tmp_path / str(sparse), trainer=make_trainer(model), train=data, max_grad_norm=0.01)
        weights.append(model[0].weight.detach())
    torch.testing.assert_close(weights[0], weights[1])


def test_forward_can_be_overridden_for_other_batches(tmp_path: Path) -> None:
    """Batches that are maps, and a loss without `loss=`, only require overriding `forward`."""

    class Maps(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            inputs, label = points(32)[index]
            return {"features": inputs, "label": label}

    class MapTrainer(ModelTrainer):
        def forward(self, batch: Any) -> Forward:
            output = self.model(batch["features"])
            return Forward(nn.functional.cross_entropy(output, batch["label"]), output.argmax(1), batch["label"])

    trainer = MapTrainer(linear(), metrics={"accuracy": BinaryAccuracy()})
    result = train(tmp_path, trainer=trainer, train=Maps(), dev=Maps(), learning_rate=1.0)
    assert result.best_score is not None
    assert result.best_score > 0.8


@pytest.mark.parametrize("loss", [lambda output, target: (output.sum(1) - target) ** 2, lambda output, target: 0.5])
def test_a_loss_that_is_not_a_single_number_is_refused(tmp_path: Path, loss: Any) -> None:
    """The error describes the loss, and says what it must be."""
    with pytest.raises(UsageError, match=r"the loss is .*; it must be the batch's mean"):
        train(tmp_path, trainer=make_trainer(loss=loss))


def test_plugins_are_detached_when_training_ends(tmp_path: Path) -> None:
    """After `train`, even after an error, no plugin has a run; the trainer's plugins take part in its next training."""
    plugin, calls = Recorder(), []
    trainer = make_trainer(plugins=[plugin])

    @trainer.on("training_finally")
    def note(payload: TrainingFinally) -> None:
        calls.append((payload.status, plugin.run is trainer.run))

    @trainer.on("after_training_epoch")
    def fail(payload: AfterTrainingEpoch) -> None:
        if calls:
            raise ValueError("the second training fails")

    train(tmp_path / "a", trainer=trainer)
    with pytest.raises(UsageError, match="Recorder is not attached"):
        _ = plugin.run
    with pytest.raises(UsageError, match="no training is running"):
        _ = trainer.control
    with pytest.raises(ValueError, match="the second training fails"):
        train(tmp_path / "b", trainer=trainer)
    with pytest.raises(UsageError, match="Recorder is not attached"):
        _ = plugin.run
    assert calls == [("finished", True), ("failed", True)]


def test_a_trainer_and_a_plugin_take_part_in_one_training_at_a_time(tmp_path: Path) -> None:
    """A nested training of the same trainer is refused, as is a plugin that takes part in another training."""
    trainer, other, errors = make_trainer(), make_trainer(), []
    plugin = Recorder()

    @trainer.on("after_setup")
    def nest(payload: object) -> None:
        for inner, folder in ((trainer, "b"), (other, "c")):
            with pytest.raises((UsageError, OptionError)) as raised:
                train(tmp_path / folder, plugin, trainer=inner)
            errors.append(str(raised.value))

    train(tmp_path / "a", plugin, trainer=trainer)
    assert "already training" in errors[0]
    assert "Recorder takes part in another training" in errors[1]
    assert train(tmp_path / "d", plugin, trainer=other).status == "finished"


BAD_INPUT: list[tuple[dict[str, Any], str]] = [
    ({"mini_batch_size": -1}, "mini_batch_size is -1"),
    ({"max_epoch": 3}, "did you mean 'max_epochs'"),
    ({"main_evaluation_metric": "dev/f1"}, "main_evaluation_metric is 'dev/f1'"),
    ({"train": None}, "no training data"),
    ({"train": points(0)}, "train is empty"),
    ({"corpus": (1, 2, 3)}, "must be a trainwire.Corpus"),
    ({"corpus": corpus(), "dev": points(3)}, "omit train=, dev= and test="),
    ({"train": points(4), "monitor_test": True}, "there is no test split"),
    ({"device": "nowhere"}, "device is 'nowhere'"),
    ({"optimizer_arguments": {"nesterov": True}}, "optimizer SGD cannot be created"),
    ({"plugins": [3]}, "not a trainwire.Plugin"),
    ({"plugins": ["best"]}, "there is no plugin .best.: the plugins are"),
]


@pytest.mark.parametrize(("options", "message"), BAD_INPUT)
def test_bad_input_is_refused_before_anything_is_opened(tmp_path: Path, options: Any, message: str) -> None:
    """It raises OptionError, and the run's folder is not created."""
    given = {"sinks": (), **({} if {"train", "corpus"} & options.keys() else {"corpus": corpus()}), **options}
    with pytest.raises(OptionError, match=message):
        make_trainer().train(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_plugin_is_not_attached_twice(tmp_path: Path) -> None:
    """Two plugins of one class are allowed, but not the same instance twice, even if in the trainer and in `train`."""
    plugin = Recorder()
    with pytest.raises(OptionError, match="Recorder, is attached twice"):
        make_trainer(plugins=[plugin, plugin])
    with pytest.raises(OptionError, match="Recorder, is attached twice"):
        train(tmp_path, plugin, trainer=make_trainer(plugins=[plugin]))
    train(tmp_path, Recorder(), trainer=make_trainer(plugins=[Recorder()]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": len, "loss": len}, "must be a torch.nn.Module"),
        ({"model": linear(), "loss": "mse"}, "loss is 'mse'"),
        ({"model": linear(), "loss": len, "metrics": {"accuracy": 1}}, "not a torchmetrics.Metric"),
        ({"model": linear(), "loss": len, "plugins": [Recorder]}, "give an instance"),
    ],
)
def test_invalid_arguments_of_a_trainer_are_refused(arguments: dict[str, Any], message: str) -> None:
    """An invalid model, loss, metric or plugin is refused by the constructor."""
    with pytest.raises(OptionError, match=message):
        ModelTrainer(**arguments)


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The error names the file, even if it is a parent of the folder."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OptionError, match=f"run_folder is {folder}, but {tmp_path / 'file'} is a file"):
            train(folder)


def test_a_folder_in_which_another_training_runs_is_refused(tmp_path: Path) -> None:
    """Two trainings cannot write to one folder at the same time."""
    trainer = make_trainer()

    @trainer.on("after_setup")
    def intrude(payload: object) -> None:
        with pytest.raises(RunInUseError):
            train(tmp_path)

    train(tmp_path, trainer=trainer)


def test_the_hook_of_a_function_is_checked_when_it_is_added() -> None:
    """`trainer.on` refuses unknown hooks."""
    with pytest.raises(OptionError, match="there is no hook 'after_epoch'; the hooks are after_setup"):
        make_trainer().on("after_epoch")(print)


def test_an_error_of_a_plugin_ends_the_training(tmp_path: Path) -> None:
    """`train` raises it, and the run has failed because of it."""

    class Broken(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            raise ZeroDivisionError("by nought")

    with pytest.raises(ZeroDivisionError, match="by nought"):
        train(tmp_path, Broken())
    last = read_events(tmp_path)[-1]
    assert (last.name, last.value["reason"]) == ("run/failed", "ZeroDivisionError: by nought")


def test_logging_is_restored(tmp_path: Path) -> None:
    """After the training, the logger `trainwire` has the same level and handlers as before."""
    logger = logging.getLogger("trainwire")
    before = (logger.level, list(logger.handlers))
    train(tmp_path)
    assert (logger.level, logger.handlers) == before


def test_everything_with_a_device_is_moved_there(tmp_path: Path) -> None:
    """Model, loss, metrics and batches are moved to the requested device."""

    class LoudTrainer(ModelTrainer):
        devices: set[str]

        def forward(self, batch: Any) -> Forward:
            self.devices = {item.device.type for item in itertools.chain(batch, self.model.parameters())}
            self.devices.add(self.loss.weight.device.type)  # type: ignore[union-attr]
            raise InterruptedError

    trainer = LoudTrainer(linear(), loss=nn.CrossEntropyLoss(weight=torch.ones(2)))
    with pytest.raises(InterruptedError):
        train(tmp_path, trainer=trainer, device="meta", corpus=Corpus(points(4)))
    assert trainer.devices == {"meta"}
