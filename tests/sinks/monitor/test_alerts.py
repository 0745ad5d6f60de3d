"""The alerts of a run are read from its alerts.jsonl as it grows, whatever it contains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainwire_sinks.monitor.alerts import FILE_NAME, MAX_ALERTS, AlertsReader, open_alerts, parse_alert


def line(rule: str, state: str = "fired", **more: Any) -> str:
    fields = {
        "id": rule,
        "rule": rule,
        "severity": "warning",
        "state": state,
        "message": "m",
        "walltime": 1.0,
        "step": 3,
    }
    return json.dumps({**fields, **more}) + "\n"


def test_alerts_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Each line counts once, an incomplete line counts when it is complete, and invalid lines are skipped."""
    alerts, path = AlertsReader(tmp_path), tmp_path / FILE_NAME
    assert alerts.read() == []
    path.write_text(line("nan") + "no json\n[]\n{}\n" + line("slow")[:10])
    assert [alert.rule for alert in alerts.read()] == ["nan"]
    path.write_text(line("nan") + "no json\n[]\n{}\n" + line("slow"))
    assert [alert.rule for alert in alerts.read()] == ["nan", "slow"]
    path.write_text(line("other"))
    assert [alert.rule for alert in alerts.read()] == ["other"]


def test_a_long_file_takes_little_memory(tmp_path: Path) -> None:
    """Only the last alerts of a long file are kept."""
    (tmp_path / FILE_NAME).write_text("".join(line(str(number)) for number in range(20_000)))
    found = AlertsReader(tmp_path).read()
    assert [alert.rule for alert in found] == [str(number) for number in range(20_000 - MAX_ALERTS, 20_000)]


def test_an_alert_is_open_until_it_clears() -> None:
    """An alert is open from when it fires until it clears."""
    lines = [line("nan"), line("slow"), line("nan", "cleared"), line("slow", severity="error")]
    found = [alert for text in lines if (alert := parse_alert(text.encode()))]
    assert [(alert.rule, alert.severity) for alert in open_alerts(found)] == [("slow", "error")]


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_invalid_lines_are_not_alerts(data: bytes) -> None:
    """Bytes that are not an alert are parsed as None."""
    assert parse_alert(data) is None


@given(st.dictionaries(st.sampled_from(["rule", "message", "walltime", "step", "severity"]), st.floats() | st.text()))
def test_fields_may_have_other_types(fields: dict[str, Any]) -> None:
    """An alert with fields of unexpected types has text and numbers in their place."""
    alert = parse_alert(json.dumps({**json.loads(line("x")), **fields}).encode())
    assert alert is not None
    assert isinstance(alert.message + alert.rule + alert.severity, str)
