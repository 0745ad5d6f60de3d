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


def messages(folder: Path) -> list[str]:
    """The log records on the wire."""
    return [event.value["message"] for event in read_events(folder) if event.type == "log"]


def test_the_start_is_logged(tmp_path: Path) -> None:
    """Model, size, device, samples and optimizer; a learning rate keeps its digits."""
    train(tmp_path, learning_rate=5e-5)
    assert messages(tmp_path)[:4] == [
        "model: Linear with 10 trainable parameters, on cpu",
        "samples: train 48, dev 16, test 16",
        "optimizer: SGD, learning rate 5e-05",
        "the best model is chosen by dev/accuracy",
    ]


@pytest.mark.parametrize(("batches", "lines"), [(3, 3), (10, 10), (48, 9), (100, 10)])
def test_progress_is_logged_about_every_tenth_of_an_epoch(tmp_path: Path, batches: int, lines: int) -> None:
    """At most ten lines an epoch, with batch, loss, speed and learning rate."""
    train(tmp_path, train=points(batches), mini_batch_size=1, max_epochs=1)
    progress = [message for message in messages(tmp_path) if "samples/s" in message]
    assert len(progress) == lines
    pattern = rf"epoch 1: batch \d+/{batches}, loss [\d.e-]+, \d+ samples/s, learning rate 0\.1"
    assert all(re.fullmatch(pattern, message) for message in progress)


def test_progress_of_an_epoch_of_unknown_length(tmp_path: Path) -> None:
    """There is a line each so many batches."""

    class Endless(DataLoader[object]):
        def __len__(self) -> int:
            raise TypeError

    loader = Endless(points(10))
    train(tmp_path, RegularLogging(batches_per_line=4), train=loader, max_epochs=1)
    assert re.findall(r"batch (\S+),", "\n".join(messages(tmp_path))) == ["4/?", "8/?"]


def test_what_is_an_event_is_logged_but_not_sent_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A handler of the program gets the whole story; the wire has evaluations, epochs and the end as events only."""
    with caplog.at_level(logging.INFO, "trainwire"):
        result = train(tmp_path, max_epochs=1)
    told = [record.getMessage() for record in caplog.records]
    only_logged = [message for message in told if message not in messages(tmp_path)]
    assert [re.sub(r"[\d.]+(e-\d+)?", "#", message) for message in only_logged] == [
        "evaluation: dev/loss #; dev/accuracy # (# s)",
        "epoch #/# finished: train loss #, learning rate #, bad epochs # (# s)",
        "best model saved: dev/accuracy #",
        "evaluation: test/loss #; test/accuracy # (# s)",
        "training finished after # epochs and # steps: max_epochs reached: #",
    ]
    assert f"dev/accuracy {result.best_score:.4g}" in only_logged[0]


def test_it_is_the_last_to_hear_of_an_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What other plugins decide on an epoch has been decided when the epoch is logged."""
    heard: list[int] = []
    trainer = make_trainer()

    @trainer.on("after_training_epoch")
    def count(epoch: AfterTrainingEpoch) -> None:
        heard.append(sum("epoch 1/1 finished" in record.getMessage() for record in caplog.records))

    with caplog.at_level(logging.INFO, "trainwire"):
        train(tmp_path, Recorder(), trainer=trainer, max_epochs=1)
    assert heard == [0]
    assert "epoch 1/1 finished" in caplog.text


def test_the_programs_level_counts(tmp_path: Path) -> None:
    """A program that wants warnings only gets no progress, in its handlers and on the wire."""
    logger = logging.getLogger("trainwire")
    logger.setLevel(logging.WARNING)
    try:
        train(tmp_path)
    finally:
        logger.setLevel(logging.NOTSET)
    assert messages(tmp_path) == []
