"""TensorBoard shows a resumed run as if it had never stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tensorboard")
pytest.importorskip("google_crc32c")

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.tensorboard import marks
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink

Points = dict[str, list[tuple[int, float]]]
"""Steps and values of each tag."""


class Run:
    """Records a run, and keeps track of the events that are not superseded."""

    def __init__(self) -> None:
        self.attempts: list[list[list[Event]]] = [[]]
        self.kept: list[Event] = []
        self.marks: list[tuple[dict[str, int], int, list[Event]]] = []
        """Position and step of each mark, and the events kept at it."""
        self.starts = [0]
        """For each attempt, the one that its start is."""
        self._time = 1.75e9
        self.add("run/started", {"run": "recorded"}, "lifecycle", 0)

    def add(self, name: str, value: object, kind: str, step: int) -> Event:
        self._time += 1
        self.attempts[-1].append([Event(name, value, kind, self._time, step)])
        return self.attempts[-1][-1][0]

    def log(self, tag: str, step: int) -> None:
        """Log a value that no other point has."""
        self.kept.append(self.add(tag, self._time % 1e6, "scalar", step))

    def mark(self) -> None:
        """Save a checkpoint."""
        step = self.kept[-1].step if self.kept else 0
        self.add("run/marked", {"mark": 0}, "lifecycle", step)
        self.marks.append(
            ({"attempt": len(self.attempts) - 1, "seq": len(self.attempts[-1]) - 1}, step, list(self.kept))
        )

    def resume(self, mark: int | None) -> None:
        """Resume from a mark, or restart if it is None."""
        position, step, kept = (None, 0, []) if mark is None else self.marks[mark]
        self.starts.append(len(self.attempts) if position is None else self.starts[position["attempt"]])
        self.attempts.append([])
        self.kept = list(kept)
        self.add("run/resumed", {"from": position, "from_step": step}, "lifecycle", step)

    @property
    def place(self) -> Path:
        """The folder of the last attempt's files."""
        start = self.starts[-1]
        return Path("tensorboard", f"rank-0.attempt-{start}" if start else "rank-0")

    @property
    def batches(self) -> list[Batch]:
        return record(*self.attempts)


def points(events: Sequence[Event]) -> Points:
    """Return the points that an uninterrupted run with these events shows."""
    found: Points = {}
    for event in events:
        found.setdefault(event.name, []).append((event.step, event.value))
    return found


def fast(found: Points) -> Points:
    """Return what the fast loader shows of points: one whose step does not increase replaces those from its step on."""
    shown: Points = {}
    for tag, written in found.items():
        for step, value in written:
            shown[tag] = [*(point for point in shown.get(tag, []) if point[0] < step), (step, value)]
    return shown


def written(place: Path) -> Points:
    """Return all points in the files, in order."""
    found: Points = {}
    for path in sorted(place.iterdir()):
        for proto in EventFileLoader(str(path)).Load():
            for value in proto.summary.value:
                found.setdefault(value.tag, []).append((proto.step, make_ndarray(value.tensor).item()))
    return found


def loaded(place: Path) -> Points:
    """Return what TensorBoard's Python loader shows."""
    accumulator = EventAccumulator(str(place), {"tensors": 0}).Reload()
    return {
        tag: [(found.step, make_ndarray(found.tensor_proto).item()) for found in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
        if accumulator.Tensors(tag)
    }


def check(run: Run, *, is_whole: bool = True) -> None:
    """Check that both loaders show the kept points.

    The fast loader is checked for tags without a superseded point before the first kept one.
    """
    with TemporaryDirectory() as name:
        run_sink(TensorBoard, Path(name), run.batches)
        expected = points(run.kept)
        assert loaded(name / run.place) == expected
        if is_whole:
            everything = written(name / run.place)
            tags = [tag for tag in expected if min(everything[tag])[0] >= expected[tag][0][0]]
            assert {tag: fast(everything)[tag] for tag in tags} == {tag: fast(expected)[tag] for tag in tags}


@st.composite
def runs(draw: st.DrawFn, *, rising: bool = False) -> Run:
    """Draw a run that logs at any steps, or only at rising ones, and is resumed from any of its marks."""
    run = Run()
    for action in draw(st.lists(st.sampled_from(["log", "log", "log", "mark", "resume"]), max_size=12)):
        last = run.kept[-1].step if run.kept else 0
        if action == "log":
            run.log(draw(st.sampled_from("abc")), last + draw(st.integers(0 if rising else -2, 2)))
        elif action == "mark":
            run.mark()
        else:
            run.resume(draw(st.none() | st.integers(0, len(run.marks) - 1)) if run.marks else None)
    return run


@given(runs())
def test_kept_points_are_shown_for_any_steps(run: Run) -> None:
    """Steps may decrease, marks may be superseded, and runs may restart."""
    check(run)


@given(runs(rising=True))
def test_a_large_run_with_rising_steps_is_not_repeated_as_a_whole(run: Run) -> None:
    """If steps increase, repeating the last one is enough for the Python loader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "MAX_REPEATED", 0)
        check(run, is_whole=False)


def test_only_the_last_step_of_a_large_run_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events at the mark's step are kept if they were recorded before the mark, and discarded otherwise."""
    monkeypatch.setattr(marks, "MAX_REPEATED", 0)
    run = Run()
    for step in (1, 2):
        run.log("loss", step)
    run.mark()
    run.log("score", 2)
    run.resume(0)
    run.log("score", 2)
    run_sink(TensorBoard, tmp_path, run.batches)
    assert [step for step, _ in written(tmp_path / run.place)["loss"]] == [1, 2, 2]
    assert loaded(tmp_path / run.place) == points(run.kept)


def test_a_forgotten_mark_is_replaced_by_its_step(tmp_path: Path) -> None:
    """A run resumed from a mark that is no longer remembered is restored by step."""
    run = Run()
    run.log("loss", 1)
    run.mark()
    for step in range(2, marks.KEPT_MARKS + 4):
        run.log("loss", step)
        run.mark()
    run.resume(0)
    run.log("loss", 2)
    check(run, is_whole=False)


@pytest.mark.parametrize("most", [0, marks.MAX_REPEATED])
def test_each_event_takes_effect_once_over_several_resumptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Killed at any moment and restarted, the sink writes the same bytes."""
    monkeypatch.setattr(marks, "MAX_REPEATED", most)
    run = Run()
    for mark in (0, 0, None):
        run.log("loss", len(run.kept) + 1)
        run.mark()
        run.log("loss", len(run.kept) + 1)
        run.resume(mark)
    run.log("loss", 1)
    check_sink(TensorBoard, tmp_path, run.batches)
