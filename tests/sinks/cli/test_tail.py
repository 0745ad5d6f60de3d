"""`trainwire tail`: the last events of a run, and new ones."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from support.publisher import Publisher
from support.publisher import run as run_coroutine
from support.recorder import Recorder
from support.run_reader import read_events
from support.strategies import events

from trainwire_protocol.events import Event
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import sample_run
from trainwire_sinks.text.event_lines import MAX_VALUE_CHARACTERS, format_event

WriteRun = Callable[..., Path]
Trainwire = Callable[..., subprocess.Popen[str]]
Tail = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def tail(capsys: pytest.CaptureFixture[str]) -> Tail:
    """Runs `trainwire tail --json` and returns its lines."""

    def call(*arguments: object) -> list[dict[str, Any]]:
        assert run(["tail", *map(str, arguments), "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_the_last_events_are_printed(write_run: WriteRun, tail: Tail) -> None:
    """The last ten events, or --lines many, are printed in order, across attempts and without superseded ones."""
    folder = write_run(sample_run(), is_over=False)
    everything = tail(folder, "--from", "start")
    assert tail(folder) == everything[-10:]
    assert tail(folder, "-n", 3) == everything[-3:]
    assert tail(folder, "--lines", 1000) == everything
    assert len(everything) < len(read_events(folder))
    assert [row["value"] for row in everything if row["name"] == "train/loss"] == [0.5, 0.25, 0.125]


def test_filters_are_applied_before_lines_are_counted(write_run: WriteRun, tail: Tail) -> None:
    """The last events are the last of the selected ones, however far back they are."""
    folder = write_run(sample_run(), is_over=False)
    assert [row["value"] for row in tail(folder, "--name", "train/loss", "-n", 2)] == [0.25, 0.125]
    assert [row["name"] for row in tail(folder, "--type", "histogram")] == ["weights"]
    assert [row["value"] for row in tail(folder, "--from", 5, "--name", "train/l*")] == [0.25, 0.125]


def test_ranks_are_labelled(write_run: WriteRun, tail: Tail, capsys) -> None:
    """`--rank all` prints the last events of each rank, with the rank before each line."""
    folder = write_run([Recorder().scalars(4)])
    write_run([Recorder(rank=1).scalars(4)])
    assert [row["rank"] for row in tail(folder, "--rank", "all", "-n", 2)] == [0, 0, 1, 1]
    assert run(["tail", str(folder), "--rank", "all", "-n", "1"]) == 0
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()] == ["rank 0", "rank 1"]


def test_following_prints_new_events(tmp_path: Path, trainwire: Trainwire) -> None:
    """The last events are printed, then each new one as it is published, until the run is over."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(20)
            process = trainwire("tail", publisher.folder, "--follow", "-n", 2, "--name", "train/*", "--json")
            lines = [await next_line(process) for _ in range(2)]
            publisher.scalars(3)
            lines += [await next_line(process) for _ in range(3)]
            publisher.end()
            assert await asyncio.to_thread(process.wait, 20) == 0
            assert [line["step"] for line in lines] == [18, 19, 20, 21, 22]
            assert process.stdout.read() == process.stderr.read() == ""

    run_coroutine(main())


def test_from_now_prints_new_events_only(tmp_path: Path, trainwire: Trainwire) -> None:
    """With `--from now --follow`, only events published from then on are printed."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(20)
            process = trainwire("tail", tmp_path / "run", "--from", "now", "--follow", "--json")
            first = asyncio.create_task(next_line(process))
            while not first.done():
                publisher.happened("evaluation/started")
                await asyncio.sleep(0.05)
            assert (await first)["name"] == "evaluation/started"
            publisher.end()
            assert await asyncio.to_thread(process.wait, 20) == 0

    run_coroutine(main())


def test_an_address_is_read_by_fetch(tmp_path: Path, trainwire: Trainwire) -> None:
    """Without a folder, the last events are fetched from the publisher."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(20)
            process = trainwire("tail", publisher.connection.request, "-n", 2, "--json")
            output, _ = await asyncio.to_thread(process.communicate, timeout=20)
            assert [json.loads(line)["step"] for line in output.splitlines()] == [18, 19]

    run_coroutine(main())


async def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(await asyncio.to_thread(process.stdout.readline))


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path, write_run: WriteRun, trainwire: Trainwire) -> None:
    """With --follow, a run that has not begun is waited for, and the wait is reported."""
    process = trainwire("tail", tmp_path / "run", "--follow")
    assert "the run has not started" in process.stderr.readline()
    write_run([Recorder().scalars(2)])
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, len(output.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "--from", "now"], ExitCode.USAGE, "add --follow"),
        (["RUN", "--from", "soon"], ExitCode.USAGE, '--from must be "start", "now" or a step'),
        (["RUN", "--lines", "0"], ExitCode.USAGE, "--lines must be 1 or more"),
        (["RUN", "--rank", "x"], ExitCode.USAGE, "--rank must be a number"),
        (["RUN", "--rank", "5"], ExitCode.USAGE, "rank 5"),
        (["RUN", "--rank", "5", "--follow"], ExitCode.USAGE, "rank 5"),
        (["RUN", "--give-up", "-1"], ExitCode.USAGE, "--give-up"),
        (["EMPTY"], ExitCode.USAGE, "no run of rank 0"),
        (["RUN", "--name", "nope"], ExitCode.NO_MATCH, "matches --name 'nope'; recorded names: train/loss"),
    ],
)
def test_errors(
    tmp_path: Path, write_run: WriteRun, capsys, arguments: list[str], code: ExitCode, message: str
) -> None:
    """Each error is one line on standard error, with its exit code."""
    places = {"RUN": str(write_run([Recorder().scalars(4)])), "EMPTY": str(tmp_path)}
    assert run(["tail", *(places.get(word, word) for word in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@given(events())
def test_any_event_is_one_printable_line(event: Event) -> None:
    """Whatever an event contains, its line is printable and of limited length."""
    line = format_event(event)
    assert line.isprintable()
    assert len(line) < MAX_VALUE_CHARACTERS + 1000


def test_values_are_formatted_for_people() -> None:
    """Numbers have six digits, lifecycle events are sentences, and binary values are given by their size."""
    shown = {event.type: format_event(event).split("  ")[-1] for batch in sample_run() for event in batch.events}
    assert shown["image"] == "png, 4 bytes, width 8, height 8"
    assert shown["histogram"] == "7 values from 0.1 to 1.9"
    nan = {"edges": [0.0, 1.0], "counts": [3], "min": 0.0, "max": 1.0, "sum": 1.0, "sum_squares": 1.0, "nan": 2}
    assert format_event(Event("x", nan, "histogram", 0.0, 1)).endswith("3 values from 0 to 1, 2 NaN")
    assert shown["table"] == "1 rows of class, f1"
    assert shown["lifecycle"] == "run finished"
    assert format_event(Event("text", "x" * 5000, "text", 0.0, 1)).endswith("x…")
