"""`train` and `fine_tune`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import Recorder, corpus, linear, make_trainer, points, train
from torch import nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, SequentialSampler

from trainwire import Plugin, Result, TrainingOptions, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch
from trainwire_protocol.errors import OptionError


class Setup(Plugin):
    """Collects the parts of a training."""

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        self.options, self.kinds = self.run.options, [type(plugin) for plugin in self.run.plugins]
        self.rates = [group["lr"] for group in self.run.optimizer.param_groups]
        self.sizes = dict(setup.split_sizes)


def test_fine_tune_has_its_own_defaults(tmp_path: Path) -> None:
    """It uses AdamW at 5e-5, batches of 4, 10 epochs, warm-up and decay, and the last model is the result."""
    setup, model = Setup(), linear()
    result = make_trainer(model).fine_tune(tmp_path, corpus=corpus(train=8), plugins=[setup], sinks=())
    options = setup.options
    assert (options.optimizer, options.learning_rate, options.mini_batch_size) == (AdamW, 5e-5, 4)
    assert (result.epochs, result.steps) == (10, 20)
    assert LinearSchedule in setup.kinds
    final = torch.load(tmp_path / "final-model.pt", weights_only=True)
    assert torch.equal(model.weight, final["weight"])


def test_train_anneals_unless_another_schedule_or_none_is_requested(tmp_path: Path) -> None:
    """A plugin's schedule and `attach_default_scheduler=False` replace the default one."""
    cases: list[tuple[list[Plugin], dict[str, Any], set[type[Plugin]]]] = [
        ([], {}, {AnnealingOnPlateau}),
        ([LinearSchedule()], {}, {LinearSchedule}),
        ([], {"attach_default_scheduler": False}, set()),
    ]
    for number, (plugins, options, expected) in enumerate(cases):
        setup = Setup()
        train(tmp_path / str(number), *plugins, setup, **options)
        assert {AnnealingOnPlateau, LinearSchedule} & set(setup.kinds) == expected


def test_an_unknown_option_names_the_method(tmp_path: Path) -> None:
    """The error of `fine_tune` names `fine_tune`."""
    with pytest.raises(OptionError, match=r"fine_tune\(\) has no option 'epochs'"):
        make_trainer().fine_tune(tmp_path, train=points(4), epochs=3)


def test_the_decoder_has_its_own_learning_rate(tmp_path: Path) -> None:
    """Parameters of parts called decoder, head or classifier form a group; a model without such a part is refused."""
    setup = Setup()
    model = nn.ModuleDict({"encoder": nn.Linear(4, 3), "head": nn.Linear(3, 2)})

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.parts["head"](self.parts["encoder"](inputs))

    train(tmp_path / "a", setup, trainer=make_trainer(Model()), decoder_learning_rate=0.5)
    assert setup.rates == [0.1, 0.5]
    with pytest.raises(OptionError, match=r"override ModelTrainer\.is_decoder"):
        train(tmp_path / "b", decoder_learning_rate=0.5)


def test_training_with_the_other_splits(tmp_path: Path) -> None:
    """Splits that are trained on are not evaluated; DataLoaders, which cannot be merged, are refused."""
    setup = Setup()
    result = train(tmp_path / "a", setup, train_with_dev=True, train_with_test=True)
    assert setup.sizes == {"train": 80}
    assert (result.best_epoch, result.test_score) == (None, None)
    for number, data in enumerate([{"train": DataLoader(points(4)), "dev": points(4)}, {"train": points(4)}]):
        with pytest.raises(OptionError, match="train_with_dev and train_with_test require Datasets"):
            train(tmp_path / f"b{number}", train_with_dev=True, **data)


@pytest.mark.parametrize(("sample", "size"), [(0.25, 12), (5, 5), (1000, 48), (0.0001, 1)])
def test_a_part_of_the_training_samples_is_evaluated(tmp_path: Path, sample: float, size: int) -> None:
    """It is a separate split, whose size is a fraction or a number of samples."""
    setup = Setup()
    result = train(tmp_path, setup, monitor_train_sample=sample)
    assert setup.sizes["train_sample"] == size
    assert {"train_sample/loss", "train_sample/accuracy"} <= result.history[0].keys()


def test_samplers(tmp_path: Path) -> None:
    """A sampler, or a function that returns one, replaces shuffling; with a DataLoader, it is refused."""

    class Evens(SequentialSampler):
        def __iter__(self) -> Any:
            return iter(range(0, len(self.data_source), 2))

        def __len__(self) -> int:
            return len(self.data_source) // 2

    for number, sampler in enumerate([Evens(points(48)), Evens]):
        assert train(tmp_path / str(number), sampler=sampler, mini_batch_size=8, max_epochs=1).steps == 3
    with pytest.raises(OptionError, match="which is not a torch sampler"):
        train(tmp_path / "c", sampler=len)
    with pytest.raises(OptionError, match="omit one of them"):
        train(tmp_path / "d", sampler=Evens, train=DataLoader(points(4)))


def test_the_first_epoch_can_keep_the_order(tmp_path: Path) -> None:
    """Without `shuffle_first_epoch`, only the later epochs are shuffled."""

    class Order(Plugin):
        def __init__(self) -> None:
            self.first: list[torch.Tensor] = []

        @hook(once=1)
        def before_training_batch(self, batch: Any) -> None:
            self.first.append(batch.batch[0][0])

    order, data = Order(), corpus()
    train(tmp_path, order, corpus=data, shuffle_first_epoch=False)
    assert torch.equal(order.first[0], data.train[0][0])
    assert not torch.equal(order.first[1], data.train[0][0])


def test_models_and_optimizers_are_saved(tmp_path: Path) -> None:
    """The model of every k-th epoch is kept, and `save_optimizer_state` saves the optimizer with each model."""
    train(tmp_path, max_epochs=5, save_model_each_k_epochs=2, save_optimizer_state=True)
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        f"{name}{kind}.pt"
        for name in ("model-epoch-2", "model-epoch-4", "best-model", "final-model")
        for kind in ("", ".optimizer")
    }
    assert "param_groups" in torch.load(tmp_path / "final-model.optimizer.pt", weights_only=True)
    saved = [event.value for event in read_events(tmp_path) if event.name == "checkpoint/saved"]
    assert [value["epoch"] for value in saved if value["kind"] == "epoch"] == [2, 4]


def test_write_weights_attaches_the_extraction(tmp_path: Path) -> None:
    """`write_weights` publishes some of the weights."""
    train(tmp_path, write_weights=True, max_epochs=40)
    assert any(event.name.startswith("weights/") for event in read_events(tmp_path))


def test_sinks_of_unwanted_files_are_not_started() -> None:
    """`create_file_logs` and `create_loss_file` remove their sinks from the list, and `write_weights` adds its own."""

    def sinks(**options: Any) -> list[str]:
        return [sink.name for sink in TrainingOptions(**options).sinks_to_start]

    assert sinks(create_file_logs=False) == ["loss-file"]
    assert sinks(create_loss_file=False, sinks=("loss-file", "jsonl")) == ["jsonl"]
    assert sinks(write_weights=True) == ["loss-file", "log-file", "weights-file"]


def test_several_processes_require_torchrun(tmp_path: Path) -> None:
    """The error says how to start the program."""
    with pytest.raises(OptionError, match="torchrun --nproc-per-node"):
        train(tmp_path, multi_gpu=True)


def trained(tmp_path: Path, **options: Any) -> tuple[Result, Recorder]:
    recorder = Recorder()
    return train(tmp_path, recorder, **options), recorder


def test_evaluation_can_have_its_own_batch_size(tmp_path: Path) -> None:
    """`eval_batch_size` changes neither the training nor the scores."""
    (one, _), (two, recorder) = trained(tmp_path / "a"), trained(tmp_path / "b", eval_batch_size=3)
    assert one.test_metrics == pytest.approx(two.test_metrics)
    assert {batch.samples for batch in recorder.of(AfterTrainingBatch)} == {16}
