"""The tracker for Accelerate, in real loops with Accelerate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from support.accelerate_training import train
from support.framework_runs import curves, hparams, lifecycle, loss_rows, run_sinks, scalars
from support.paths import TESTS
from support.run_reader import read_events

from trainwire.integrations.accelerate import TrainwireTracker
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import list_ranks


def test_what_sinks_write_of_a_loop(tmp_path: Path) -> None:
    """TensorBoard shows what that of Accelerate shows; loss.tsv has one row, as Accelerate has no epochs."""
    train(tmp_path, ["trainwire", "tensorboard"])
    run_sinks(tmp_path / "mine/trainwire")
    ours, theirs = curves(tmp_path / "mine/trainwire/tensorboard/rank-0"), curves(tmp_path / "mine")
    assert [step for step, _ in theirs["train/loss"]] == list(range(1, 11))
    assert ours == theirs
    assert float(loss_rows(tmp_path / "mine/trainwire")[0]["TRAIN_LOSS"]) == pytest.approx(theirs["train/loss"][-1][1])


def test_the_life_of_a_run(tmp_path: Path) -> None:
    """The run has the configuration, a text as a text, and its end."""
    train(tmp_path)
    run = tmp_path / "mine/trainwire"
    assert [event.name for event in lifecycle(run)] == ["run/started", "run/finished"]
    assert hparams(run) == {"learning_rate": 0.1, "layers": 1}
    assert [(event.type, event.value, event.step) for event in read_events(run) if event.name == "note"] == [
        ("text", "of **mine**", 10)
    ]


def test_images_and_tables(tmp_path: Path) -> None:
    """The tracker has the methods of Accelerate's other trackers for them."""
    accelerator = Accelerator(log_with=TrainwireTracker("mine", tmp_path), cpu=True)
    accelerator.init_trackers("mine")
    tracker = accelerator.get_tracker("trainwire")
    tracker.log_images({"samples": torch.zeros(2, 3, 4, 4)}, step=1)
    tracker.log_table("scores", columns=["class", "f1"], data=[["cat", 0.5]], step=2)
    accelerator.end_training()
    events = {event.name: event for event in read_events(tmp_path / "mine/trainwire")}
    assert (events["samples"].type, events["samples"].step) == ("image", 1)
    assert events["scores"].value["rows"] == (("cat", 0.5),)


def test_a_second_start(tmp_path: Path) -> None:
    """It begins the run anew; an option of the bus makes it add to the run."""
    train(tmp_path)
    train(tmp_path)
    train(tmp_path, init_kwargs={"trainwire": {"append": True}})
    resumed = [event for event in lifecycle(tmp_path / "mine/trainwire") if event.name == "run/resumed"]
    assert [event.value["from"] is None for event in resumed] == [True, False]


@pytest.mark.timeout(330)
def test_of_several_processes_the_main_one_records(tmp_path: Path) -> None:
    """Started by torchrun, only the first process records, and readers wait for no other."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    script = TESTS / "support/accelerate_training.py"
    subprocess.run([*launcher, script, tmp_path], check=True, timeout=300, env=os.environ)
    run = tmp_path / "mine/trainwire"
    assert list_ranks(run) == [0]
    assert lifecycle(run)[0].value["world_size"] == 1
    assert len(scalars(run, "train/loss")) == 6


def test_bad_input(tmp_path: Path) -> None:
    """A project without a name, an option that does not exist, and a log before the start are refused."""
    with pytest.raises(OptionError, match="the name of the project is ''"):
        TrainwireTracker("", tmp_path)
    with pytest.raises(OptionError, match="unexpected keyword argument 'colour'"):
        train(tmp_path, init_kwargs={"trainwire": {"colour": "red"}})
    with pytest.raises(OptionError, match="init_trackers"):
        TrainwireTracker("mine", tmp_path).log({"loss": 1.0})
