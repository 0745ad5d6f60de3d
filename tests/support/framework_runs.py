"""Trainings of other frameworks with sinks beside them, and what these and the frameworks' own loggers have written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.run_reader import read_events
from trainwire_protocol.events import Event
from trainwire_sinks.cli import app

Curves = dict[str, list[tuple[int, float]]]


def launch(script: Path, folder: Path, *arguments: str) -> None:
    """Run a script with the sinks `loss-file` and `tensorboard` beside it."""
    trainwire = Path(sys.executable).with_name("trainwire")
    sinks = ["--sink", "loss-file", "--sink", "tensorboard"]
    command = [trainwire, "launch", *sinks, "--", sys.executable, script, folder, *arguments]
    subprocess.run(command, check=True, timeout=300, env=os.environ)


def run_sinks(run_folder: Path) -> None:
    """Run the sinks `loss-file` and `tensorboard` on a run that is over."""
    for name in ("loss-file", "tensorboard"):
        assert app.run(["sink", name, str(run_folder)]) == 0


def curves(folder: Path) -> Curves:
    """Return the steps and values of all scalars in a folder of event files."""
    files = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    files.Reload()
    found = {name: [(point.step, point.value) for point in files.Scalars(name)] for name in files.Tags()["scalars"]}
    for name in files.Tags()["tensors"]:
        points = [(point.step, list(point.tensor_proto.float_val)) for point in files.Tensors(name)]
        if all(values for _, values in points):
            found[name] = [(step, values[0]) for step, values in points]
    return found


def loss_rows(run_folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's loss.tsv."""
    with (run_folder / "loss.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def lifecycle(run_folder: Path) -> list[Event]:
    """Return the lifecycle events of a run."""
    return [event for event in read_events(run_folder) if event.type == "lifecycle"]


def scalars(run_folder: Path, name: str) -> list[tuple[int, float]]:
    """Return the steps and values of a scalar, in the order recorded."""
    return [(event.step, event.value) for event in read_events(run_folder) if event.name == name]


def hparams(run_folder: Path) -> dict[str, object]:
    """Return the hyperparameters of a run."""
    found: dict[str, object] = {}
    for event in read_events(run_folder):
        found |= event.value if event.type == "hparams" else {}
    return found
