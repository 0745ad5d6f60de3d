"""The rules file: TOML, with a table for each rule and for each notifier."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from trainwire_protocol.errors import OptionError, SettingError
from trainwire_sinks.alerts import notifiers, rules
from trainwire_sinks.alerts.alert import COMMON_FIELDS, template_problem
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.alerts.notifiers.terminal import Terminal
from trainwire_sinks.alerts.rule import ALL, Rule
from trainwire_sinks.alerts.settings import Keys, read_settings, short, unknown

MAX_FILE_BYTES: Final = 1 << 18

MAX_STATEMENT_LINES: Final = 200
"""The reported line may be wrong if a statement before it is longer than this."""

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
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise OptionError(f"the rules file {path} is larger than {MAX_FILE_BYTES} bytes")
        return parse_rules(data.decode(), str(path))
    except OSError as error:
        raise OptionError(f"the rules file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(f"{path}:{line}: the rules file is not UTF-8 (byte {error.start})") from error


def default_text() -> str:
    """Return the text of the default rules."""
    return files("trainwire_sinks.alerts").joinpath(DEFAULT_NAME).read_text()


def parse_rules(text: str, name: str) -> RulesFile:
    """Parse the text of a rules file, which messages call `name`.

    Raises:
        OptionError: the text is invalid; the message gives the line and the valid choices.
        MissingExtraError: a notifier needs a package that is not installed.
    """
    text = text.replace("\r\n", "\n")
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise OptionError(f"{name}:{line}: invalid TOML: {error}") from None
    except RecursionError:
        raise OptionError(f"{name}: the tables are nested too deeply") from None
    try:
        return _read_content(content)
    except SettingError as error:
        raise OptionError(f"{name}:{line_of(text, error.keys)}: {error}") from None


def line_of(text: str, keys: Sequence[str]) -> int:
    """Return the line number, from 1, of the statement that first defines these keys; 1 if none does.

    `tomllib` reports no positions. So this searches for the longest prefix of the text that parses by itself and does
    not define the keys. A statement of several lines only parses as a whole.
    """
    lines = text.split("\n")
    low, high = 0, len(lines) if _defines(_parse_prefix(lines, len(lines)), keys) else 0
    while high - low > 1:
        middle = (low + high) // 2
        counts = range(middle, min(high, middle + MAX_STATEMENT_LINES))
        parsed = ((count, content) for count in counts if (content := _parse_prefix(lines, count)) is not None)
        count, content = next(parsed, (high, None))
        if content is None:
            high = middle
        elif _defines(content, keys):
            high = count
        else:
            low = count
    return low + 1


def _parse_prefix(lines: Sequence[str], count: int) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines[:count]) + "\n")
    except (ValueError, RecursionError):
        return None


def _defines(content: object, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


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
