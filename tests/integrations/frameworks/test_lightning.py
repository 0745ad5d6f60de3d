"""The logger for Lightning, in real trainings of Lightning's."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from support.framework_runs import curves, hparams, launch, lifecycle, loss_rows, scalars
from support.lightning_training import Classifier, batches, make_trainer
from support.paths import TESTS
from support.run_reader import read_events

from trainwire.integrations.lightning import TrainwireLogger
from trainwire_protocol.errors import OptionError, RunInUseError
from trainwire_protocol.journal.run_folder import list_ranks

SCRIPT = TESTS / "support/lightning_training.py"
RUN = Path("lightning_logs/version_0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training and a test that were started with two sinks beside them."""
    folder = tmp_path_factory.mktemp("lightning")
    launch(SCRIPT, folder)
    return folder


@pytest.mark.timeout(330)
def test_tensorboard_shows_what_that_of_lightning_shows(trained: Path) -> None:
    """The sink tensorboard writes the scalars that Lightning's TensorBoardLogger writes, and no others."""
    ours, theirs = curves(trained / RUN / "tensorboard/rank-0"), curves(trained / "theirs" / RUN)
    assert len(theirs) >= 8
    assert ours == theirs


@pytest.mark.timeout(330)
def test_the_loss_file_has_a_row_for_each_epoch(trained: Path) -> None:
    """A row has the means of its epoch, which Lightning logs last; the test of the model has a row of its own."""
    rows, theirs = loss_rows(trained / RUN), curves(trained / "theirs" / RUN)
    assert [row["EPOCH"] for row in rows[:3]] == ["1", "2", "3"]
    for column, name in {"TRAIN_MEAN": "train/mean", "VAL_LOSS": "val/loss", "VAL_ACCURACY": "val/accuracy"}.items():
        assert [float(row[column]) for row in rows[:3]] == [pytest.approx(value) for _, value in theirs[name]]
    assert float(rows[3]["TEST_LOSS"]) == pytest.approx(theirs["test/loss"][0][1])


@pytest.mark.timeout(330)
def test_the_life_of_a_run(trained: Path) -> None:
    """The run has the hyperparameters, the epochs of `fit`, the checkpoints in its folder, and the test after it."""
    events = [event for event in lifecycle(trained / RUN) if not event.name.startswith("checkpoint/")]
    epochs = ["epoch/started", "epoch/finished"] * 3
    names = ["run/started", *epochs, "run/finished", "run/resumed", "run/finished"]
    assert [event.name for event in events] == names
    assert events[1].value == {"epoch": 1, "max_epochs": 3}
    assert hparams(trained / RUN) == {"learning_rate": 0.1, "fails_at": -1}
    saved = [event.value for event in lifecycle(trained / RUN) if event.name == "checkpoint/saved"]
    deleted = [event.value for event in lifecycle(trained / RUN) if event.name == "checkpoint/deleted"]
    assert [(about["kind"], about["epoch"]) for about in saved] == [("best", 1), ("best", 2), ("best", 3)]
    assert (trained / RUN / saved[-1]["path"]).is_file()
    losses = [value for _, value in scalars(trained / RUN, "val/loss")]
    assert [about["score"] for about in saved] == pytest.approx(losses)
    assert [about["path"] for about in deleted] == [about["path"] for about in saved[:2]]


def test_of_several_processes_the_first_one_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that Lightning gives another rank, nothing is recorded, and no folder is made."""
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TrainwireLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_hyperparams({"learning_rate": 0.1})
    logger.experiment.text("note", "of **mine**")
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert list_ranks(tmp_path / RUN) == [0]
    assert lifecycle(tmp_path / RUN)[0].value["world_size"] == 1


@pytest.fixture
def _sigint() -> Any:
    """Handle Ctrl-C again after a test: Lightning ignores it once it was pressed."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [(ValueError("bad batch"), ValueError, "failed"), (KeyboardInterrupt(), SystemExit, "interrupted")],
)
@pytest.mark.usefixtures("_sigint")
def test_an_exception_ends_the_run(
    tmp_path: Path, error: BaseException, raised: type[BaseException], status: str
) -> None:
    """The run has failed, or was interrupted, with the exception as the reason."""
    model = Classifier(fails_at=7, error=error)
    with pytest.raises(raised):
        make_trainer(tmp_path, TrainwireLogger(tmp_path)).fit(model, batches(), batches())
    last = lifecycle(tmp_path / RUN)[-1]
    assert last.name == f"run/{status}"
    assert last.value["reason"].startswith(type(error).__name__)


def test_a_validation_and_two_trainings_of_one_logger(tmp_path: Path) -> None:
    """All calls record into one run, and supersede nothing; only `fit` has epochs."""
    logger, model = TrainwireLogger(tmp_path, name="", prefix="mine"), Classifier()
    make_trainer(tmp_path, logger).validate(model, batches(), verbose=False)
    make_trainer(tmp_path, logger, max_epochs=1).fit(model, batches(), batches())
    make_trainer(tmp_path, logger, max_epochs=1).fit(model, batches(), batches())
    assert logger.log_dir == str(tmp_path / "version_0")
    names = [event.name for event in lifecycle(tmp_path / "version_0") if event.name.startswith("epoch/")]
    assert names == ["epoch/started", "epoch/finished"] * 2
    assert [step for step, _ in scalars(tmp_path / "version_0", "mine-val/loss")] == [0, 4, 4]


def test_versions(tmp_path: Path) -> None:
    """Another logger has the next number; a version that is given is used, and added to."""
    first = TrainwireLogger(tmp_path, "mine")
    first.log_metrics({"loss": 1.0}, step=1)
    first.finalize("success")
    assert TrainwireLogger(tmp_path, "mine").version == 1
    again = TrainwireLogger(tmp_path, "mine", version=0)
    again.log_metrics({"loss": torch.tensor(0.5)}, step=2)
    again.finalize("success")
    assert scalars(tmp_path / "mine/version_0", "loss") == [(1, 1.0), (2, 0.5)]
    assert TrainwireLogger(tmp_path, "mine", version="best").log_dir == str(tmp_path / "mine/best")


def test_the_bus_is_the_experiment(tmp_path: Path) -> None:
    """What Lightning has no method for is recorded through the bus."""
    logger = TrainwireLogger(tmp_path)
    logger.experiment.text("note", "of **mine**", step=3)
    logger.finalize("success")
    assert [(event.value, event.step) for event in read_events(tmp_path / RUN) if event.name == "note"] == [
        ("of **mine**", 3)
    ]


def test_a_pickled_logger_goes_on(tmp_path: Path) -> None:
    """A logger can be sent to another process, also after it has recorded; the copy adds to the same run."""
    logger = TrainwireLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"loss": 0.5}, step=2)
    copy.finalize("success")
    assert (copy.name, copy.version, copy.save_dir) == (logger.name, logger.version, logger.save_dir)
    assert scalars(tmp_path / RUN, "loss") == [(1, 1.0), (2, 0.5)]


def test_bad_input(tmp_path: Path) -> None:
    """An invalid version, an invalid folder, and a folder in use are refused."""
    for version in ("", [], 1.5, True):
        with pytest.raises(OptionError, match="version is"):
            TrainwireLogger(tmp_path, version=version)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="save_dir is None"):
        TrainwireLogger(None)  # type: ignore[arg-type]
    first = TrainwireLogger(tmp_path, version=0)
    first.log_metrics({"loss": 1.0})
    with pytest.raises(RunInUseError):
        TrainwireLogger(tmp_path, version=0).log_metrics({"loss": 1.0})
    first.finalize("success")
