"""The rules file: TOML, with a table for each rule and for each notifier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from trainwire_protocol.errors import OptionError, SettingError
from trainwire_protocol.toml_file import TomlFile
from trainwire_sinks.alerts import notifiers, rules
from trainwire_sinks.alerts.alert import COMMON_FIELDS, template_problem
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.alerts.notifiers.terminal import Terminal
from trainwire_sinks.alerts.rule import ALL, Rule
from trainwire_sinks.alerts.settings import Keys, read_settings, short, unknown

DEFAULT_NAME: Final = "default_rules.toml"

TERMINAL: Final = "terminal"
"""The notifier that always exists."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class RulesFile:
    """The rules and notifiers of a rules file, by name."""

    rules: Mapping[str, Rule]
    notifiers: Mapping[str, Notifier]
    all_notifiers: tuple[str, ...]
    """The notifiers that `*` stands for: those of the file, or the terminal."""


def read_rules(path: Path | None) -> RulesFile:
    """Read a rules file, or the default rules if `path` is None.

    Raises:
        OptionError: the file cannot be read or is invalid; the message gives the line and the valid choices.
        MissingExtraError: a notifier needs a package that is not installed.
    """
    if path is None:
        return parse_rules(default_text(), DEFAULT_NAME)
    return _rules_of(TomlFile.read(path, "rules file"))


def default_text() -> str:
    """Return the text of the default rules."""
    return files("trainwire_sinks.alerts").joinpath(DEFAULT_NAME).read_text()


def parse_rules(text: str, name: str) -> RulesFile:
    """Parse the text of a rules file, which messages call `name`.

    Raises:
        OptionError: the text is invalid; the message gives the line and the valid choices.
        MissingExtraError: a notifier needs a package that is not installed.
    """
    return _rules_of(TomlFile.parse(text, name))


def _rules_of(file: TomlFile) -> RulesFile:
    try:
        return _read_content(file.content)
    except SettingError as error:
        raise OptionError(f"{file.name}:{file.line_of(error.keys)}: {error}") from None


def _read_content(content: Mapping[str, Any]) -> RulesFile:
    for key in content:
        if key not in ("rules", "notifiers"):
            raise SettingError((key,), unknown("table", key, "the tables", ("rules", "notifiers")))
    own = _read_tables(content, "notifiers", notifiers.KINDS)
    known = {TERMINAL: Terminal(), **own}
    found = _read_tables(content, "rules", rules.KINDS)
    for name, rule in found.items():
        for notifier in rule.notifiers:
            if notifier not in known and notifier != ALL:
                raise SettingError(("rules", name, "notifiers"), unknown("notifier", notifier, "the notifiers", known))
        if problem := template_problem(rule.message, (*COMMON_FIELDS, *rule.fields)):
            raise SettingError(("rules", name, "message"), f"message: {problem}")
    if not found:
        found = dict(parse_rules(default_text(), DEFAULT_NAME).rules)
    return RulesFile(found, known, tuple(own) or (TERMINAL,))


def _read_tables(content: Mapping[str, Any], group: str, kinds: Mapping[str, type[Kind]]) -> dict[str, Kind]:
    tables = content.get(group, {})
    if not isinstance(tables, dict):
        raise SettingError((group,), f"{group} must consist of tables such as [{group}.NAME], not {short(tables)}")
    return {name: _read_table((group, name), table, kinds) for name, table in tables.items()}


def _read_table(keys: Keys, table: object, kinds: Mapping[str, type[Kind]]) -> Kind:
    group, name = keys
    if not _NAME.fullmatch(name):
        raise SettingError(keys, f"invalid name {short(name)}: use at most 64 letters, digits, - and _")
    if not isinstance(table, dict):
        raise SettingError(keys, f"{name} must be a table such as [{group}.{name}], not {short(table)}")
    kind = table.get("kind", name)
    if not isinstance(kind, str) or kind not in kinds:
        where = (*keys, "kind") if "kind" in table else keys
        raise SettingError(where, unknown(f"kind of {group}", str(kind), "the kinds", kinds))
    settings = {key: value for key, value in table.items() if key != "kind"}
    return read_settings(kinds[kind], f"kind {kind}", settings, keys)
