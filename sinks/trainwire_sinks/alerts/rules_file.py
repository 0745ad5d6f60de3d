"""The rules file: TOML, with a table for each rule and for each notifier."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from trainwire_protocol.errors import OptionError
from trainwire_sinks.alerts import notifiers, rules
from trainwire_sinks.alerts.alert import COMMON_FIELDS, template_problem
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.alerts.notifiers.terminal import Terminal
from trainwire_sinks.alerts.rule import ALL, Rule
from trainwire_sinks.alerts.settings import Keys, SettingError, read_settings, short, unknown
from trainwire_sinks.alerts.toml_lines import line_of

MAX_FILE_BYTES: Final = 1 << 18

DEFAULT_NAME: Final = "default_rules.toml"

TERMINAL: Final = "terminal"
"""The notifier that is always there."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class RulesFile:
    """What a rules file says."""

    rules: Mapping[str, Rule]
    notifiers: Mapping[str, Notifier]
    told: tuple[str, ...]
    """The notifiers of a rule that tells all."""


def read_rules(path: Path | None) -> RulesFile:
    """Read a rules file, or the default rules.

    Raises:
        OptionError: it cannot be read, or holds a mistake; says in which line, and what it may hold.
        MissingExtraError: a notifier needs a package that is not installed.
    """
    if path is None:
        return parse_rules(default_text(), DEFAULT_NAME)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise OptionError(f"the rules file {path} has more than {MAX_FILE_BYTES} bytes")
        return parse_rules(data.decode(), str(path))
    except OSError as error:
        raise OptionError(f"the rules file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(f"{path}:{line}: a rules file is UTF-8, and byte {error.start} is not") from error


def default_text() -> str:
    """The default rules, as a file says them."""
    return files("trainwire_sinks.alerts").joinpath(DEFAULT_NAME).read_text()


def parse_rules(text: str, name: str) -> RulesFile:
    """Understand the text of a rules file; `name` is what messages call it.

    Raises:
        OptionError: it holds a mistake.
        MissingExtraError: a notifier needs a package that is not installed.
    """
    text = text.replace("\r\n", "\n")
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise OptionError(f"{name}:{line}: this is not TOML: {error}") from None
    except RecursionError:
        raise OptionError(f"{name}: this is nested too deeply") from None
    try:
        return _understand(content)
    except SettingError as error:
        raise OptionError(f"{name}:{line_of(text, error.keys)}: {error}") from None


def _understand(content: Mapping[str, Any]) -> RulesFile:
    for key in content:
        if key not in ("rules", "notifiers"):
            raise SettingError((key,), unknown("table", key, "the tables", ("rules", "notifiers")))
    own = _read_tables(content, "notifiers", notifiers.KINDS)
    known = {TERMINAL: Terminal(), **own}
    found = _read_tables(content, "rules", rules.KINDS)
    for name, rule in found.items():
        _check_rule(name, rule, known)
    if not found:
        found = dict(parse_rules(default_text(), DEFAULT_NAME).rules)
    return RulesFile(found, known, tuple(own) or (TERMINAL,))


def _read_tables(content: Mapping[str, Any], group: str, kinds: Mapping[str, type[Kind]]) -> dict[str, Kind]:
    tables = content.get(group, {})
    if not isinstance(tables, dict):
        raise SettingError((group,), f"{group} is {short(tables)}, not tables such as [{group}.NAME]")
    return {name: _read_table((group, name), table, kinds) for name, table in tables.items()}


def _read_table(keys: Keys, table: object, kinds: Mapping[str, type[Kind]]) -> Kind:
    group, name = keys
    if not _NAME.fullmatch(name):
        raise SettingError(keys, f"{short(name)} is no name: at most 64 of A-Z, a-z, 0-9, - and _")
    if not isinstance(table, dict):
        raise SettingError(keys, f"{name} is {short(table)}, not a table such as [{group}.{name}]")
    kind = table.get("kind", name)
    if not isinstance(kind, str) or kind not in kinds:
        where = (*keys, "kind") if "kind" in table else keys
        raise SettingError(where, unknown(f"kind of {group}", str(kind), "the kinds", kinds))
    settings = {key: value for key, value in table.items() if key != "kind"}
    return read_settings(kinds[kind], f"kind {kind}", settings, keys)


def _check_rule(name: str, rule: Rule, known: Mapping[str, Notifier]) -> None:
    for notifier in rule.notifiers:
        if notifier not in known and notifier != ALL:
            raise SettingError(("rules", name, "notifiers"), unknown("notifier", notifier, "the notifiers", known))
    if problem := template_problem(rule.message, (*COMMON_FIELDS, *rule.fields)):
        raise SettingError(("rules", name, "message"), f"message: {problem}")
