"""Events that TensorBoard may not be able to show."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import events

pytest.importorskip("tensorboard")
pytest.importorskip("google_crc32c")

from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from trainwire_sinks import Event
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.tensorboard.index import HPARAMS_START, LAYOUT, MAX_CHARTED, Index
from trainwire_sinks.tensorboard.records import RecordEncoder
from trainwire_sinks.testing.check_sink import record, run_sink

NAMES = [
    "../../../etc/passwd",
    "/abs/olute",
    "a\nb",
    "\x1b]0;title\x07",
    "tab\tand\0nul",
    "x" * 512,
    "ü" * 256,
    ".",
    "//",
]


def event(name: str, value: Any, kind: str = "scalar", step: int = 1) -> Event:
    return Event(name, value, kind, 1.75e9 + step, step)


def load(folder: Path, *attempts: Sequence[Event]) -> EventAccumulator:
    """Run the sink on attempts, each a list of events, and load its output with TensorBoard."""
    run_sink(TensorBoard, folder, record(*([found] for found in attempts)))
    return EventAccumulator(str(folder / "tensorboard" / "rank-0"), {"tensors": 0}).Reload()


def kinds(accumulator: EventAccumulator) -> dict[str, str]:
    """Return the dashboard of each tag."""
    return {tag: found.plugin_data.plugin_name for tag, found in accumulator.AllSummaryMetadata().items()}


def picture(form: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, form)
    return file.getvalue()


def sound() -> bytes:
    return b"RIFF\x24\0\0\0WAVEfmt "


@given(st.lists(events(), max_size=3), st.integers(0, 3))
def test_any_events_become_records(found: list[Event], place: int) -> None:
    """No event raises, and an encoder resumed from its state returns the same bytes."""
    whole, first = RecordEncoder({}), RecordEncoder({})
    before = first.encode(found[:place], "run", 0)
    assert whole.encode(found[:place], "run", 0) == before
    state = json.dumps(first.state())
    second = RecordEncoder(json.loads(state))
    after = second.encode(found[place:], "run", len(before))
    assert whole.encode(found[place:], "run", len(before)) == after
    assert json.dumps(second.state()) == json.dumps(whole.state())


def test_any_name_is_a_tag(tmp_path: Path) -> None:
    """Whatever the names are, only the run's own files are written."""
    folder = tmp_path / "deep" / "run"
    accumulator = load(folder, [event(name, n) for n, name in enumerate(NAMES)])
    assert sorted(accumulator.Tags()["tensors"]) == sorted(NAMES)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    own = {"deep/run/tensorboard/rank-0/events.out.tfevents.0000000001.trainwire"}
    assert own <= files
    assert all(name.startswith("deep/run/.trainwire/tensorboard-rank0.") for name in files - own)


def test_a_name_with_several_types_has_a_tag_for_each(tmp_path: Path) -> None:
    """Values of another type than the first with a name get a tag of their own."""
    accumulator = load(
        tmp_path,
        [
            event("x", 1.0), event("x", "words", "text"), event("x (text)", 2.0), event("x", "more", "text"),
            event("x", {"data": picture(), "format": "png"}, "image"), event("y/0", "words", "text"),
            event("y", [1.0], "scalars"), event("x", {"columns": ["a"], "rows": []}, "table"),
        ],
    )  # fmt: skip
    assert kinds(accumulator) == {
        "x": "scalars", "x (text)": "text", "x (text) (scalar)": "scalars", "x (image)": "images",
        "x (table)": "text", "y/0": "text", "y/0 (of scalars y)": "scalars", LAYOUT: "custom_scalars",
    }  # fmt: skip
    assert len(accumulator.Tensors("x (text)")) == 2
    assert patterns(accumulator) == {"y": r"^(?:y/0\ \(of\ scalars\ y\))$"}


def test_two_series_never_share_a_tag(tmp_path: Path) -> None:
    """Series that TensorBoard would show as one keep their own values: one value at each step for each tag."""
    accumulator = load(
        tmp_path,
        [
            event("loss", {"train/all": 1.0, "dev": 2.0}, "scalars"), event("loss/train", {"all": 3.0}, "scalars"),
            event("loss/dev", 4.0), event("hparams", "words", "text"), event("hparams", {"lr": 0.1}, "hparams"),
            event("loss", {"train/all": 5.0, "dev": 6.0}, "scalars", step=2),
        ],
    )  # fmt: skip
    tags = [tag for tag, kind in kinds(accumulator).items() if kind == "scalars"]
    points = {tag: [(point.step, *point.tensor_proto.float_val) for point in accumulator.Tensors(tag)] for tag in tags}
    assert points == {
        "loss/train/all": [(1, 1.0), (2, 5.0)],
        "loss/dev": [(1, 2.0), (2, 6.0)],
        "loss/train/all (of scalars loss/train)": [(1, 3.0)],
        "loss/dev (scalar)": [(1, 4.0)],
    }
    assert [len(accumulator.Tensors(tag)) for tag in ("hparams", "hparams (table of hparams)")] == [1, 1]


def test_no_event_uses_a_reserved_tag(tmp_path: Path) -> None:
    """An event named like a tag that TensorBoard reserves gets another tag."""
    found = [event(name, "words", "text") for name in (LAYOUT, HPARAMS_START)]
    accumulator = load(tmp_path, [*found, event("hparams", {"a": 1}, "hparams"), event("s", [1, 2], "scalars")])
    assert kinds(accumulator) == {
        f"{LAYOUT} (text)": "text", f"{HPARAMS_START} (text)": "text", HPARAMS_START: "hparams", "hparams": "text",
        "s/0": "scalars", "s/1": "scalars", LAYOUT: "custom_scalars",
    }  # fmt: skip


def patterns(accumulator: EventAccumulator) -> dict[str, str]:
    """Return the pattern of tags of each chart."""
    layout = Layout.FromString(accumulator.Tensors(LAYOUT)[-1].tensor_proto.string_val[0])
    return {chart.title: chart.multiline.tag[0] for category in layout.category for chart in category.chart}


def test_a_chart_shows_the_tags_of_its_event_and_no_others(tmp_path: Path) -> None:
    """A chart matches exactly the tags of its event, whatever their labels and whenever they were added."""
    accumulator = load(
        tmp_path,
        [event("loss", {"a.b": 1, "c|d": 2, "e\n": 3}, "scalars"), event("rate", [1, 2], "scalars")],
        [resumed(), event("loss", {"a.b": 1, "new": 2}, "scalars", step=9), event("loss/other", 1.0)],
    )
    found = patterns(accumulator)
    tags = accumulator.Tags()["tensors"]
    shown = {chart: {tag for tag in tags if re.match(found[chart], tag)} for chart in found}
    assert shown == {"loss": {"loss/a.b", "loss/c|d", "loss/e\n", "loss/new"}, "rate": {"rate/0", "rate/1"}}


def resumed() -> Event:
    return Event("run/resumed", {"from": {"attempt": 0, "seq": -1}, "from_step": 0}, "lifecycle", 1.76e9, 0)


def test_a_resumed_run_keeps_its_charts(tmp_path: Path) -> None:
    """The new file has the layout too, because the loader discards what it has read."""
    accumulator = load(tmp_path, [event("rate", [1, 2], "scalars")], [resumed(), event("rate", [1, 2], "scalars")])
    assert len(accumulator.Tensors("rate/0")) == 1
    assert patterns(accumulator) == {"rate": "^(?:rate/0|rate/1)$"}


def test_charts_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Tags beyond the limit are not charted, because each new tag rewrites the layout."""
    index = Index({})
    for number in range(MAX_CHARTED // 1000 + 9):
        index.chart(f"chart {number}", [f"{number:01000d}"])
    assert len(index.charts) == MAX_CHARTED // 1000
    assert caplog.text.count("charts are full") == 1


def test_an_empty_event_has_no_chart(tmp_path: Path) -> None:
    """A list or map without numbers leads to no tag."""
    accumulator = load(tmp_path, [event("a", [], "scalars"), event("b", {}, "scalars"), event("c", 1)])
    assert accumulator.Tags()["tensors"] == ["c"]


@pytest.mark.parametrize(
    ("form", "shown_as"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("GIF", "GIF"), ("BMP", "BMP"), ("WEBP", "PNG")]
)
def test_images_are_written_as_tensorboard_shows_them(tmp_path: Path, form: str, shown_as: str) -> None:
    """An image is written with its size, unchanged, or as PNG if TensorBoard does not show its format."""
    data = picture(form)
    accumulator = load(tmp_path, [event("i", {"data": data, "format": form.lower()}, "image", step=3)])
    (found,) = accumulator.Tensors("i")
    width, height, written = found.tensor_proto.string_val
    assert (found.step, found.wall_time, width, height) == (3, 1.75e9 + 3, b"6", b"4")
    assert Image.open(io.BytesIO(written)).format == shown_as
    assert written == data or form == "WEBP"


def huge() -> bytes:
    """Return a PNG of a few bytes that claims more pixels than fit into memory."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


BROKEN = {
    "empty map": b"\0", "magic alone": b"\x89PNG\r\n\x1a\n", "cut": picture(size=(200, 200))[:60], "huge": huge(),
    "flipped": picture().replace(b"IDAT", b"IDAS"), "svg": b"<svg onload='x'/>", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "sound": sound(),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_is_reported_and_omitted(tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """It is reported once for its name, and the events around it are written."""
    broken = event("bad", {"data": BROKEN[what], "format": "png"}, "image", step=2)
    good = event("good", {"data": picture(), "format": "png"}, "image", step=2)
    accumulator = load(tmp_path, [event("loss", 1.0), broken, good, broken, event("loss", 0.5, step=3)])
    assert set(accumulator.Tags()["tensors"]) == {"loss", "good"}
    assert [point.step for point in accumulator.Tensors("loss")] == [1, 3]
    reported = [line.getMessage() for line in caplog.records if "omits" in line.getMessage()]
    assert len(reported) == 1
    assert "the image 'bad' of step 2" in reported[0]


def test_only_wav_sounds_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sound in another format is reported and omitted."""
    accumulator = load(
        tmp_path,
        [
            event("good", {"data": sound(), "format": "wav"}, "audio"),
            event("bad", {"data": b"ID3\x04", "format": "mp3"}, "audio"),
        ],
    )
    assert kinds(accumulator) == {"good": "audio"}
    assert accumulator.Tensors("good")[0].tensor_proto.string_val == [sound()]
    assert "the audio 'bad' of step 1" in caplog.text
