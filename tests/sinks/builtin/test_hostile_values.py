"""Every sink, on a run whose names and values were chosen to break it."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.nats_servers import nats_servers
from support.recorder import Recorder

from trainwire_protocol.environment import sink_names
from trainwire_protocol.errors import MissingExtraError
from trainwire_protocol.events import EVENT_TYPES, LIFECYCLE_NAMES, MEDIA_TYPES
from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.registry import find_sink

OUTSIDE = "outside"
"""A folder beside the run's that some names point to."""

NAMES = [
    f"../../{OUTSIDE}/evil", f"../{OUTSIDE}/evil", f"dev/../../../{OUTSIDE}/evil", f"weights/../../{OUTSIDE}/evil",
    ".", "..", "/", "//", "a//b", "dev/", " ", "\x00", "\r", "a\nb", "dev/a\tb\nc", "\x1b[31mred", "\x1b]0;title\x07",
    "dev/\x9b31m", "dev/\u202eevil", "\u2028", "%s%n{0}{x}$(x)`x`", "<script>alert(1)</script>", "' OR 1=1 --",
    '"', "\\", "x" * 512, "dev/" + "é" * 254, "dev/" + "/" * 500, "损失", "__name__", "epoch", "train/loss",
    "learning_rate", "_hparams_/session_start_info",
]  # fmt: skip

NO_NAMES: list[Any] = ["", "x" * 513, None, 5, b"train/loss", ["a"]]

HISTOGRAM = {"edges": [0.0, 1.0], "counts": [3], "min": 0.0, "max": 1.0, "sum": 1.0, "sum_squares": 1.0}

FITTING: dict[str, list[Any]] = {
    "scalar": [math.nan, math.inf, -math.inf, 2**64 - 1, -(2**63), 1e308, 5e-324, -0.0],
    "scalars": [[], {}, [math.nan] * 3, {"": 1, "\x1b[31m\n": math.inf, "../../evil": 2**63, "x" * 2000: 0.5}],
    "text": ["", "\x1b[2J\x1b[31m", "a\r\nb\x00", "<script>alert(1)</script>", "x" * 100_000, "\u202e\u2028"],
    "histogram": [
        HISTOGRAM | {"edges": [0.0], "counts": []}, HISTOGRAM | {"edges": [1.0, 1.0], "counts": [0]},
        HISTOGRAM | {"edges": [-math.inf, math.inf], "min": math.nan, "max": math.inf, "counts": [2**63]},
        HISTOGRAM | {"counts": [-5]}, HISTOGRAM | {"extra": [[[b"x"]]]},
    ],
    "image": [
        {"data": b"no image", "format": "png"}, {"data": b"\x89PNG\r\n\x1a\n", "format": "png", "width": "x"},
        {"data": b"GIF89a", "format": f"../../{OUTSIDE}/evil"},
        {"data": b"x", "format": "", "width": -1, "height": 1e99},
    ],
    "audio": [
        {"data": b"no sound", "format": "wav"}, {"data": b"RIFF", "format": "\x1b[31m\n", "sample_rate": "fast"},
        {"data": b"x", "format": "wav", "sample_rate": -1, "channels": 2**63, "frames": math.nan},
    ],
    "table": [
        {"columns": [], "rows": []}, {"columns": ["a", "a", "\n|\x1b[31m"], "rows": [[None, [1, {"x": b"y"}], "|\n"]]},
        {"columns": ["a"], "rows": [[]] * 0}, {"columns": [], "rows": [[], []]},
    ],
    "hparams": [
        {}, {"": None, "\x1b[31m\n": "\x1b[31m\n", f"../{OUTSIDE}/evil": [[{}]], "b": b"\x00"},
        {"n": math.nan, "i": 2**64 - 1},
    ],
    "summary": [
        {"format": "summary", "data": b"\xff no value"},
        {"format": "summary", "data": b"", "run": f"../{OUTSIDE}/evil"},
        {"format": "summary", "data": b"\n\x01x\x15\x00\x00\x80?", "run": f"../../{OUTSIDE}/evil\x00"},
        {"format": "summary", "data": b"\n\x01x\x15\x00\x00\x80?", "run": "x" * 3000 + "/" + "é" * 3000},
        {"format": "file", "data": b"x", "path": f"../../{OUTSIDE}/evil"},
        {"format": "file", "data": b"x", "path": "/"}, {"format": "file", "data": b"", "path": "\x00"},
        {"format": "file", "data": b"x", "path": "events.out.tfevents.0000000001.trainwire"},
        {"format": "file", "data": b"x"}, {"format": "file", "data": b"x", "path": "a"},
        {"format": "file", "data": b"x", "path": "a/b", "offset": 2**62},
        {"format": "file", "data": b"x", "path": "c", "offset": 2**62},
        {"format": "summary", "data": b"\n\x01x\x15\x00\x00\x80?", "run": "a/c"},
        {"format": "graph_def", "data": b"\xff"}, {"format": "session_log", "data": b"\xff"},
        {"format": "run_metadata", "data": b"\xff", "plugin": "\x1b[31m"},
        {"format": "hologram", "data": b"", "a": [[]]},
        {"format": "template", "data": b"\xff", "type": "scalar"}, {"format": "template", "data": b"", "type": "log"},
        {"format": "template", "data": b"\n\x01x", "type": "image", "run": f"../{OUTSIDE}"},
    ],
    "log": [
        {"level": "", "logger": "", "message": ""}, {"level": "\x1b[31m\n", "logger": "\n", "message": "\r\x1b[2J"},
        {"level": "ERROR", "logger": "a", "message": "b", "exception": 5, "source": [b"x"]},
        {"level": "CRITICAL", "logger": "x" * 600, "message": "y" * 100_000, "exception": "\x1b[31m\r\n\n\x00"},
    ],
    "lifecycle": [{}, {"": 1}, {"event": "x", "epoch": "\x1b[31m\n"}],
    "hologram": [None, [], {"a": b"x"}],
    "\x1b[31m": [1.0],
}  # fmt: skip
"""Values that the wire's specification allows for each type, and some types that it does not know."""

MISFITS: list[Any] = [
    None, True, "x", b"x", [], {}, 5, [[]], ["x"], [None], {"a": "x"}, 1.5, {"data": 5, "format": "png"},
    {"data": b"", "format": "png"}, {"edges": [2, 1], "counts": [1]}, {"edges": [1], "counts": [1]},
    {"columns": ["a"], "rows": [[1, 2]]}, {"columns": ["a"], "rows": 5}, {"columns": 5, "rows": []},
    {"level": 5, "logger": "a", "message": "b"}, {"format": "file", "data": b"", "path": 5}, [[[[[[[[[[1]]]]]]]]]],
]  # fmt: skip
"""Values that are malformed for some types."""

FIELDS = (
    "epoch", "metrics", "seconds", "max_epochs", "complete", "bad_epochs", "split", "path", "kind", "metric", "score",
    "from", "to", "reason", "run", "rank", "world_size", "last_seq", "first_seq", "step", "from_step", "verb", "count",
    "dropped", "plugin", "error", "mark", "steps", "batches", "event", "name", "value",
)  # fmt: skip
"""Fields of lifecycle events, which may have any value."""

ODD_FIELDS: list[Any] = [
    None, "\x1b[31m\n", [1, "x"], {"a": {"b": 1}, "\n": math.nan, "train/loss": "x"}, -1, math.nan, 2**64 - 1, b"\xff",
    True, f"../../{OUTSIDE}/evil", {"attempt": "x"}, {"train/loss": [1, 2], "dev/loss": None, "learning_rate": {}},
]  # fmt: skip


UNREADABLE = (
    b"", b"\xc1", msgpack.packb([{1: 2}]), b"\x93\x01\x02\x03", b"\xdd\xff\xff\xff\xff", bytes(range(256)),
)  # fmt: skip
"""Bodies of batches that are not lists of events."""


def events() -> Iterator[Event]:
    """Yield an event for each name and value, at unusual times and steps."""
    places = itertools.cycle(itertools.product((0.0, 1.75e9, -1e300, 1e300), (0, -(2**63), 2**63 - 1)))
    named = itertools.cycle(NAMES)
    for kind, values in FITTING.items():
        for value in values:
            yield Event(next(named), value, kind, *next(places))
    for name in NAMES:
        yield Event(name, 1.0, "scalar", *next(places))
        yield Event(name, "text", "text", *next(places))
    for kind, value in itertools.product(sorted(EVENT_TYPES), MISFITS):
        yield Event("train/loss", value, kind, *next(places))
    for name, value in itertools.product(sorted(LIFECYCLE_NAMES - {"run/resumed"}), ODD_FIELDS):
        yield Event(name, dict.fromkeys(FIELDS, value), "lifecycle", *next(places))
    for nothing in NO_NAMES:
        yield Event(nothing, 1.0, "scalar", *next(places))
    for wrong in ("now", None, math.nan, math.inf):
        yield Event("train/loss", 1.0, "scalar", wrong, 0)  # type: ignore[arg-type]  # invalid on purpose
        yield Event("train/loss", 1.0, "scalar", 0.0, wrong)  # type: ignore[arg-type]


def hostile_run() -> list[Batch]:
    """Return the events in batches, some of which cannot be decoded, with a regular epoch at the end."""
    recorder = Recorder("hostile")
    batches = [recorder.happened("run/started", run="hostile", rank=0, world_size=1)]
    # Each is in a batch of its own, so that a bad one does not hide the others.
    batches += [recorder.record([event], "media" if event.type in MEDIA_TYPES else "event") for event in events()]
    for body in UNREADABLE:
        spoiled = recorder.scalars()
        batches.append(Batch(spoiled.header, spoiled.header_bytes, body))
    batches.append(recorder.record([Event("train/loss", 0.5, "scalar", 1.75e9, 7)]))
    batches.append(recorder.happened("epoch/finished", epoch=777, metrics={"train/loss": 0.5}))
    return [*batches, recorder.happened("run/finished", last_seq=recorder.seq)]


def _check_json(path: Path) -> None:
    for line in path.read_bytes().splitlines():
        json.loads(line)


def _check_table(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len({len(row) for row in rows}) == 1
    _check_lines(path)


def _check_lines(path: Path) -> None:
    text = path.read_text()
    assert all(part.isprintable() for line in text.split("\n") for part in line.split("\t"))


def _check_event_file(path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    assert len(list(LegacyEventFileLoader(str(path)).Load())) > 0


CHECKS: dict[str, Callable[[Path], object]] = {
    ".jsonl": _check_json, ".tsv": _check_table, ".log": _check_lines, ".txt": _check_lines,
    ".trainwire": _check_event_file, "": Path.read_bytes,
}  # fmt: skip
"""The check that a file can still be parsed, by the suffix of its name."""


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create folders in which nothing may be written: the working directory, the home, and the one names point to."""
    place = tmp_path / "surroundings"
    for name in ("cwd", "home", OUTSIDE):
        (place / name).mkdir(parents=True)
    monkeypatch.chdir(place / "cwd")
    monkeypatch.setenv("HOME", str(place / "home"))
    return place


@contextmanager
def _options_of(name: str, folders: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Yield the options that a sink needs to run here."""
    if name != "nats":
        yield ["--port", "0"] if name == "prometheus" else []
        return
    with nats_servers(folders.mktemp("nats")) as servers:
        yield ["--server", servers[0].url]


@pytest.mark.parametrize("name", sink_names())
def test_a_sink_reads_to_the_end(
    name: str,
    surroundings: Path,
    write_run: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It reads to the end, writes only into the run's folder, and leaves readable files and a readable terminal."""
    try:
        find_sink(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    batches = hostile_run()
    folder = write_run(batches, surroundings / "runs" / "hostile")
    before = set(surroundings.rglob("*"))
    with _options_of(name, tmp_path_factory) as options:
        assert run(["sink", name, str(folder), *options]) == 0, capfd.readouterr().err
    _check_end(folder, name, batches[-1])
    written = {path for path in set(surroundings.rglob("*")) - before if path.is_file()}
    assert all(path.resolve().is_relative_to(folder) for path in written)
    for path in written:
        if ".trainwire" not in path.parts:
            CHECKS[path.suffix](path)
    captured = capfd.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))
    assert "retrying" not in captured.err


def _check_end(folder: Path, name: str, last: Batch) -> None:
    commit = CursorFile(folder, name, 0).load()
    assert commit is not None
    assert commit.point.cursor == last.cursor
