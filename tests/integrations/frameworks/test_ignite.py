"""The logger for Ignite, in real trainings of Ignite's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers.tensorboard_logger import OutputHandler as TensorboardHandler
from support.framework_runs import curves, hparams, lifecycle, loss_rows, run_sinks
from support.ignite_training import train, train_beside_tensorboard
from support.run_reader import read_events

from trainwire.integrations.ignite import OptimizerParamsHandler, OutputHandler, TrainwireLogger
from trainwire_protocol.errors import OptionError, RunInUseError
from trainwire_protocol.journal.run_folder import list_ranks


def test_what_sinks_write_of_a_training(tmp_path: Path) -> None:
    """TensorBoard shows what that of Ignite shows; loss.tsv has a row for each epoch, with its evaluation."""
    train_beside_tensorboard(tmp_path)
    run_sinks(tmp_path / "run")
    ours, theirs = curves(tmp_path / "run/tensorboard/rank-0"), curves(tmp_path / "theirs")
    names = {"train/loss", "val/loss", "val/accuracy", "lr/group_0", "model/weights_norm/weight"}
    assert names <= theirs.keys()
    assert ours == theirs
    rows = loss_rows(tmp_path / "run")
    assert [row["EPOCH"] for row in rows] == ["1", "2", "3"]
    assert [float(row["VAL_LOSS"]) for row in rows] == [pytest.approx(value) for _, value in theirs["val/loss"]]
    names = ["run/started", *["epoch/started", "epoch/finished"] * 3, "run/finished"]
    assert [event.name for event in lifecycle(tmp_path / "run")] == names
    assert hparams(tmp_path / "run") == {"lr": 0.1}


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad batch"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_exception_ends_the_run(tmp_path: Path, error: BaseException, status: str) -> None:
    """The run has failed, or was interrupted, with the exception as the reason."""
    with pytest.raises(type(error)), TrainwireLogger(tmp_path) as logger:
        train(logger, fails_at=7, error=error)
    last = lifecycle(tmp_path)[-1]
    assert last.name == f"run/{status}"
    assert last.value["reason"].startswith(type(error).__name__)


def test_all_values_that_ignite_logs(tmp_path: Path) -> None:
    """Nested metrics, lists, tensors, texts and attributes of the state have the names of Ignite's own loggers."""
    engine = Engine(lambda engine, batch: None)
    with TrainwireLogger(tmp_path) as logger:
        logger.attach_output_handler(
            engine, Events.EPOCH_COMPLETED, tag="all", metric_names="all", state_attributes=["alpha"]
        )

        @engine.on(Events.ITERATION_COMPLETED)
        def measure() -> None:
            engine.state.alpha = 0.5
            engine.state.metrics |= {"a": 1, "map": {"b": torch.tensor(2.0)}, "list": [3.0, 4.0], "text": "good"}
            engine.state.metrics["vector"] = torch.tensor([5.0, 6.0])

        engine.run([1])
        logger.image("picture", torch.zeros(3, 4, 4), step=1)
    events = {event.name: event.value for event in read_events(tmp_path) if event.type in ("scalar", "text")}
    assert events == {
        "all/a": 1, "all/map/b": 2.0, "all/list/0": 3.0, "all/list/1": 4.0, "all/text": "good", "all/vector/0": 5.0,
        "all/vector/1": 6.0, "all/alpha": 0.5,
    }  # fmt: skip
    assert [event.type for event in read_events(tmp_path) if event.name == "picture"] == ["image"]


def test_each_process_records_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables of torchrun, a logger records the stream of its rank, unless it is told otherwise."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with TrainwireLogger(tmp_path / "both") as logger:
        logger.log({"loss": 1.0}, step=1)
    assert list_ranks(tmp_path / "both") == [1]
    assert read_events(tmp_path / "both", 1)[0].value["world_size"] == 2
    TrainwireLogger(tmp_path / "one", rank=0, world_size=1).close()
    assert list_ranks(tmp_path / "one") == [0]


def test_bad_input(tmp_path: Path) -> None:
    """Options that do not exist, folders in use, handlers of other loggers and steps that are none are refused."""
    with pytest.raises(OptionError, match="unexpected keyword argument 'colour'"):
        TrainwireLogger(tmp_path, colour="red")
    engine, optimizer = Engine(lambda engine, batch: 1.0), torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with TrainwireLogger(tmp_path) as logger:
        with pytest.raises(RunInUseError):
            TrainwireLogger(tmp_path)
        no_step = OutputHandler("tag", output_transform=float, global_step_transform=lambda *_: "one")
        theirs = TensorboardHandler("tag", output_transform=float)
        for handler, error in ((no_step, TypeError), (theirs, RuntimeError)):
            logger.attach(engine, handler, Events.ITERATION_COMPLETED)
            with pytest.raises(error):
                engine.run([1])
            engine = Engine(lambda engine, batch: 1.0)
    with pytest.raises(RuntimeError, match="works only with TrainwireLogger, not str"):
        OptimizerParamsHandler(optimizer)(engine, "logger", Events.EPOCH_STARTED)  # type: ignore[arg-type]
