"""docs/alerts.md and examples/alerts.toml agree with the code."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields

import pytest
from support.paths import ROOT

from trainwire_protocol.errors import OptionError
from trainwire_sinks.alerts import notifiers, rules
from trainwire_sinks.alerts.alert import COMMON_FIELDS, Alert
from trainwire_sinks.alerts.notifiers import Notifier
from trainwire_sinks.alerts.notifiers.command import ALERT_FIELDS
from trainwire_sinks.alerts.notifiers.webhook import REFUSED_STATUSES
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.rules_file import default_text, parse_rules
from trainwire_sinks.alerts.settings import settings_of

PAGE = (ROOT / "docs" / "alerts.md").read_text()
EXAMPLE = (ROOT / "examples" / "alerts.toml").read_text()
KINDS = {**rules.KINDS, **notifiers.KINDS}


def section(heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    found = re.search(rf"^#+ [^\n]*{re.escape(heading)}[^\n]*\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def default_of(kind: type, name: str) -> str:
    """Return a setting's default as the page shows it."""
    default = settings_of(kind)[name].default
    return "required" if default is MISSING else f"`{json.dumps(default)}`"


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_has_its_settings_on_the_page(name: str) -> None:
    """The page lists exactly the settings of each kind, in order, with their defaults."""
    kind = KINDS[name]
    base = Rule if issubclass(kind, Rule) else Notifier
    own = [
        (f"`{setting}`", default_of(kind, setting)) for setting in settings_of(kind) if setting not in settings_of(base)
    ]
    assert [(row[0], row[1]) for row in rows(section(f"`{name}`"))] == own


def test_common_settings_are_on_the_page() -> None:
    """The page lists the settings of every rule and notifier, and the fields of every message."""
    assert [row[0] for row in rows(section("The rules file"))] == [f"`{name}`" for name in settings_of(Rule)]
    common = [(row[0], row[1]) for row in rows(section("Notifiers"))]
    assert common == [(f"`{name}`", default_of(Notifier, name)) for name in settings_of(Notifier)]
    assert all(f"`{{{name}}}`" in section("The rules file") for name in COMMON_FIELDS)


def test_the_table_of_kinds_matches_the_code() -> None:
    """The table has the severity, cool-down and fields of each kind."""
    found = {row[0].strip("`"): row[2:] for row in rows(section("Rules"))}
    assert list(found) == list(rules.KINDS)
    for name, kind in rules.KINDS.items():
        severity, cool_down = (settings_of(kind)[setting].default for setting in ("severity", "cool_down"))
        assert found[name] == [severity, f"{cool_down:g}", ", ".join(kind.fields)]


def test_the_fields_of_the_file_match_an_alert() -> None:
    """The page describes exactly the fields of a line."""
    described = {name for row in rows(section("The file alerts.jsonl")) for name in re.findall(r"`(\w+)`", row[0])}
    assert described == {each.name for each in fields(Alert)} | {"time"}


def test_the_default_rules_are_on_the_page() -> None:
    """The page shows the file of default rules unchanged."""
    assert default_text().partition("\n\n")[2] in PAGE


def test_variables_and_status_codes_are_on_the_page() -> None:
    """The page lists the variables of a command and the status codes that refuse an alert."""
    assert ", ".join(ALERT_FIELDS) in " ".join(section("`command`").split())
    assert {int(code) for code in re.findall(r"\b4\d\d\b", section("`webhook`"))} == REFUSED_STATUSES


def test_the_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example has every kind of rule; without its environment variables the message names the first one."""
    text = EXAMPLE.replace('kind = "apprise"', 'kind = "webhook"').replace("ntfy://", "http://")
    with pytest.raises(OptionError, match=r"alerts\.toml:7: url uses the environment variable NTFY_TOPIC"):
        parse_rules(text, "alerts.toml")
    monkeypatch.setenv("NTFY_TOPIC", "mine")
    monkeypatch.setenv("OPERATIONS_TOKEN", "secret")
    file = parse_rules(text, "alerts.toml")
    assert {rule.kind for rule in file.rules.values()} == rules.KINDS.keys()
    assert file.all_notifiers == ("phone", "operations", "desktop")
