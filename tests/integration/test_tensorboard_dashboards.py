"""What TensorBoard's server shows of each type of event, by its HTTP routes and with each of its loaders."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.run_reader import read_events, wait_until
from support.tensorboard_server import LOADERS, get, get_bytes, post, shown, tensorboard

import trainwire
from trainwire_protocol.events import Event
from trainwire_sinks.cli import app

HOSTILE_NAMES = ["../../../escape", "/etc/passwd", "a\nb", "\x1b]0;title\x07", "nul\0", "x" * 500]
TABLE = {"columns": ["class", "f|1"], "rows": [["*zero*", 0.5], ["<b>one</b>", 0.25]]}
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
MAGENTA = (255, 0, 255)


@dataclass(frozen=True)
class Board:
    """A TensorBoard server, and the events of the runs that it shows."""

    address: str
    events: dict[str, list[Event]]
    """By the name of TensorBoard's run."""

    def expected(self, run: str, name: str) -> list[tuple[float, int, Any]]:
        """Return walltime, step and value of each event with a name."""
        return [(event.walltime, event.step, event.value) for event in self.events[run] if event.name == name]

    def get(self, dashboard: str, route: str, **parameters: object) -> Any:
        """Return the JSON response of one of a dashboard's routes."""
        return get(self.address, f"data/plugin/{dashboard}/{route}", **parameters)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three runs: one of two ranks, one that failed, and one with hostile names and values."""
    folder = tmp_path_factory.mktemp("runs")
    for rank in (0, 1):
        train(folder / "two-ranks", 0.5, rank=rank, world_size=2)
    train(folder / "failed", 0.25, status="failed")
    record_hostile_values(folder / "hostile")
    assert app.run(["sink", "tensorboard", str(folder / "two-ranks"), "--rank", "all"]) == 0
    for run in ("failed", "hostile"):
        assert app.run(["sink", "tensorboard", str(folder / run)]) == 0
    return folder


def train(folder: Path, rate: float, *, rank: int = 0, world_size: int = 1, status: str = "finished") -> None:
    """Record every type of event at steps 10, 20 and 30."""
    hparams = {"rate": rate, "model": {"layers": 2}, "amp": True, "note": "x"}
    bus = trainwire.open_bus(folder, hparams=hparams, rank=rank, world_size=world_size)
    for step in (10, 20, 30):
        bus.log({"train/loss": 1 / step + rank, "dev/score": step * rate}, step=step)
        bus.scalars("learning_rate", [rate / step, rate], step=step)
        bus.scalars("losses", {"a": float(step), "b/c": -float(step)}, step=step)
        bus.text("note", f"# At {step}\n\n*so* <script>far</script>", step=step)
        bus.table("scores", TABLE, step=step)
        bus.histogram("weights", [0.0, 1.0, 1.0, 2.0], step=step)
        bus.image("picture", np.full((4, 6, 3), MAGENTA, np.uint8), step=step)
        bus.audio("tone", (np.sin(np.arange(800) / 5), 8000), step=step)
    bus.log({"last": 1.0}, step=31)
    bus.close(status=status)


def record_hostile_values(folder: Path) -> None:
    """Record names and values that could break a dashboard, among valid ones."""
    with trainwire.open_bus(folder, hparams={"\n": math.nan, "../x": [1], "deep": {"a": {"b": None}}}) as bus:
        bus.log(dict.fromkeys(HOSTILE_NAMES, 1.0), step=1)
        bus.log({"nan": math.nan, "infinite": math.inf, "large": 1e300}, step=2)
        for name in HOSTILE_NAMES:
            bus.text(name, f"{name}\0\x1b[31m<script>alert(1)</script>", step=3)
            bus.image(name, np.zeros((1, 1), np.uint8), step=4)
        bus.scalars("((", {"[": 1.0, "*": math.nan}, step=5)
        bus.histogram("odd", {
            "edges": [-math.inf, 0.0, math.inf], "counts": [1, 0], "min": -math.inf, "max": math.nan, "sum": math.nan,
            "sum_squares": math.inf,
        }, step=6)  # fmt: skip
        bus.histogram("empty", [], step=6)
        bus.image("no image", b"\x89PNG\r\n\x1a\nnone", step=7)
        bus.image("wrong shape", np.zeros((2, 2, 2, 2, 2)), step=7)
        bus.audio("no sound", b"none", step=7)
        bus.audio("wrong shape", (np.zeros((2, 2, 2)), 8000), step=7)
        bus.table("ragged", {"columns": ["a", "b"], "rows": [[1], [1, 2, 3]]}, step=7)
        bus.table("no columns", {"columns": [], "rows": []}, step=7)
        bus.log({"last": 1.0}, step=8)


@pytest.fixture(scope="module", params=LOADERS)
def board(logs: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    """Start TensorBoard on all runs, and wait until it has read them."""
    events = {
        f"{run}/tensorboard/rank-{rank}": read_events(logs / run, rank)
        for run, rank in (("two-ranks", 0), ("two-ranks", 1), ("failed", 0), ("hostile", 0))
    }
    with tensorboard(logs, load_fast=request.param) as address:
        wait_until(lambda: all(shown(address, run, "last") for run in events), 50)
        wait_until(lambda: [session["status"] for session in sessions(address)].count("STATUS_SUCCESS") == 3)
        yield Board(address, events)


RUNS = ["two-ranks/tensorboard/rank-0", "two-ranks/tensorboard/rank-1", "failed/tensorboard/rank-0"]


def test_each_rank_is_a_run_of_its_own(board: Board) -> None:
    """TensorBoard shows one run for each rank, and no others."""
    assert set(get(board.address, "data/runs")) == set(board.events)


@pytest.mark.parametrize("run", RUNS)
def test_scalars(board: Board, run: str) -> None:
    """Scalars have their value, step and walltime; a `scalars` event has a tag for each label."""
    for name in ("train/loss", "dev/score"):
        found = board.get("scalars", "scalars", run=run, tag=name)
        assert found == [[time, step, pytest.approx(value)] for time, step, value in board.expected(run, name)]
    for name, labels in (("learning_rate", (0, 1)), ("losses", ("a", "b/c"))):
        for label in labels:
            found = board.get("scalars", "scalars", run=run, tag=f"{name}/{label}")
            expected = [[time, step, pytest.approx(value[label])] for time, step, value in board.expected(run, name)]
            assert found == expected


def test_the_tags_of_scalars_share_a_chart(board: Board) -> None:
    """The custom-scalars dashboard has a chart for each `scalars` name, with exactly its tags."""
    (category,) = board.get("custom_scalars", "layout")["category"]
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    assert set(charts) == {"learning_rate", "losses", "(("}
    for run in RUNS:
        found = {}
        for title, (pattern,) in charts.items():
            answer = board.get("custom_scalars", "scalars", run=run, tag=pattern)
            found[title] = {tag: [step for _, step, _ in points] for tag, points in answer["tag_to_events"].items()}
        steps = [10, 20, 30]
        assert found == {
            "learning_rate": {"learning_rate/0": steps, "learning_rate/1": steps},
            "losses": {"losses/a": steps, "losses/b/c": steps}, "((": {},
        }  # fmt: skip


def test_text_and_tables(board: Board) -> None:
    """Text is rendered as Markdown, tables as tables, and HTML in both is escaped."""
    for run in RUNS:
        notes = board.get("text", "text", run=run, tag="note", markdown="true")
        assert [(note["wall_time"], note["step"]) for note in notes] == [
            (time, step) for time, step, _ in board.expected(run, "note")
        ]
        assert "<h1>At 30</h1>" in notes[-1]["text"]
        assert "<em>so</em> &lt;script&gt;" in notes[-1]["text"]
        tables = board.get("text", "text", run=run, tag="scores", markdown="true")
        assert [(table["wall_time"], table["step"]) for table in tables] == [
            (time, step) for time, step, _ in board.expected(run, "scores")
        ]
        cells = ["<th>class</th>", "<th>f|1</th>", "<td>*zero*</td>", "<td>0.5</td>", "&lt;b&gt;one&lt;/b&gt;"]
        assert all(cell in tables[0]["text"] for cell in cells), tables[0]["text"]


def test_histograms(board: Board) -> None:
    """Histograms have their buckets, step and walltime."""
    for run in RUNS:
        found = board.get("histograms", "histograms", run=run, tag="weights")
        expected = board.expected(run, "weights")
        assert [point[:2] for point in found] == [[time, step] for time, step, _ in expected]
        for _, _, buckets in found:
            assert (buckets[0][0], buckets[-1][1]) == (0.0, 2.0)
            assert sum(count for _, _, count in buckets) == 4


def test_images(board: Board) -> None:
    """Images have the bytes that were logged."""
    for run in RUNS:
        found = board.get("images", "images", run=run, tag="picture", sample=0)
        expected = board.expected(run, "picture")
        assert [(image["wall_time"], image["step"]) for image in found] == [(time, step) for time, step, _ in expected]
        data, kind = get_bytes(board.address, f"data/plugin/images/individualImage?{found[-1]['query']}")
        assert (data, kind) == (expected[-1][2]["data"], "image/png")
        assert Image.open(io.BytesIO(data)).getpixel((5, 3)) == MAGENTA


def test_audio(board: Board) -> None:
    """Audio clips have the bytes that were logged."""
    for run in RUNS:
        found = board.get("audio", "audio", run=run, tag="tone", sample=0)
        expected = board.expected(run, "tone")
        assert [(sound["wall_time"], sound["step"]) for sound in found] == [(time, step) for time, step, _ in expected]
        data, kind = get_bytes(board.address, f"data/plugin/audio/individualAudio?{found[-1]['query']}")
        assert (data, kind) == (expected[-1][2]["data"], "audio/wav")
        with wave.open(io.BytesIO(data)) as sound:
            assert (sound.getframerate(), sound.getnframes()) == (8000, 800)


def test_hparams_compares_runs_by_hyperparameters_and_final_metrics(board: Board) -> None:
    """Each run is a trial of all its ranks, with its status and the last value of each metric."""
    experiment = post(board.address, "data/plugin/hparams/experiment", experimentName="")
    assert {"rate", "model/layers", "amp", "note"} <= {info["name"] for info in experiment["hparamInfos"]}
    assert {"train/loss", "dev/score"} <= {info["name"]["tag"] for info in experiment["metricInfos"]}
    trials = {trial["name"].rpartition("-")[0]: trial for trial in trials_of(board.address)}
    assert set(trials) == {"two-ranks", "failed", "hostile"}
    assert trials["failed"]["hparams"] == {"rate": 0.25, "model/layers": 2.0, "amp": True, "note": "x"}
    assert metrics(trials["failed"])["dev/score"] == (7.5, 30)
    assert metrics(trials["two-ranks"])["dev/score"] == (15.0, 30)
    assert metrics(trials["two-ranks"])["train/loss"] == (pytest.approx(1 / 30 + 0.5), 30), "the mean of both ranks"
    found = {session["name"]: session for session in sessions(board.address)}
    assert set(found) == set(board.events)
    for run, session in found.items():
        ((started, _, _),) = board.expected(run, "hparams")
        ended = board.events[run][-1]
        assert session["startTimeSecs"] == started
        assert session["status"] == ("STATUS_UNKNOWN" if ended.name == "run/failed" else "STATUS_SUCCESS")
        assert session["endTimeSecs"] == (0 if ended.name == "run/failed" else ended.walltime)


def trials_of(address: str) -> list[Any]:
    """Return the trials in the table of the HParams dashboard."""
    answer = post(
        address, "data/plugin/hparams/session_groups",
        experimentName="", allowedStatuses=STATUSES, colParams=[], startIndex=0, sliceSize=10,
    )  # fmt: skip
    return list(answer["sessionGroups"])


def sessions(address: str) -> list[Any]:
    """Return the sessions of all trials."""
    return [session for trial in trials_of(address) for session in trial["sessions"]]


def metrics(trial: Any) -> dict[str, tuple[float, int]]:
    """Return value and step of each metric of a trial."""
    return {found["name"]["tag"]: (found["value"], found["trainingStep"]) for found in trial["metricValues"]}


def test_hostile_names_and_values_break_no_dashboard(board: Board) -> None:
    """Each tag of each dashboard can be shown, and invalid values have no tag."""
    run = "hostile/tensorboard/rank-0"
    found = {}
    for dashboard in ("scalars", "text", "histograms", "images", "audio"):
        found[dashboard] = set(board.get(dashboard, "tags").get(run, {}))
        for tag in found[dashboard]:
            assert board.get(dashboard, dashboard, run=run, tag=tag, sample=0, markdown="true"), (dashboard, tag)
    assert {*HOSTILE_NAMES, "last", "nan", "infinite", "large", "((/[", "((/*"} == found["scalars"]
    assert {f"{name} (text)" for name in HOSTILE_NAMES} | {"hparams", "no columns"} == found["text"]
    assert {f"{name} (image)" for name in HOSTILE_NAMES} == found["images"]
    assert found["histograms"] == set()  # one without values is omitted
    assert not found["audio"]


def test_nothing_is_written_outside_the_folder_of_the_run(logs: Path) -> None:
    """The names of events are not used as paths."""
    written = {path.relative_to(logs).parts for path in logs.rglob("*") if "tfevents" in path.name}
    assert written == {
        (run, "tensorboard", f"rank-{rank}", "events.out.tfevents.0000000001.trainwire")
        for run, rank in (("two-ranks", 0), ("two-ranks", 1), ("failed", 0), ("hostile", 0))
    }
    assert {path.name for path in logs.iterdir()} == {"two-ranks", "failed", "hostile"}
    assert not (logs.parent / "escape").exists()
