"""What PyTorch's writer and ours write, compared as TensorBoard's own loader reads it, and how a writer is used."""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("tensorboard")
pytest.importorskip("google_crc32c")

from PIL import Image
from support.paths import DOCS
from support.run_reader import read_batches, read_events
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter as TorchSummaryWriter

import trainwire
from trainwire.integrations.tensorboard import SummaryWriter, _reports
from trainwire_protocol.errors import OptionError, RunInUseError
from trainwire_sinks.cli import app

TIME = 1750000000.25

Method = Callable[[Any], None]

Points = dict[str, list[dict[str, Any]]]
"""For each run, what the loader returns for each value: tag, step, walltime, metadata and array."""


def write_event_files(folder: Path) -> Path:
    """Run the sink on a run, and return the folder of its event files."""
    assert app.run(["sink", "tensorboard", str(folder)]) == 0
    return folder / "tensorboard" / "rank-0"


def load(folder: Path) -> Points:
    """Return what TensorBoard's loader reads in the event files of a folder and of those below it."""
    points: Points = {}
    for path in sorted(folder.rglob("*tfevents*")):
        run = path.parent.relative_to(folder).as_posix()
        for event in EventFileLoader(str(path)).Load():
            points.setdefault(run, []).extend(_points(event))
    return points


def _points(event: Any) -> Iterator[dict[str, Any]]:
    for value in event.summary.value:
        metadata = value.metadata
        plugin = metadata.plugin_data
        yield {
            "tag": value.tag, "step": event.step, "walltime": event.wall_time, "plugin": plugin.plugin_name,
            "content": b"" if plugin.plugin_name == "audio" else plugin.content, "class": metadata.data_class,
            "array": comparable(make_ndarray(value.tensor)),
        }  # fmt: skip


def comparable(array: np.ndarray) -> Any:
    """Return an array as its type, shape and items, where all NaNs are equal."""
    return str(array.dtype), array.shape, [item if item == item else "NaN" for item in array.reshape(-1).tolist()]


def other_files(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder that are not event files."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def without_walltimes(points: Points) -> Points:
    """Return points without the walltimes, which differ if they cannot be passed to a method."""
    return {run: [point | {"walltime": 0} for point in found] for run, found in points.items()}


def written_by_both(tmp_path: Path, use: Method) -> tuple[Path, Path]:
    """Use PyTorch's writer and ours in the same way, and return the folders of their event files."""
    for name, kind in (("torch", TorchSummaryWriter), ("ours", SummaryWriter)):
        torch.manual_seed(1)
        with kind(str(tmp_path / name)) as writer:
            use(writer)
    return tmp_path / "torch", write_event_files(tmp_path / "ours")


PICTURE = torch.linspace(0, 1, 3 * 5 * 7).reshape(3, 5, 7)
BATCH = torch.stack([PICTURE, 1 - PICTURE])
VERTICES = torch.arange(12.0).reshape(1, 4, 3)
LABELS, SCORES = np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.6, 0.8])
CURVE: list[list[float]] = [
    [75, 64, 21, 5, 0], [150, 105, 18, 0, 0], [0, 45, 132, 150, 150], [0, 11, 54, 70, 75],
    [0.3333333, 0.3786982, 0.5384616, 1.0, 0.0], [1.0, 0.8533334, 0.28, 0.0666667, 0.0],
]  # fmt: skip
LAYOUT = {"Losses": {"both": ["Multiline", ["loss/train", "loss/dev"]], "range": ["Margin", ["mean", "low", "high"]]}}

METHODS: dict[str, Method] = {
    "add_scalar": lambda w: w.add_scalar("loss/train", torch.tensor([0.1], requires_grad=True), 3, TIME),
    "add_scalar new_style": lambda w: w.add_scalar("loss", 0.1, 3, TIME, new_style=True),
    "add_scalar double_precision": lambda w: w.add_scalar("loss", 0.1, 3, TIME, new_style=True, double_precision=True),
    "add_histogram": lambda w: w.add_histogram("weights", torch.linspace(-3, 5, 1000), 3, walltime=TIME),
    "add_histogram bins": lambda w: w.add_histogram("weights", np.arange(1024), 3, "doane", TIME, max_bins=5),
    "add_histogram NaN": lambda w: w.add_histogram("weights", torch.tensor([1.0, torch.nan, 2.0]), 3, walltime=TIME),
    "add_histogram_raw": lambda w: w.add_histogram_raw("raw", 0.5, 3.5, 6, 12.0, 30.0, [1, 2, 4], [1, 2, 3], 3, TIME),
    "add_histogram_raw empty": lambda w: w.add_histogram_raw("raw", 0, 0, 0, 0, 0, [1, 2], [0, 0], 3, TIME),
    "add_image": lambda w: w.add_image("picture", PICTURE, 3, TIME),
    "add_image HW": lambda w: w.add_image("mask", PICTURE[0].numpy(), 3, TIME, dataformats="HW"),
    "add_images": lambda w: w.add_images("pictures", BATCH, 3, TIME),
    "add_image_with_boxes": lambda w: w.add_image_with_boxes("boxes", PICTURE, np.array([[1, 1, 3, 3]]), 3, TIME),
    "add_audio": lambda w: w.add_audio("tone", torch.sin(torch.linspace(0, 99, 500)), 3, 8000, TIME),
    "add_text": lambda w: w.add_text("note", "**Märkt**\n\nand more", 3, TIME),
    "add_text suffix": lambda w: w.add_text("", "of no tag", 3, TIME),
    "add_pr_curve": lambda w: w.add_pr_curve("curve", LABELS, SCORES, 3, 11, walltime=TIME),
    "add_pr_curve_raw": lambda w: w.add_pr_curve_raw("curve", *CURVE, 3, 5, walltime=TIME),
    "add_mesh": lambda w: w.add_mesh("mesh", VERTICES, VERTICES.int(), VERTICES.int() % 4, {"a": 1}, 3, TIME),
    "add_tensor": lambda w: w.add_tensor("tensor", torch.arange(6, dtype=torch.int64).reshape(2, 3), 3, TIME),
    "add_tensor of one": lambda w: w.add_tensor("tensor", torch.tensor([0.5]), 3, TIME),
    "add_custom_scalars": lambda w: w.add_custom_scalars(LAYOUT),
    "add_custom_scalars_multilinechart": lambda w: w.add_custom_scalars_multilinechart(["a", "b"], "c", "d"),
    "add_custom_scalars_marginchart": lambda w: w.add_custom_scalars_marginchart(["a", "b", "c"]),
    "add_graph": lambda w: w.add_graph(torch.nn.Linear(3, 5), torch.zeros(1, 3)),
    "add_scalars": lambda w: w.add_scalars("loss/all", {"train": 0.5, "dev/a": 0.25, "../ b": 1}, 3, TIME),
    "add_hparams": lambda w: w.add_hparams(
        {"rate": 0.1, "size": 4, "fast": True, "kind": "a", "none": None, "tensor": torch.tensor([2.0])},
        {"score": 0.5, "error": torch.tensor(0.25)}, {"kind": ["a", "b"]}, "trial", 3,
    ),
    "no step": lambda w: (w.add_scalar("a", 1), w.add_text("b", "c"), w.add_histogram("d", np.ones(3))),
    "steps": lambda w: [w.add_scalar("a", 1, step, TIME) for step in (5, 2.9, np.int64(-7), None, torch.tensor(1))],
    "add_summary": lambda w: w._get_file_writer().add_summary(summary(), 3, TIME),
}  # fmt: skip


def summary() -> Any:
    """Return a summary with two values, as other loggers make them for PyTorch's writer."""
    return Summary(value=[Summary.Value(tag="a", simple_value=0.5), Summary.Value(tag="b", simple_value=1.5)])


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")  # PyTorch's add_graph calls it
@pytest.mark.parametrize("name", METHODS)
def test_the_event_files_equal_those_of_pytorch(name: str, tmp_path: Path) -> None:
    """Each method gives the same runs, tags, steps, values and metadata, and the walltimes that were passed."""
    theirs, ours = written_by_both(tmp_path, METHODS[name])
    expected, found = load(theirs), load(ours)
    assert expected
    if {point["walltime"] for points in expected.values() for point in points} != {TIME}:
        expected, found = without_walltimes(expected), without_walltimes(found)
    assert found == expected


def test_the_files_of_an_embedding_equal_those_of_pytorch(tmp_path: Path) -> None:
    """The vectors, labels, pictures and the projector's configuration are the same, and large files are whole."""

    def use(writer: Any) -> None:
        writer.add_embedding(torch.eye(3), ["a", "b", "c"], torch.rand(3, 3, 4, 4), 2, "first/tag")
        writer.add_embedding(torch.eye(2), [["a", 1], ["b", 2]], None, 3, metadata_header=["name", "number"])

    theirs, ours = written_by_both(tmp_path, use)
    assert other_files(ours) == other_files(theirs)
    assert len(other_files(ours)) == 6


def test_a_large_file_is_recorded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is larger than an event is recorded in several events, and is whole in the end."""
    monkeypatch.setattr("trainwire.integrations.summaries.PART_BYTES", 1000)
    theirs, ours = written_by_both(tmp_path, lambda writer: writer.add_embedding(torch.rand(100, 10)))
    assert other_files(ours) == other_files(theirs)
    parts = [event.value for event in read_events(tmp_path / "ours") if event.type == "summary"]
    assert [part.get("offset", 0) for part in parts][:3] == [0, 1000, 2000]


def test_an_image_that_was_scaled_has_its_own_size(tmp_path: Path) -> None:
    """PyTorch's writer gives the size before the scaling, and ours that of the picture."""
    theirs, ours = written_by_both(
        tmp_path, lambda writer: writer.add_image_with_boxes("a", PICTURE, np.array([[1, 1, 3, 3]]), rescale=2)
    )
    (*_, expected), found = load(theirs)["."][0]["array"][2], load(ours)["."][0]["array"][2]
    assert found == [b"14", b"10", expected]


def test_a_video_is_a_gif_without_moviepy(tmp_path: Path) -> None:
    """A video has a frame for each time, and is shown as an image."""
    with SummaryWriter(tmp_path) as writer:
        writer.add_video("video", torch.linspace(0, 1, 2 * 4 * 3 * 6 * 5).reshape(2, 4, 3, 6, 5), 3, fps=10)
        writer.add_video("gray", torch.randint(0, 255, (1, 3, 1, 6, 5)).byte(), 3)
    videos = {event.name: event.value for event in read_events(tmp_path) if event.type == "image"}
    with Image.open(io.BytesIO(videos["video"]["data"])) as video:
        assert (video.n_frames, video.size, video.info["duration"]) == (4, (10, 6), 100)  # type: ignore[attr-defined]
    assert videos["gray"]["format"] == "gif"


def test_what_the_bus_has_a_type_for_is_recorded_as_that(tmp_path: Path) -> None:
    """Other sinks and commands read scalars, texts, pictures, sounds, histograms and hyperparameters as such."""
    with SummaryWriter(tmp_path) as writer:
        for name in ("add_scalar", "add_scalar new_style", "add_text", "add_histogram", "add_image", "add_audio"):
            METHODS[name](writer)
        METHODS["add_scalars"](writer)
        METHODS["add_hparams"](writer)
    events = {(event.type, event.name): event for event in read_events(tmp_path)}
    assert events["scalar", "loss/train"].value == pytest.approx(0.1)
    assert events["scalar", "loss"][1:] == (0.1, "scalar", TIME, 3)
    assert events["text", "note"].value == "**Märkt**\n\nand more"
    assert events["histogram", "weights"].value["max"] == 5
    assert events["image", "picture"].value | {"data": None} == {
        "data": None, "format": "png", "width": 7, "height": 5, "channels": 3
    }  # fmt: skip
    with wave.open(io.BytesIO(events["audio", "tone"].value["data"])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 500)
    assert events["scalars", "loss/all"].value == {"train": 0.5, "dev/a": 0.25, "../ b": 1}
    assert events["scalar", "score"][1:] == (0.5, "scalar", events["scalar", "score"].walltime, 3)
    hparams = events["hparams", "hparams"].value
    assert hparams == {"rate": 0.1, "size": 4, "fast": True, "kind": "a", "none": None, "tensor": 2.0}


def test_a_curve_is_readable_without_protobuf(tmp_path: Path) -> None:
    """The event of a precision-recall curve has its numbers, and all summaries are on the media channel."""
    with SummaryWriter(tmp_path) as writer:
        writer.add_pr_curve("curve", LABELS, SCORES, 3, num_thresholds=3)
    (event,) = [event for event in read_events(tmp_path) if event.type == "summary"]
    curve = event.value["curve"]
    assert curve["thresholds"] == (0.0, 0.5, 1.0)
    assert curve["true_positives"] == (3.0, 2.0, 0.0)
    assert curve["recall"] == pytest.approx((1.0, 2 / 3, 0.0))
    channels = {batch.header.channel for batch in read_batches(tmp_path) for e in batch.events if e.type == "summary"}
    assert channels == {"media"}


tags = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", "/", "a//b", "..", "é" * 256, "é" * 257, "x" * 512, "x" * 513, "损失", "a\0b", "run/finished"]
)
numbers = st.floats() | st.integers(-(2**70), 2**70) | st.booleans()
scalars = st.tuples(
    tags, numbers, st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9),
    st.floats(0, 4e9), st.booleans(), st.booleans(),
)  # fmt: skip


@settings(max_examples=15)
@given(st.lists(scalars, min_size=1, max_size=30))
@example([("a", 0.1, 3, TIME, True, True), ("a", 0.1, 2, TIME, False, False), ("a", 0.1, None, TIME, True, False)])
def test_every_scalar_equals_that_of_pytorch(tmp_path_factory: pytest.TempPathFactory, given: list[Any]) -> None:
    """Whatever the tags, numbers, steps and walltimes are, TensorBoard reads the same."""
    with np.errstate(over="ignore"):
        theirs, ours = written_by_both(
            tmp_path_factory.mktemp("runs"), lambda writer: [writer.add_scalar(*arguments) for arguments in given]
        )
        assert load(ours) == load(theirs)


WRONG: dict[str, Method] = {
    "several numbers": lambda w: w.add_scalar("a", torch.ones(3)),
    "no number": lambda w: w.add_scalar("a", torch.ones(0)),
    "a list": lambda w: w.add_scalar("a", [1.0]),
    "a text": lambda w: w.add_scalar("a", "soon"),
    "a tag": lambda w: w.add_scalar(5, 1.0),
    "a surrogate": lambda w: w.add_scalar("\ud800", 1.0),
    "a step": lambda w: w.add_scalar("a", 1.0, "now"),
    "a large step": lambda w: w.add_scalar("a", 1.0, 2**63),
    "a walltime": lambda w: w.add_scalar("a", 1.0, 1, "now"),
    "a label": lambda w: w.add_scalars("a", {5: 1.0}),
    "scalars without labels": lambda w: w.add_scalars("a", [1.0]),
    "hyperparameters": lambda w: w.add_hparams([1], {}),
    "a hyperparameter": lambda w: w.add_hparams({"a": [1]}, {}),
    "a domain": lambda w: w.add_hparams({"a": 1}, {}, {"a": ["x"]}),
    "no samples": lambda w: w.add_histogram("a", np.ones(0)),
    "an image": lambda w: w.add_image("a", np.ones((2, 2))),
    "a chart": lambda w: w.add_custom_scalars_marginchart(["a"]),
    "labels of another number": lambda w: w.add_embedding(torch.eye(3), ["a"]),
    "limits": lambda w: w.add_histogram_raw("a", 0, 1, 1, 1, 1, [1, 2], [1]),
    "a text that is a number": lambda w: w.add_text("a", 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def two_writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """PyTorch's writer and ours."""
    folder = tmp_path_factory.mktemp("wrong")
    with TorchSummaryWriter(str(folder / "torch")) as theirs, SummaryWriter(folder / "ours") as ours:
        yield theirs, ours


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_raises_what_pytorch_raises(name: str, two_writers: tuple[Any, Any]) -> None:
    """A call that PyTorch's writer refuses is refused by ours, with an error of the same type."""
    theirs, ours = two_writers
    with pytest.raises(Exception) as expected:  # of many types
        WRONG[name](theirs)
    with pytest.raises(expected.type):
        WRONG[name](ours)


def test_the_signatures_are_those_of_pytorch() -> None:
    """Every public method has the parameters and defaults of PyTorch's, and the same order."""
    for name, method in inspect.getmembers(TorchSummaryWriter, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        expected = inspect.signature(method).parameters.values()
        found = inspect.signature(getattr(SummaryWriter, name)).parameters.values()
        own = [(parameter.name, parameter.default) for parameter in found if parameter.kind != parameter.KEYWORD_ONLY]
        assert own == [(parameter.name, parameter.default) for parameter in expected], name


def test_a_writer_that_was_closed_adds_to_its_run(tmp_path: Path) -> None:
    """A writer is opened again by its next call, and so is its folder by another writer; nothing is superseded."""
    writer = SummaryWriter(tmp_path)
    writer.add_scalar("a", 1.0, 1)
    writer.close()
    writer.close()
    writer.flush()
    assert writer.file_writer is None
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    with SummaryWriter(tmp_path) as other:
        other.add_scalar("a", 3.0, 3)
    assert [point["step"] for point in load(write_event_files(tmp_path))["."]] == [1, 2, 3]


def test_a_purge_step_is_that_of_pytorch(tmp_path: Path) -> None:
    """The event file has the start of a session at this step, after the earlier points."""
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", 1.0, 5)
    with SummaryWriter(tmp_path, purge_step=3) as writer:
        writer.add_scalar("a", 2.0, 3)
    (path,) = write_event_files(tmp_path).glob("*tfevents*")
    events = [event for event in EventFileLoader(str(path)).Load() if event.step > 0]
    assert [(event.WhichOneof("what"), event.step) for event in events] == [
        ("summary", 5), ("session_log", 3), ("summary", 3)
    ]  # fmt: skip
    assert events[1].session_log.status == SessionLog.START


def test_writers_of_one_folder_share_a_bus(tmp_path: Path) -> None:
    """The run ends when the last of them is closed, and writers of other folders have other runs."""
    first, second = SummaryWriter(tmp_path / "a"), SummaryWriter(str(tmp_path / "b" / ".." / "a"))
    with SummaryWriter(tmp_path / "c") as third:
        for number, writer in enumerate((first, second, third)):
            writer.add_scalars("x", {"y": number}, number)
    first.close()
    second.add_scalar("z", 1.0, 5)
    second.close()
    names = [(event.type, event.name, event.step) for event in read_events(tmp_path / "a")]
    assert [name for name in names if name[0] == "scalars"] == [("scalars", "x", 0), ("scalars", "x", 1)]
    assert names[-2:] == [("scalar", "z", 5), ("lifecycle", "run/finished", 5)]
    assert names.count(("summary", "x", 0)) == 1  # the template
    assert [event.value for event in read_events(tmp_path / "c") if event.type == "scalars"] == [{"y": 2.0}]


def test_a_flush_returns_when_the_journal_has_everything(tmp_path: Path) -> None:
    """What was added before a flush is in the journal, while the writer is open."""
    with SummaryWriter(tmp_path) as writer:
        for step in range(5000):
            writer.add_scalar("a", 0.5, step)
        writer.flush()
        assert sum(event.type == "scalar" for event in read_events(tmp_path)) == 5000


def test_an_exception_in_the_block_is_the_end_of_the_run(tmp_path: Path) -> None:
    """The run has failed, with the exception as the reason."""
    with pytest.raises(ValueError, match="too bad"), SummaryWriter(tmp_path):
        raise ValueError("too bad")
    last = read_events(tmp_path)[-1]
    assert (last.name, last.value["reason"]) == ("run/failed", "ValueError: too bad")


def test_a_writer_onto_an_open_bus(tmp_path: Path) -> None:
    """A bus that was passed is used and stays open."""
    with trainwire.open_bus(tmp_path) as bus:
        with SummaryWriter(bus=bus) as writer:
            assert Path(writer.get_logdir()) == bus.folder
            writer.add_text("a", "b", 1)
        bus.log({"c": 1.0}, step=2)
        writer.add_text("a", "d", 3)
    assert [event.name for event in read_events(tmp_path) if event.type in ("text", "scalar")] == ["a", "c", "a"]


def test_a_bus_that_is_open_elsewhere_is_refused(tmp_path: Path) -> None:
    """A folder into which another part of the process records is refused, and the writer shares no other bus."""
    with trainwire.open_bus(tmp_path), pytest.raises(RunInUseError):
        SummaryWriter(tmp_path)
    SummaryWriter(tmp_path).close()


def test_a_template_lasts_until_another(tmp_path: Path) -> None:
    """A scalar of the same name as a metric of `add_hparams` goes where PyTorch's writer puts it."""

    def use(writer: Any) -> None:
        writer.add_scalar("score", 1, 1, TIME)
        writer.add_hparams({"a": 1}, {"score": 2}, run_name="trial 1")
        writer.add_scalar("score", 3, 3, TIME)
        writer.add_scalar("score", 4, 4, TIME, new_style=True)
        writer.add_hparams({"a": 2}, {"score": 5}, run_name="trial 2")
        writer.add_scalar("score", 6, 6, TIME)

    theirs, ours = written_by_both(tmp_path, use)
    assert without_walltimes(load(ours)) == without_walltimes(load(theirs))


def test_no_event_files_are_written_and_this_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a sink, one message of the process says how event files are made."""
    _reports().clear()
    for name in ("a", "b", "a"):
        SummaryWriter(tmp_path / name).close()
    messages = [record.message for record in caplog.records if "event files" in record.message]
    assert len(messages) == 1
    assert f"trainwire sink tensorboard {tmp_path / 'a'}" in messages[0]
    assert not list(tmp_path.rglob("*tfevents*"))


def test_a_sink_is_started_and_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `sinks`, the event files are complete when the writer is closed, also after it was opened again."""
    _reports().clear()
    writer = SummaryWriter(tmp_path, sinks=("tensorboard",))
    for step in (1, 2):
        writer.add_scalars("a", {"b": 0.5}, step)
        writer.close()
        files = load(tmp_path / "tensorboard" / "rank-0")
        assert [point["step"] for point in files["a_b"]] == list(range(1, step + 1))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


FORK = """
import os, sys
from trainwire.integrations.tensorboard import SummaryWriter

writer = SummaryWriter(sys.argv[1])
writer.add_scalar("a", 1.0, 1)
child = os.fork()
if child == 0:
    writer.add_scalar("a", 2.0, 2)
    writer.add_scalars("b", {"c": 2.0}, 2)
    writer.flush()
    writer.close()
    with SummaryWriter(sys.argv[1] + "-child") as own:
        own.add_scalar("a", 3.0, 3)
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
writer.add_scalar("a", 4.0, 4)
writer.close()
"""


@pytest.mark.timeout(180)  # it imports torch in another process
def test_a_fork_leaves_the_run_alone(tmp_path: Path) -> None:
    """A forked process records nothing into its parent's run and says so; a writer of its own works."""
    ended = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("nothing is recorded in this forked process") == 1
    for name, expected in (("run", [1, 4]), ("run-child", [3])):
        events = read_events(tmp_path / name)
        assert [event.step for event in events if event.type == "scalar"] == expected
        assert events[-1].name == "run/finished"


def test_the_default_folder_is_that_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `log_dir`, the run is in runs/, with date, host and comment."""
    monkeypatch.chdir(tmp_path)
    with SummaryWriter(comment="-a", max_queue=1, flush_secs=1, filename_suffix=".x") as writer:
        assert os.listdir("runs") == [Path(writer.log_dir).name]  # noqa: PTH208
        assert writer.log_dir.endswith("-a")
    assert (tmp_path / writer.log_dir / "journal").is_dir()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"sinks": "tensorboard"}, "pass a list of names"),
        ({"sinks": ["tensorbord"]}, "did you mean tensorboard"),
        ({"sinks": 5}, "pass a list of names"),
        ({"log_dir": "s3://bucket/run"}, "not a local folder"),
        ({"log_dir": "a", "bus": "b"}, "in their place"),
        ({"bus": 5}, "an open bus"),
    ],
)
def test_a_wrong_option_is_refused(arguments: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """The message says what is wrong, and nothing is created."""
    with pytest.raises(OptionError, match=problem):
        SummaryWriter(**arguments)
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_too_old_is_named(tmp_path: Path) -> None:
    """With an old TensorBoard, the import says which version it needs, and which extra installs it."""
    info = tmp_path / "tensorboard-2.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorboard\nVersion: 2.9\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import trainwire.integrations.tensorboard"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "needs tensorboard 2.17 or later, and 2.9 is installed: pip install 'trainwire[tensorboard]'" in ended.stderr


def test_a_reader_names_what_it_cannot_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trainwire tail` shows a line for each summary, and exports have its size."""
    with SummaryWriter(tmp_path) as writer:
        METHODS["add_pr_curve"](writer)
        writer.add_embedding(torch.eye(2))
    assert app.run(["tail", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "curve  pr_curves for TensorBoard, " in shown
    assert "projector for TensorBoard, 16 bytes, 00000/default/tensors.tsv" in shown
    assert app.run(["export", str(tmp_path), "--format", "csv", "-o", str(tmp_path / "a.csv")]) == 0
    assert '""data"": 16' in (tmp_path / "a.csv").read_text()


PAGE = (DOCS / "from-summary-writer.md").read_text()


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example records, and has its event files in the folder that the page names."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {"loss": torch.tensor(0.5), "step": 3})
    (point,) = load(tmp_path / "runs/digits/tensorboard/rank-0")["."]
    assert (point["tag"], point["step"], point["array"]) == ("train/loss", 3, ("float32", (), [0.5]))


def test_the_page_names_every_method_and_parameter() -> None:
    """The page says of each method what it records, and of each parameter what it means."""
    methods = [name for name, _ in inspect.getmembers(TorchSummaryWriter, inspect.isfunction) if name.startswith("add")]
    parameters = list(inspect.signature(SummaryWriter).parameters)
    assert not [name for name in (*methods, *parameters) if f"`{name}`" not in PAGE]
