"""`trainwire compare`: hyperparameters and last metrics side by side, and where metrics diverge."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorder import Recorder

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.app import run
from trainwire_sinks.inspect.compare import Divergence, Summary, compare_runs
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, sample_run

WriteRun = Callable[..., Path]


def scalar(name: str, value: Any, step: int) -> Event:
    return Event(name, value, "scalars" if isinstance(value, list) else "scalar", 0.0, step)


def losses(*values: float, **hparams: Any) -> list[Batch]:
    """Return a run with one loss for each step, from step 1 on, two in a batch."""
    recorder = Recorder()
    batches = [recorder.record([Event("hparams", hparams, "hparams", 0.0, 0)])]
    metrics = [scalar("loss", value, step) for step, value in enumerate(values, start=1)]
    return batches + [recorder.record(metrics[place : place + 2]) for place in range(0, len(metrics), 2)]


async def read(batches: Sequence[Batch]) -> AsyncIterator[tuple[Batch, Sequence[Event]]]:
    for batch in batches:
        yield batch, [event for event in batch.events if event.type in ("scalar", "scalars")]


def compared(*runs: Sequence[Batch]) -> list[Summary]:
    return asyncio.run(compare_runs([read(batches) for batches in runs]))


def test_where_metrics_diverge() -> None:
    """Each metric diverges at the first step that both runs recorded with different values."""
    one, other = Recorder(), Recorder()
    first = [one.record([scalar("a", 1.0, step), scalar("b", step, step), scalar("c", 1, step)]) for step in range(9)]
    second = [
        other.record([scalar("c", 1, step), scalar("b", step * (step < 5), step), scalar("a", 1.0 + (step > 6), step)])
        for step in range(9)
    ]  # fmt: skip
    _, found = compared(first, second)
    assert found.divergences == {"b": Divergence(5, (5, 0)), "a": Divergence(7, (1.0, 2.0))}
    assert found.first_divergence == (5, ["b"])
    assert found.metrics == {"a": 2.0, "b": 0, "c": 1}


@given(
    st.lists(st.sampled_from([0.5, 1.0, math.nan, math.inf]), max_size=12),
    st.lists(st.sampled_from([0.5, 1.0, math.nan, math.inf]), max_size=12),
    st.integers(1, 4),
)
def test_the_first_difference_is_found(one: list[float], other: list[float], sparse: int) -> None:
    """The first difference is found however steps are spread over batches, and if one run records fewer steps."""
    batches = losses(*other)
    kept = [batch for number, batch in enumerate(batches) if number % sparse == 0]
    steps = {event.step for batch in kept for event in batch.events}
    different = [
        step
        for step, (value, its) in enumerate(zip(one, other, strict=False), start=1)
        if step in steps and repr(value) != repr(its)
    ]
    _, found = compared(losses(*one), kept)
    assert found.first_divergence == ((different[0], ["loss"]) if different else None)


def test_lists_and_nan_are_compared_by_value() -> None:
    """NaN equals NaN, also in a list; lists of different lengths differ."""
    for other, diverges in (([math.nan, 1.0], False), ([math.nan, 2.0], True), ([math.nan], True)):
        runs = [[Recorder().record([scalar("rates", value, 1)])] for value in ([math.nan, 1.0], other)]
        assert bool(compared(*runs)[1].divergences) == diverges


@pytest.fixture
def compare(tmp_path: Path, write_run: WriteRun, capsys) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Writes runs called a, b, … and compares them; returns the output as text and as JSON."""

    def call(*runs: Sequence[Batch], arguments: Sequence[str] = (), is_over: bool = True) -> tuple[str, dict[str, Any]]:
        places = zip("abc", runs, strict=False)
        names = [str(write_run(batches, tmp_path / name, is_over=is_over)) for name, batches in places]
        assert run(["compare", *names, *arguments]) == 0
        text = capsys.readouterr().out
        assert run(["compare", *names, *arguments, "--json"]) == 0
        return text, json.loads(capsys.readouterr().out)

    return call


def test_runs_are_printed_side_by_side(compare) -> None:
    """Differences are marked; values are short in text and complete in JSON."""
    text, fields = compare(losses(0.5, 0.25, 0.125, lr=0.1, seed=1), losses(0.5, 0.3, 1 / 3, lr=0.2, seed=1))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["HPARAM", "a", "b"]
    assert ["≠", "lr", "0.1", "0.2"] in lines
    assert ["seed", "1", "1"] in lines
    assert ["≠", "loss", "0.125", "0.333333", "2"] in lines
    assert ["last", "step", "3", "3"] in lines
    assert text.endswith("a and b first diverge at step 2: loss (0.25 and 0.3)\n")
    assert fields["runs"][1]["metrics"] == {"loss": 1 / 3}
    assert fields["runs"][0]["hparams"] == {"lr": 0.1, "seed": 1}
    (divergence,) = fields["divergences"]
    assert divergence["first"] == {"step": 2, "metrics": ["loss"]}
    assert divergence["metrics"] == {"loss": {"step": 2, "values": [0.25, 0.3]}}


def test_several_runs_are_compared_with_the_first(compare) -> None:
    """Each further run has its own column and sentence."""
    text, fields = compare(losses(1.0, 2.0), losses(1.0, 2.0), losses(3.0))
    assert text.splitlines()[-2:] == [
        "a and b have the same metrics at every step that both recorded",
        "a and c first diverge at step 1: loss (1 and 3)",
    ]
    assert "b DIVERGES AT  c DIVERGES AT" in text
    assert [pair["first"] for pair in fields["divergences"]] == [None, {"step": 1, "metrics": ["loss"]}]


def test_runs_without_a_common_metric(compare) -> None:
    """Runs without a common metric are reported and do not diverge."""
    text, _ = compare(losses(1.0), [Recorder().record([scalar("other", 1.0, 1)])])
    assert text.endswith("a and b have no metric in common\n")


def test_superseded_values_are_not_compared(compare) -> None:
    """Superseded values are left out; names are escaped in text."""
    text, fields = compare(sample_run(), sample_run(), is_over=False)
    assert fields["runs"][0]["metrics"]["train/loss"] == 0.125
    assert r"../../odd\tname\n\x1b[31m" in text
    assert "\x1b" not in text


def test_metrics_can_be_selected(compare) -> None:
    """With --name, only metrics that match are compared."""
    one = [Recorder().record([scalar("speed", 1.0, 1), scalar("loss", 1.0, 1)])]
    other = [Recorder().record([scalar("speed", 2.0, 1), scalar("loss", 1.0, 1)])]
    assert compare(one, other)[1]["divergences"][0]["first"] == {"step": 1, "metrics": ["speed"]}
    assert compare(one, other, arguments=["--name", "lo*"])[1]["divergences"][0]["first"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN"], ExitCode.USAGE, "two runs or more"),
        (["RUN", "EMPTY"], ExitCode.USAGE, "no run of rank 0"),
        (["RUN", "RUN", "--rank", "4"], ExitCode.USAGE, "no run of rank 4"),
        (["RUN", "RUN", "--rank", "-4"], ExitCode.USAGE, "--rank"),
        (["RUN", "RUN", "--name", "nope"], ExitCode.NO_MATCH, "matches --name 'nope'; recorded names: loss"),
    ],
)
def test_errors(
    tmp_path: Path, write_run: WriteRun, capsys, arguments: list[str], code: ExitCode, message: str
) -> None:
    """Each error is one line on standard error, with its exit code."""
    places = {"RUN": str(write_run(losses(1.0))), "EMPTY": str(tmp_path)}
    assert run(["compare", *(places.get(word, word) for word in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_an_incomplete_record_is_compared_and_reported(tmp_path: Path, write_run: WriteRun, capsys) -> None:
    """The events that exist are compared, and the exit code says that some are missing."""
    batches = losses(*range(9))
    whole, holed = write_run(batches, tmp_path / "a"), write_run([*batches[:2], *batches[3:]], tmp_path / "b")
    assert run(["compare", str(whole), str(holed)]) == ExitCode.INCOMPLETE
    captured = capsys.readouterr()
    assert "same metrics at every step that both recorded" in captured.out
    assert "is missing events" in captured.err


def test_headings_are_the_runs_names(tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Folder names are never interpreted as markup, and long names of metrics are truncated."""
    batches = record([[Event("m" * 300, 1.0, "scalar", 0.0, 1)]])
    folders = [write_run(batches, tmp_path / name) for name in ("Run[red]", "[#x]")]
    other = write_run(batches, tmp_path / "[" / "x]" / "Run[red]")
    assert run(["compare", *map(str, folders)]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if "METRIC" in line)
    assert heading.split() == ["METRIC", "Run[red]", "[#x]", "DIVERGES", "AT"]
    assert len(heading) < 100
    assert run(["compare", str(folders[0]), str(other)]) == 0
    assert str(other) in capsys.readouterr().out
