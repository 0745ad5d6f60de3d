"""The alerts of a run are read from its alerts.jsonl as it grows, and nothing in it can be in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainwire_sinks.monitor.alerts import FILE_NAME, MAX_ALERTS, AlertsFile, open_alerts, parse_alert


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


def test_alerts_are_read_as_they_come(tmp_path: Path) -> None:
    """Each line counts once, a line that is being written when it is whole, and what is no alert is skipped."""
    alerts, path = AlertsFile(tmp_path), tmp_path / FILE_NAME
    assert alerts.read() == []
    path.write_text(line("nan") + "no json\n[]\n{}\n" + line("slow")[:10])
    assert [alert.rule for alert in alerts.read()] == ["nan"]
    path.write_text(line("nan") + "no json\n[]\n{}\n" + line("slow"))
    assert [alert.rule for alert in alerts.read()] == ["nan", "slow"]
    path.write_text(line("other"))
    assert [alert.rule for alert in alerts.read()] == ["other"]


def test_a_long_file_takes_little_memory(tmp_path: Path) -> None:
    """Of a long file the last alerts are kept."""
    (tmp_path / FILE_NAME).write_text("".join(line(str(number)) for number in range(20_000)))
    found = AlertsFile(tmp_path).read()
    assert [alert.rule for alert in found] == [str(number) for number in range(20_000 - MAX_ALERTS, 20_000)]


def test_what_has_cleared_is_no_longer_open() -> None:
    """An alert is open from when it fired until it has cleared."""
    lines = [line("nan"), line("slow"), line("nan", "cleared"), line("slow", severity="error")]
    found = [alert for text in lines if (alert := parse_alert(text.encode()))]
    assert [(alert.rule, alert.severity) for alert in open_alerts(found)] == [("slow", "error")]


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    """Bytes that are no alert are none."""
    assert parse_alert(data) is None


@given(st.dictionaries(st.sampled_from(["rule", "message", "walltime", "step", "severity"]), st.floats() | st.text()))
def test_fields_of_other_types_do_no_harm(fields: dict[str, Any]) -> None:
    """An alert whose fields are not what they should be is shown with what can be shown of it."""
    alert = parse_alert(json.dumps({**json.loads(line("x")), **fields}).encode())
    assert alert is not None
    assert isinstance(alert.message + alert.rule + alert.severity, str)
