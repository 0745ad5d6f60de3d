"""Events of type `summary`: what is written unchanged, into runs below the rank's and into other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("google_crc32c")

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.util.tensor_util import make_ndarray

from trainwire_sinks import Event
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.tensorboard import event_files
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink

STARTED = Event("run/started", {"run": "recorded"}, "lifecycle", 1.0, 0)


def value(tag: str, number: float = 1.0) -> bytes:
    encoded: bytes = Summary.Value(tag=tag, simple_value=number).SerializeToString()
    return encoded


def opaque(name: str, form: str, data: bytes, step: int = 1, **fields: Any) -> Event:
    return Event(name, {"format": form, "plugin": "", "data": data, **fields}, "summary", 1.0 + step, step)


def resumed(attempt: int, seq: int, step: int) -> Event:
    origin = {"attempt": attempt, "seq": seq}
    return Event("run/resumed", {"run": "recorded", "from": origin, "from_step": step}, "lifecycle", 2.0, step)


def points(folder: Path) -> dict[str, list[tuple[str, int, float]]]:
    """Return the tags, steps and numbers of each run, in the order written."""
    found: dict[str, list[tuple[str, int, float]]] = {}
    place = folder / "tensorboard"
    for path in sorted(place.rglob("*tfevents*")):
        for proto in EventFileLoader(str(path)).Load():
            for written in proto.summary.value:
                run = path.parent.relative_to(place).as_posix()
                found.setdefault(run, []).append((written.tag, proto.step, make_ndarray(written.tensor).item()))
    return found


def test_runs_and_files_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are the same wherever the sink is killed, with more runs than open files, and files in parts."""
    monkeypatch.setattr(event_files, "MAX_OPEN_RUNS", 1)

    def in_runs(step: int) -> list[Event]:
        return [opaque("a", "summary", value("a", run), step, run=f"{run}/below") for run in range(3)]

    batches = [
        [STARTED, *in_runs(1)],
        [Event("a", 0.5, "scalar", 1.0, 1), opaque("f", "file", b"first ", path="files/f")],
        [opaque("f", "file", b"second", path="files/f", offset=6), *in_runs(2), Event("a", 0.5, "scalar", 1.0, 2)],
    ]
    check_sink(TensorBoard, tmp_path / "checked", record(batches))
    run_sink(TensorBoard, tmp_path, record(batches))
    found = points(tmp_path)
    assert found.pop("rank-0") == [("a", 1, 0.5), ("a", 2, 0.5)]
    assert found == {f"rank-0/{run}/below": [("a", 1, run), ("a", 2, run)] for run in range(3)}
    assert (tmp_path / "tensorboard/rank-0/files/f").read_bytes() == b"first second"


def test_a_template_is_filled(tmp_path: Path) -> None:
    """Numbers and texts that follow are written as the template says, until another one or the end of the attempt."""
    doubles = Summary.Value(tag="shown", tensor={"dtype": "DT_DOUBLE"}).SerializeToString()
    plain = Summary.Value(tag="x").SerializeToString()
    events = [
        opaque("x", "template", doubles, type="scalar"),
        Event("x", 0.1, "scalar", 1.0, 1),
        opaque("x", "template", plain, type="scalar", run="below"),
        Event("x", 0.25, "scalar", 1.0, 2),
        opaque("y", "template", plain, type="scalars", run="y"),
        Event("y", {"../b": 1, "": 2}, "scalars", 1.0, 3),
        Event("y", [3], "scalars", 1.0, 4),
        opaque("hparams", "template", b"", type="hparams"),
        Event("hparams", {"a": 1}, "hparams", 1.0, 5),
    ]
    later = [resumed(0, 9, 5), Event("x", 0.5, "scalar", 1.0, 6)]
    run_sink(TensorBoard, tmp_path, record([[STARTED], events], [later]))
    assert points(tmp_path) == {
        "rank-0": [("shown", 1, 0.1), ("x", 6, 0.5)], "rank-0/below": [("x", 2, 0.25)],
        "rank-0/y_../b": [("x", 3, 1)], "rank-0/y_": [("x", 3, 2)], "rank-0/y_0": [("x", 4, 3)],
    }  # fmt: skip


def test_a_resumed_run_continues_in_new_files(tmp_path: Path) -> None:
    """Each run below the rank begins a file that makes TensorBoard discard what was superseded, as the rank does."""
    mark = Event("run/marked", {"mark": 1}, "lifecycle", 1.0, 1)
    first = [[STARTED], [opaque("a", "summary", value("a"), step=1, run="b"), mark]]
    first += [[opaque("a", "summary", value("a"), step=2, run="b")]]
    second = [[resumed(0, 2, 1)], [opaque("a", "summary", value("a", 7), step=2, run="b")]]
    third = [[Event("run/resumed", {"run": "recorded", "from": None, "from_step": 0}, "lifecycle", 3.0, 0)]]
    third += [[opaque("a", "summary", value("a", 8), step=1, run="b")]]
    check_sink(TensorBoard, tmp_path / "checked", record(first, second, third))
    run_sink(TensorBoard, tmp_path, record(first, second, third))
    assert points(tmp_path) == {
        "rank-0/b": [("a", 1, 1), ("a", 2, 1), ("a", 2, 7)], "rank-0.attempt-2/b": [("a", 1, 8)]
    }  # fmt: skip
    last = sorted((tmp_path / "tensorboard/rank-0/b").iterdir())[-1]
    starts = [proto.step for proto in EventFileLoader(str(last)).Load() if proto.HasField("session_log")]
    assert starts == [2]


def test_there_are_not_too_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond a limit, further runs are omitted and named, each once."""
    monkeypatch.setattr(event_files, "MAX_RUNS", 2)
    events = [opaque("a", "summary", value("a"), step, run=run) for step in (1, 2) for run in "xyz"]
    run_sink(TensorBoard, tmp_path, record([[STARTED], events]))
    assert sorted(points(tmp_path)) == ["rank-0/x", "rank-0/y"]
    assert [record.message for record in caplog.records] == ["tensorboard omits 'z': there are 2 runs already"]


@pytest.mark.parametrize(
    ("run", "expected"),
    [("a/./b//c", "a/b/c"), ("/a", "a"), ("../../a", "_/_/a"), ("", "_"), ("a\0b", "a_b"), ("é" * 300, "é" * 100)],
)
def test_a_run_stays_below_the_rank(run: str, expected: str) -> None:
    """What would lead out of the folder, or does not fit into a file system, is replaced or cut."""
    assert event_files.run_path(run) == expected
