from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("google_crc32c")

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event as EventProto
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_ndarray

from trainwire_sinks import Event
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.tensorboard.index import HPARAMS_END, HPARAMS_START, LAYOUT
from trainwire_sinks.tensorboard.records import frame
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink, sample_run
from trainwire_sinks.testing.sample import START_TIME

EVERYTHING = {"tensors": 0}


def event(name: str, value: Any, kind: str = "scalar", step: int = 1, walltime: float = START_TIME) -> Event:
    return Event(name, value, kind, walltime, step)


def load(folder: Path, run: str = "rank-0") -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / run), EVERYTHING).Reload()


def protos(folder: Path) -> list[EventProto]:
    files = sorted((folder / "tensorboard" / "rank-0").iterdir())
    return [proto for file in files for proto in EventFileLoader(str(file)).Load()]


def points(accumulator: EventAccumulator, tag: str) -> list[tuple[float, int, float]]:
    """Return the walltime, step and value of each point of a tag."""
    return [(e.wall_time, e.step, make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors(tag)]


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    """The same bytes are written however often the sink commits and wherever it is killed."""
    check_sink(TensorBoard, tmp_path)


def test_a_record_is_framed_as_by_tensorboard() -> None:
    """The bytes of a record equal those of TensorBoard's own writer."""

    class Memory(bytearray):
        def write(self, data: bytes) -> None:
            self.extend(data)

    for data in (b"", b"x", bytes(range(256)) * 40):
        memory = Memory()
        RecordWriter(memory).write(data)
        assert frame(data) == bytes(memory)


def test_every_scalar_is_written_with_its_step_and_time(tmp_path: Path) -> None:
    """TensorBoard's loader returns each scalar with 32-bit precision, NaN and infinities included."""
    values = [0.1, -1e-30, 3, 2**63, math.inf, -math.inf, math.nan]
    events = [event("train/loss", v, step=n, walltime=START_TIME + n / 8) for n, v in enumerate(values)]
    run_sink(TensorBoard, tmp_path, record([events[:3], events[3:]]))
    found = points(load(tmp_path), "train/loss")
    assert [point[:2] for point in found] == [(START_TIME + n / 8, n) for n in range(len(values))]
    expected = [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]
    assert [repr(point[2]) for point in found] == [repr(value) for value in expected]


def test_each_of_several_scalars_has_a_tag(tmp_path: Path) -> None:
    """The tags of a list are its positions, those of a map its labels."""
    events = [event("rate", [0.5, 0.25], "scalars"), event("loss", {"a": 1, "b/c": 2.0}, "scalars")]
    run_sink(TensorBoard, tmp_path, record([events]))
    accumulator = load(tmp_path)
    found = {tag: points(accumulator, tag)[0][2] for tag in accumulator.Tags()["tensors"] if tag != LAYOUT}
    assert found == {"rate/0": 0.5, "rate/1": 0.25, "loss/a": 1.0, "loss/b/c": 2.0}


def test_text_is_in_the_text_dashboard(tmp_path: Path) -> None:
    """A text event is a string in the text dashboard, at its step."""
    run_sink(TensorBoard, tmp_path, record([[event("note", "# Märkt", "text", step=4)]]))
    accumulator = load(tmp_path)
    assert accumulator.SummaryMetadata("note").plugin_data.plugin_name == "text"
    assert [(e.step, e.tensor_proto.string_val[0].decode()) for e in accumulator.Tensors("note")] == [(4, "# Märkt")]


def test_histograms_keep_their_buckets(tmp_path: Path) -> None:
    """A histogram is written with its counts and edges."""
    value = {"edges": [0.0, 1.0, 2.0], "counts": [3, 4], "min": 0.5, "max": 1.5, "sum": 7.0, "sum_squares": 9.0}
    run_sink(TensorBoard, tmp_path, record([[event("weights", value, "histogram")]]))
    accumulator = load(tmp_path)
    assert accumulator.SummaryMetadata("weights").plugin_data.plugin_name == "histograms"
    assert make_ndarray(accumulator.Tensors("weights")[0].tensor_proto).tolist() == [[0.5, 1, 3], [1, 1.5, 4]]


def test_a_histogram_without_finite_values_is_omitted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TensorBoard would show zeros; a line says why nothing is shown, and the other histograms are."""
    nothing = {"edges": [0.0, 0.0], "counts": [0], "min": 0.0, "max": 0.0, "sum": 0.0, "sum_squares": 0.0}
    some = nothing | {"edges": [1.0, 1.0], "counts": [3], "nan": 2}
    events = [event("all", nothing | {"nan": 5}, "histogram"), event("some", some, "histogram")]
    events.append(event("empty", nothing, "histogram"))
    run_sink(TensorBoard, tmp_path, record([events]))
    assert load(tmp_path).Tags()["tensors"] == ["some"]
    assert "'all'" in caplog.text
    assert "it has no values" in caplog.text
    assert "NaN" in caplog.text


def test_a_long_hyperparameter_is_shortened(tmp_path: Path) -> None:
    """Thousands of numbers are neither a trial's label nor a cell."""
    run_sink(TensorBoard, tmp_path, record([[event("hparams", {"weights": [0.5] * 10_000}, "hparams")]]))
    accumulator = load(tmp_path)
    content = accumulator.SummaryMetadata(HPARAMS_START).plugin_data.content
    info = HParamsPluginData.FromString(content).session_start_info
    assert len(info.hparams["weights"].string_value) == 1000
    assert len(accumulator.Tensors("hparams")[0].tensor_proto.string_val[0]) < 1500


def test_hyperparameters_make_the_run_a_session(tmp_path: Path) -> None:
    """Numbers, booleans and strings keep their type; nested values have a path, and others become text."""
    values = {"lr": 5e-5, "layers": 3, "amp": True, "name": "x", "none": None, "nan": math.nan, "a": {"b": [1, 2]}}
    run_sink(TensorBoard, tmp_path, record([[event("hparams", values, "hparams")]]))
    content = load(tmp_path).SummaryMetadata(HPARAMS_START).plugin_data.content
    info = HParamsPluginData.FromString(content).session_start_info
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()}
    assert found == {
        "lr": 5e-5, "layers": 3.0, "amp": True, "name": "x", "none": "null", "nan": "NaN", "a/b": "[1, 2]",
    }  # fmt: skip
    assert (info.start_time_secs, info.group_name) == (START_TIME, "recorded")


@pytest.mark.parametrize(("end", "has_end"), [("run/finished", True), ("run/failed", False)])
def test_only_a_finished_run_ends_its_session(tmp_path: Path, end: str, has_end: bool) -> None:
    """The session of a failed run stays open, because TensorBoard keeps the first end that it reads."""
    last = event(end, {"last_seq": 1, "reason": None}, "lifecycle", walltime=START_TIME + 9)
    run_sink(TensorBoard, tmp_path, record([[event("hparams", {"lr": 1}, "hparams"), last]]))
    found = load(tmp_path).summary_metadata.get(HPARAMS_END)
    assert (found is not None) == has_end
    if found is not None:
        info = HParamsPluginData.FromString(found.plugin_data.content).session_end_info
        assert (info.status, info.end_time_secs) == (STATUS_SUCCESS, START_TIME + 9)


def test_scalars_of_one_call_share_a_record(tmp_path: Path) -> None:
    """A record has consecutive scalars of one step and walltime, as `bus.log` records them."""
    moments = [(1, 0.0), (1, 0.0), (1, 0.5), (2, 0.5), (2, 0.5)]
    events = [event(f"m{n}", 1.0, step=step, walltime=START_TIME + t) for n, (step, t) in enumerate(moments)]
    run_sink(TensorBoard, tmp_path, record([events]))
    shared = [[value.tag for value in proto.summary.value] for proto in protos(tmp_path) if proto.summary.value]
    assert shared == [["m0", "m1"], ["m2"], ["m3", "m4"]]


def test_other_types_are_omitted(tmp_path: Path) -> None:
    """A run with events of every type, and of an unknown one, is written and can be loaded."""
    run_sink(TensorBoard, tmp_path, sample_run())
    tags = load(tmp_path).Tags()["tensors"]
    assert {"of a later version", "log", "run/started"}.isdisjoint(tags)
    assert "../../odd\tname\n\x1b[31m" in tags


def test_a_run_without_events_has_no_file(tmp_path: Path) -> None:
    """Before the first event there is no file, because the file begins with its time."""
    run_sink(TensorBoard, tmp_path, [])
    assert not list(tmp_path.rglob("*tfevents*"))


def resumed(from_step: int | None) -> Event:
    origin = None if from_step is None else {"attempt": 0, "seq": 4}
    return Event("run/resumed", {"from": origin, "from_step": from_step or 0}, "lifecycle", START_TIME + 100, 0)


def attempt(value: float, steps: range) -> list[list[Event]]:
    return [[event("loss", value, step=step, walltime=START_TIME + step)] for step in steps]


Steps = Callable[[EventAccumulator], list[tuple[int, float]]]


@pytest.mark.parametrize(
    ("from_step", "steps", "expected"),
    [
        (5, range(6, 9), [(step, 0.0) for step in range(1, 6)] + [(step, 1.0) for step in range(6, 9)]),
        (5, range(0), [(step, 0.0) for step in range(1, 6)]),
    ],
)
def test_a_resumed_run_continues_in_a_new_file(
    tmp_path: Path, from_step: int, steps: range, expected: list[tuple[int, float]]
) -> None:
    """TensorBoard's Python loader shows each kept step and each step of the resumed run once."""
    batches = record(attempt(0.0, range(1, 11)), [[resumed(from_step)], *attempt(1.0, steps)])
    run_sink(TensorBoard, tmp_path, batches)
    names = [path.name for path in sorted((tmp_path / "tensorboard" / "rank-0").iterdir())]
    assert names == [f"events.out.tfevents.{number:010d}.trainwire" for number in (1, 2)]
    assert [point[1:] for point in points(load(tmp_path), "loss")] == expected


def test_a_resumption_does_not_truncate_a_file(tmp_path: Path) -> None:
    """A loader that has read the first file continues with the second, and discards superseded points."""
    batches = record(attempt(0.0, range(1, 11)), [[resumed(5)], *attempt(1.0, range(6, 9))])
    run_sink(TensorBoard, tmp_path, batches[:10])
    accumulator = load(tmp_path)
    assert len(points(accumulator, "loss")) == 10
    run_sink(TensorBoard, tmp_path, batches)
    accumulator.Reload()
    assert [step for _, step, _ in points(accumulator, "loss")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_new_start_is_a_run_of_its_own(tmp_path: Path) -> None:
    """The points, hyperparameters and charts of a new start are in a folder of its own, and the old ones stay."""
    first = [[event("hparams", {"lr": 1}, "hparams")], [event("rate", [1, 2], "scalars")], *attempt(0.0, range(1, 11))]
    anew = [[resumed(None)], [event("hparams", {"lr": 2}, "hparams")], *attempt(1.0, range(1, 3))]
    run_sink(TensorBoard, tmp_path, record(first, anew))
    old, new = load(tmp_path), load(tmp_path, "rank-0.attempt-1")
    assert [point[1:] for point in points(old, "loss")] == [(step, 0.0) for step in range(1, 11)]
    assert [point[1:] for point in points(new, "loss")] == [(1, 1.0), (2, 1.0)]
    assert {"rate/0", LAYOUT, HPARAMS_START} <= old.summary_metadata.keys()
    assert {"rate/0", LAYOUT}.isdisjoint(new.summary_metadata)
    sessions = [start_info(found) for found in (old, new)]
    assert [info.hparams["lr"].number_value for info in sessions] == [1, 2]
    assert len({info.group_name for info in sessions}) == 2


def start_info(accumulator: EventAccumulator) -> SessionStartInfo:
    content = accumulator.summary_metadata[HPARAMS_START].plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info


def test_an_attempt_that_adds_to_a_run_hides_no_point(tmp_path: Path) -> None:
    """What is appended is in the same file, whatever its steps are, and no point is discarded."""
    first = [*attempt(0.0, range(1, 11)), [event("score", 0.5, step=4)]]
    origin = {"attempt": 0, "seq": 10}
    added = Event("run/resumed", {"from": origin, "from_step": 4}, "lifecycle", START_TIME + 100, 4)
    run_sink(TensorBoard, tmp_path, record(first, [[added], [event("test/score", 0.25, step=4)]]))
    assert len(list((tmp_path / "tensorboard" / "rank-0").iterdir())) == 1
    assert [step for _, step, _ in points(load(tmp_path), "loss")] == list(range(1, 11))
    assert [point[1:] for point in points(load(tmp_path), "test/score")] == [(4, 0.25)]
