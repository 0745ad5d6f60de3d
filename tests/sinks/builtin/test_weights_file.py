from __future__ import annotations

import math
from pathlib import Path

import pytest

from trainwire_sinks import Event
from trainwire_sinks.builtin.weights_file import WeightsFile, format_weights
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink, sample_run


def weights(parameter: str, step: int, **values: float) -> Event:
    return Event(f"weights/{parameter}", values, "scalars", 0.0, step)


def test_each_weight_has_a_line(tmp_path: Path) -> None:
    """Step, parameter, index and value are separated by tabs, and the value is in full precision."""
    events = [weights("layer.weight", 3, **{"0,1": 0.1, "1,0": math.nan}), weights("layer.bias", 3, **{"0": 5e-05})]
    run_sink(WeightsFile, tmp_path, record([events]))
    assert (tmp_path / "weights.txt").read_text().splitlines() == [
        "3\tlayer.weight\t0,1\t0.1", "3\tlayer.weight\t1,0\tnan", "3\tlayer.bias\t0\t5e-05",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        Event("weights/layer", {"edges": [0, 1], "counts": [1]}, "histogram", 0.0, 1),
        Event("weights/layer", [1.0, 2.0], "scalars", 0.0, 1),
        Event("learning_rate", {"0": 1.0}, "scalars", 0.0, 1),
    ],
)
def test_other_events_are_skipped(event: Event) -> None:
    """Only a map of scalars whose name starts with `weights/` has lines."""
    assert format_weights(event) == []


def test_no_name_breaks_a_line() -> None:
    """Tabs and newlines in the name of a parameter or in an index are escaped."""
    (line,) = format_weights(weights("a\tb\nc", 1, **{"0\n": 1.0}))
    assert line == "1\ta\\tb\\nc\t0\\n\t1.0\n"


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    """The same bytes are written however often the sink commits and wherever it is killed."""
    check_sink(WeightsFile, tmp_path / "sample", sample_run())
    killed = [weights("w", step, **{"0": step / 3}) for step in range(4)]
    mark = Event("run/marked", {"mark": 1}, "lifecycle", 0.0, 1)
    resumed = Event("run/resumed", {"from": {"attempt": 0, "seq": 2}, "from_step": 1}, "lifecycle", 0.0, 1)
    attempts = [[[*killed[:2], mark], killed[2:]], [[resumed], [weights("w", 2, **{"0": 0.5})]]]
    check_sink(WeightsFile, tmp_path / "weights", record(*attempts))
    assert (tmp_path / "weights" / "whole" / "weights.txt").read_text().splitlines()[-1] == "2\tw\t0\t0.5"
