"""Regular logging."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from support.run_reader import read_events
from support.tiny_training import Recorder, make_trainer, points, train
from torch.utils.data import DataLoader

from trainwire.plugins.regular_logging import RegularLogging
from trainwire.training.hooks.payloads import AfterTrainingEpoch
from trainwire_protocol.errors import OptionError


def messages(folder: Path) -> list[str]:
    """Return the published log messages."""
    return [event.value["message"] for event in read_events(folder) if event.type == "log"]


def test_the_start_is_logged(tmp_path: Path) -> None:
    """The first messages describe model, data and optimizer; a small learning rate keeps its digits."""
    train(tmp_path, learning_rate=5e-5)
    assert messages(tmp_path)[:5] == [
        "model: Linear with 10 trainable parameters, on cpu",
        "samples: train 48, dev 16, test 16",
        "optimizer: SGD, learning rate 5e-05",
        "learning rate schedule: multiplied by 0.5 when dev/accuracy has not improved for more than 3 epochs; "
        "the training stops when it would fall below 5e-06",
        "the best model is chosen by dev/accuracy",
    ]


@pytest.mark.parametrize(("batches", "lines"), [(3, 3), (10, 10), (48, 9), (100, 10)])
def test_progress_is_logged_up_to_ten_times_an_epoch(tmp_path: Path, batches: int, lines: int) -> None:
    """Each line has batch, loss, speed and learning rate."""
    train(tmp_path, train=points(batches), mini_batch_size=1, max_epochs=1)
    progress = [message for message in messages(tmp_path) if "samples/s" in message]
    assert len(progress) == lines
    pattern = rf"epoch 1: batch \d+/{batches}, loss [\d.e-]+, \d+ samples/s, learning rate 0\.1"
    assert all(re.fullmatch(pattern, message) for message in progress)


def test_progress_of_an_epoch_of_unknown_length(tmp_path: Path) -> None:
    """If the number of batches is unknown, a line is logged every `batches_per_line` batches."""

    class Endless(DataLoader[object]):
        def __len__(self) -> int:
            raise TypeError

    loader = Endless(points(10))
    train(tmp_path, RegularLogging(batches_per_line=4), train=loader, max_epochs=1)
    assert re.findall(r"batch (\S+),", "\n".join(messages(tmp_path))) == ["4/?", "8/?"]


def test_progress_by_steps(tmp_path: Path) -> None:
    """With `steps`, a line is logged after every so many updates, whatever the epoch."""
    train(tmp_path, RegularLogging(steps=2), max_epochs=2)
    assert re.findall(r"epoch \S+ batch \S+,", "\n".join(messages(tmp_path))) == [
        "epoch 1: batch 2/3,", "epoch 2: batch 1/3,", "epoch 2: batch 3/3,",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [{"lines_per_epoch": 0}, {"batches_per_line": 0}, {"steps": -1}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    """When the plugin is created."""
    with pytest.raises(
        OptionError, match="lines_per_epoch and batches_per_line must be at least 1, and steps at least"
    ):
        RegularLogging(**arguments)


def test_records_that_repeat_an_event_are_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The program's handlers receive all records; evaluations, epochs and the end are published as events only."""
    with caplog.at_level(logging.INFO, "trainwire"):
        result = train(tmp_path, max_epochs=1)
    logged = [record.getMessage() for record in caplog.records]
    only_logged = [message for message in logged if message not in messages(tmp_path)]
    assert [re.sub(r"[\d.]+(e-\d+)?", "#", message) for message in only_logged] == [
        "evaluation: dev/loss #; dev/accuracy # (# s)",
        "epoch #/# finished: train loss #, learning rate #, bad epochs # (# s)",
        "best model saved: dev/accuracy #",
        "evaluation: test/loss #; test/accuracy # (# s)",
        "training finished after # epochs and # steps: max_epochs reached: #",
    ]
    assert f"dev/accuracy {result.best_score:.4g}" in only_logged[0]


def test_an_epoch_is_logged_after_the_other_plugins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The epoch is logged after all other plugins have been called."""
    counts: list[int] = []
    trainer = make_trainer()

    @trainer.on("after_training_epoch")
    def count(epoch: AfterTrainingEpoch) -> None:
        counts.append(sum("epoch 1/1 finished" in record.getMessage() for record in caplog.records))

    with caplog.at_level(logging.INFO, "trainwire"):
        train(tmp_path, Recorder(), trainer=trainer, max_epochs=1)
    assert counts == [0]
    assert "epoch 1/1 finished" in caplog.text


def test_the_level_of_the_logger_applies(tmp_path: Path) -> None:
    """If the level is WARNING, no progress is logged or published."""
    logger = logging.getLogger("trainwire")
    logger.setLevel(logging.WARNING)
    try:
        train(tmp_path)
    finally:
        logger.setLevel(logging.NOTSET)
    assert messages(tmp_path) == []
