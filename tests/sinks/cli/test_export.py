"""`trainwire export`: the file contains what was recorded and is not superseded."""

from __future__ import annotations

import base64
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recorder import Recorder, scalar
from support.run_reader import read_events
from support.strategies import events, normal
from support.terminal import run_on_terminal

from trainwire_protocol.events import MEDIA_TYPES, Event
from trainwire_sinks.cli.app import run
from trainwire_sinks.cli.options import Filters, Selection
from trainwire_sinks.export.writer import Format, make_writer
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, sample_run

WriteRun = Callable[..., Path]
Row = dict[str, Any]


def write(form: Format, recorded: Sequence[Event]) -> bytes:
    file = io.BytesIO()
    writer = make_writer(form, file)
    writer.write("run", 3, recorded[:2])
    writer.write("run", 3, recorded[2:])
    writer.close()
    return file.getvalue()


def as_json(value: Any) -> Any:
    """Return the value as it is in JSON: NaN and infinities are strings, bytes are in base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_csv(data: bytes) -> list[list[Any]]:
    rows = csv.reader(io.StringIO(data.decode(), newline=""), quoting=csv.QUOTE_NONNUMERIC)
    assert next(rows) == ["name", "value", "type", "walltime", "step", "rank"]
    return list(rows)


@settings(max_examples=40)
@given(st.lists(events(), min_size=1, max_size=5))
def test_jsonl_contains_what_was_recorded(recorded: list[Event]) -> None:
    """Each line, read back, is the event and its rank."""
    lines = write("jsonl", recorded).decode().split("\n")
    assert lines.pop() == ""
    for line, event in zip(lines, recorded, strict=True):
        assert json.loads(line) == {**event._asdict(), "value": as_json(event.value), "rank": 3}


@settings(max_examples=40)
@given(st.lists(events(), min_size=1, max_size=5))
def test_csv_contains_what_was_recorded(recorded: list[Event]) -> None:
    """Each row, read back by the csv module, is the event, without the apostrophe that may precede a text."""
    for row, event in zip(read_csv(write("csv", recorded)), recorded, strict=True):
        name, value, kind, walltime, step, rank = row
        for text in (name, kind, value):
            assert not (isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")))
        assert (name.removeprefix("'"), kind, walltime, step, rank) == (
            event.name, event.type, event.walltime, float(event.step), 3.0,
        )  # fmt: skip
        if event.type == "scalar":
            assert normal(value) == normal(float(event.value))
        elif event.type == "text":
            assert value.removeprefix("'") == event.value
        else:
            media = {"data": len(event.value["data"])} if event.type in MEDIA_TYPES else None
            expected = {**event.value, **media} if media else event.value
            assert json.loads(value) == as_json(expected)


@settings(max_examples=40)
@given(st.lists(events(), min_size=1, max_size=5))
def test_parquet_contains_what_was_recorded(recorded: list[Event]) -> None:
    """Each row, read back by pyarrow, is the event: a number, a text, bytes, or a value as JSON."""
    rows = pq.read_table(io.BytesIO(write("parquet", recorded))).to_pylist()
    for row, event in zip(rows, recorded, strict=True):
        assert [row[field] for field in ("name", "type", "walltime", "step", "rank")] == [
            event.name, event.type, event.walltime, event.step, 3,
        ]  # fmt: skip
        value: Any = row["text"] if event.type == "text" else row["value"]
        if event.type == "scalar" and row["text"] is not None:
            value = int(row["text"])
        elif event.type not in ("scalar", "text"):
            value = json.loads(row["text"])
        if row["data"] is not None:
            value["data"] = base64.b64encode(row["data"]).decode()
        wanted = event.value if event.type in ("scalar", "text") else as_json(event.value)
        assert normal(value) == normal(wanted)


def test_parquet_is_written_in_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group ends when it has enough rows or bytes, so that only one is held in memory."""
    from trainwire_sinks.export import parquet_file

    monkeypatch.setattr(parquet_file, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(parquet_file, "ROW_GROUP_BYTES", 100)
    light = pq.ParquetFile(io.BytesIO(write("parquet", [scalar(number) for number in range(25)])))
    assert [light.metadata.row_group(number).num_rows for number in range(3)] == [10, 10, 5]
    texts = [Event("note", "x" * 60, "text", 1.0, 1) for _ in range(5)]
    heavy = pq.ParquetFile(io.BytesIO(write("parquet", texts)))
    assert [heavy.metadata.row_group(number).num_rows for number in range(3)] == [2, 2, 1]


def exported(capfdbinary: Any, *arguments: object) -> tuple[int, list[Row], str]:
    """Export lines of JSON to standard output; returns the exit code, the lines, and standard error."""
    code = run(["export", *map(str, arguments), "--format", "jsonl"])
    sys.stdout.flush()
    captured = capfdbinary.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err.decode()


def test_a_resumed_run_is_exported_without_superseded_events(write_run: WriteRun, capfdbinary) -> None:
    """Superseded events are left out, media are included, and the order is that of the record."""
    folder = write_run(sample_run(), is_over=False)
    code, rows, _ = exported(capfdbinary, folder)
    assert code == 0
    losses = [row["value"] for row in rows if row["name"] == "train/loss"]
    assert losses == [0.5, 0.25, 0.125]
    assert {"image", "audio", "hologram"} <= {row["type"] for row in rows}
    mark = next(row for row in rows if row["name"] == "run/resumed")["value"]["from"]["seq"]
    kept = [*read_events(folder, attempt=0)[: mark + 1], *read_events(folder, attempt=1)]
    assert rows == [{**event._asdict(), "value": as_json(event.value), "rank": 0} for event in kept]


def test_filters(write_run: WriteRun, capfdbinary) -> None:
    """Patterns of names, types and steps can be combined."""
    folder = write_run(sample_run(), is_over=False)

    def names(*arguments: object) -> set[str]:
        code, rows, _ = exported(capfdbinary, folder, *arguments)
        assert code == 0
        return {row["name"] for row in rows}

    assert names("--name", "train/*", "--name", "note") == {"train/batch_loss", "train/loss", "note"}
    assert names("--type", "text", "--type", "table") == {"note", "scores"}
    assert names("--type", "scalar", "--name", "*loss*") == {"train/batch_loss", "train/loss"}
    assert names("--from-step", 1, "--type", "scalar", "--name", "[do]*") == {"dev/micro avg/f1-score"}
    assert names("--from", 1, "--type", "hparams", "--type", "scalar", "--name", "*/loss") == {"train/loss"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "trian/*"], "matches --name 'trian/*'; recorded names: run/started, hparams, odd/nan"),
        (["--type", "histogram", "--from", "1"], "matches --type histogram --from-step 1"),
        (["--name", "a\n\x1b[31m"], r"a\\n\\x1b[31m"),
    ],
)
def test_no_match_is_an_error(tmp_path: Path, write_run: WriteRun, capsys, arguments: list[str], message: str) -> None:
    """If nothing matches, the exit code is 7, and no file is created or replaced."""
    (tmp_path / "old.csv").write_text("old")
    for name in ("old.csv", "new.csv"):
        assert run(["export", str(write_run(sample_run(), is_over=False)), *arguments, "-o", str(tmp_path / name)]) == 7
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv", "run"]
    assert (tmp_path / "old.csv").read_text() == "old"


def test_a_pattern_without_a_match_is_reported(write_run: WriteRun, capfdbinary) -> None:
    """If one of two patterns matches nothing, the other's events are exported and the first is reported."""
    code, rows, message = exported(capfdbinary, write_run(sample_run()), "--name", "note", "--name", "nope")
    assert (code, [row["name"] for row in rows]) == (0, ["note"])
    assert message == "trainwire: no event's name matches 'nope'\n"


def test_a_dash_is_standard_output(tmp_path: Path, write_run: WriteRun, capfdbinary, monkeypatch) -> None:
    """`-o -` writes to standard output and creates no file of that name."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(sample_run())
    assert exported(capfdbinary, folder, "-o", "-") == exported(capfdbinary, folder)
    assert not (tmp_path / "-").exists()


def test_the_output_name_determines_the_format(tmp_path: Path, write_run: WriteRun, capsys) -> None:
    """The suffix determines the format unless --format is given; an unknown suffix is an error."""
    folder = str(write_run([Recorder().scalars(4)]))
    for name in ("a.csv", "a.jsonl", "a.parquet", "a"):
        assert run(["export", folder, "-o", str(tmp_path / name)]) == 0
    assert run(["export", folder, "-o", str(tmp_path / "b.csv"), "--format", "parquet"]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.parquet").read_bytes()
    assert run(["export", folder, "-o", str(tmp_path / "a.xls")]) == ExitCode.USAGE
    assert "a.xls is unknown: add --format csv, jsonl or parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "--format", "xls"], ExitCode.USAGE, '"csv", "jsonl", "parquet"'),
        (["RUN", "--type", "scaler"], ExitCode.USAGE, '"scalar"'),
        (["RUN", "--from-step", "soon"], ExitCode.USAGE, "--from"),
        (["RUN", "--rank", "x"], ExitCode.USAGE, "--rank must be a number, 0 or more"),
        (["RUN", "--rank", "7"], ExitCode.USAGE, "no run of rank 7"),
        (["RUN", "-o", "--type", "scalar"], ExitCode.USAGE, "-o needs a file, and --type looks like an option"),
        (["RUN", "-o", "--verbos"], ExitCode.USAGE, "-o needs a file, and --verbos looks like an option"),
        (["RUN", "-o", "."], ExitCode.OUTPUT, "cannot write ."),
        (["RUN", "-o", "/no/such/folder/a.csv"], ExitCode.OUTPUT, "/no/such/folder/a.csv"),
        (["EMPTY"], ExitCode.USAGE, "no run of rank 0"),
        (["EMPTY", "--rank", "all"], ExitCode.USAGE, "no run in"),
        (["ipc:///nobody", "--rank", "all"], ExitCode.USAGE, "--rank all needs the run's folder"),
    ],
)
def test_errors(
    tmp_path: Path, write_run: WriteRun, capsys, arguments: list[str], code: ExitCode, message: str
) -> None:
    """Each error is one line on standard error, nothing on standard output, and its exit code."""
    places = {"RUN": str(write_run([Recorder().scalars(4)])), "EMPTY": str(tmp_path)}
    assert run(["export", *(places.get(word, word) for word in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_an_incomplete_record_is_exported_and_reported(tmp_path: Path, write_run: WriteRun, capsys) -> None:
    """The events that exist are exported, and the exit code says that some are missing."""
    recorder = Recorder()
    batches = [recorder.scalars(10) for _ in range(3)]
    folder = write_run([batches[0], batches[2]])
    assert run(["export", str(folder), "-o", str(tmp_path / "a.csv")]) == ExitCode.INCOMPLETE
    assert len(read_csv((tmp_path / "a.csv").read_bytes())) == 20
    assert "is missing events" in capsys.readouterr().err


def test_all_ranks_are_exported_to_one_file(write_run: WriteRun, capfdbinary) -> None:
    """`--rank all` writes one rank after the other, with the rank in its own column."""
    folder = write_run([Recorder().scalars(4)])
    write_run([Recorder(rank=2).scalars(3)])
    _, rows, _ = exported(capfdbinary, folder, "--rank", "all")
    assert [row["rank"] for row in rows] == [0] * 4 + [2] * 3


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_several_runs_are_exported_with_a_run_column(tmp_path: Path, write_run: WriteRun, form: str) -> None:
    """The run is the last column: the name of its folder, or the TARGET if two folders have the same name."""
    folders = [tmp_path / "a" / "first", tmp_path / "b" / "second", tmp_path / "c" / "first"]
    for count, folder in enumerate(folders, start=1):
        write_run([Recorder().scalars(count)], folder)

    def runs(*chosen: Path) -> list[str]:
        output = tmp_path / f"all.{form}"
        assert run(["export", *map(str, chosen), "-o", str(output)]) == 0
        if form == "csv":
            header, *rows = csv.reader(output.read_text().splitlines())
            return [row[header.index("run")] for row in rows]
        if form == "jsonl":
            return [json.loads(line)["run"] for line in output.read_text().splitlines()]
        return pq.read_table(output).column("run").to_pylist()

    assert runs(*folders[:2]) == ["first", "second", "second"]
    assert runs(*folders) == [str(folders[0]), *[str(folders[1])] * 2, *[str(folders[2])] * 3]


def test_a_closed_pipe_ends_the_export(write_run: WriteRun, trainwire) -> None:
    """If the reader closes the pipe, as `head` does, the export ends without a message."""
    recorder = Recorder()
    folder = write_run([recorder.scalars(2000) for _ in range(20)])
    process = trainwire("export", folder)
    assert process.stdout.readline().startswith('"name"')
    process.stdout.close()
    assert process.wait(20) == ExitCode.BROKEN_PIPE
    assert process.stderr.read() == ""


def test_output_on_a_terminal(write_run: WriteRun) -> None:
    """On a terminal, control characters are escaped, parquet is refused, and a progress bar is shown."""
    folder = write_run(sample_run())

    def on_terminal(*arguments: object) -> str:
        command = [sys.executable, "-m", "trainwire_sinks", "export", folder, *arguments]
        return run_on_terminal(command, "stdin", "stdout", "stderr")[1]

    shown = on_terminal("--name", "*odd*", "--type", "scalar")
    assert r"dev/odd\tname\n\x1b[31m" in shown
    assert "\x1b[31m" not in shown
    assert "parquet cannot be written to a terminal" in on_terminal("--format", "parquet")
    assert "exporting" in on_terminal("-o", folder / "a.csv")


@settings(max_examples=40)
@given(st.lists(events(), max_size=6), st.sets(st.sampled_from(["scalar", "text", "image"])), st.integers(-2, 2))
def test_a_selection_reads_the_channels_that_it_needs(recorded: list[Event], types: set[Any], step: int) -> None:
    """A selection yields the events of its types and steps in order, and reads media only if they may match."""
    selection = Selection(Filters(type=list(types)), step)
    wanted = [event for event in recorded if (not types or event.type in types) and event.step >= step]
    assert list(selection.select(recorded)) == wanted
    assert ("media" in selection.channels) == (types != {"scalar"})
    assert selection.count == len(wanted)


def test_only_parquet_needs_pyarrow(tmp_path: Path, write_run: WriteRun) -> None:
    """Without pyarrow, csv is exported, and parquet is an error that names the extra."""
    script = (
        "import sys; sys.modules['pyarrow'] = None; from trainwire_sinks.cli.app import run\n"
        "print(run(['export', sys.argv[1], '-o', 'a.csv']), run(['export', sys.argv[1], '-o', 'a.parquet']))"
    )
    folder = write_run(record([[scalar(1)]]))
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "0 2\n"
    assert "pip install 'trainwire[parquet]'" in done.stderr
