"""Settings of rules and notifiers: the fields of a dataclass, read from a table of TOML."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

Keys: TypeAlias = tuple[str, ...]
"""Where something stands in a file: the keys of the tables that it is in, and its own."""

Settings = TypeVar("Settings")

LARGEST: Final = 1e15
"""Largest size of a number that is not bounded otherwise."""


class SettingError(Exception):
    """A setting that is not there, or not as it has to be."""

    def __init__(self, keys: Keys, problem: str) -> None:
        super().__init__(problem)
        self.keys = keys


@dataclass(frozen=True)
class Bounds:
    """What a number may be, as an annotation: `Annotated[float, Bounds(least=0)]`."""

    above: float = -LARGEST
    least: float = -LARGEST
    most: float = LARGEST


SECRET: Final = frozenset({"url", "headers", "command"})
"""Settings that may hold a password: messages do not repeat them."""


def read_settings(kind: type[Settings], what: str, table: Mapping[str, Any], keys: Keys) -> Settings:
    """An instance of the dataclass `kind` with the settings of a table.

    Args:
        kind: the dataclass.
        what: how it is called in messages.
        table: the settings.
        keys: where the table stands.

    Raises:
        SettingError: a setting is unknown, missing, or has a value that it cannot have.
    """
    known = settings_of(kind)
    for name in table:
        if name not in known:
            raise SettingError((*keys, name), unknown("setting", name, f"the settings of {what}", known))
    for name, each in known.items():
        if name not in table and each.default is MISSING:
            raise SettingError(keys, f"{what} needs the setting {name}")
    hints = _hints(cast(Hashable, kind))
    checked = {name: _checked(name, hints[name], value, (*keys, name)) for name, value in table.items()}
    try:
        return kind(**checked)
    except SettingError as error:
        raise SettingError((*keys, *error.keys), str(error)) from None


def settings_of(kind: type) -> dict[str, Field[Any]]:
    """The settings of a dataclass, by their names."""
    return {each.name: each for each in fields(kind)}


def unknown(what: str, name: str, those: str, known: Iterable[str]) -> str:
    """What is wrong with a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no {what} {short(name)}: {hint}{those} are {', '.join(sorted(known))}"


def short(value: object) -> str:
    """A value of a file, for a message."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        # Python does not write integers of more than 4,300 digits.
        return "a number beyond all bounds"


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _checked(name: str, hint: Any, value: object, keys: Keys) -> object:
    """The value as its type is; numbers may be written without a point."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    problem = _problem(kind, extras[0] if extras else Bounds(), value)
    if problem:
        raise SettingError(keys, f"{name} is {problem}" if name in SECRET else f"{name} is {short(value)}, {problem}")
    if isinstance(value, list):
        return tuple(value)
    return float(value) if kind is float and isinstance(value, int) else value


def _problem(kind: Any, bounds: Bounds, value: object) -> str | None:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return None if value in choices else f"and has to be one of {', '.join(map(repr, choices))}"
    if kind in (int, float):
        return _number_problem(kind, bounds, value)
    if kind is str:
        return None if isinstance(value, str) else "not a string"
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if is_list else "not a list of strings"


def _number_problem(kind: type, bounds: Bounds, value: object) -> str | None:
    if type(value) is not int and (type(value) is not float or kind is int):
        return "not a whole number" if kind is int else "not a number"
    assert isinstance(value, (int, float))
    if not -LARGEST <= value <= LARGEST:
        return f"not a number between -{LARGEST:g} and {LARGEST:g}"
    if value <= bounds.above:
        return f"and has to be above {bounds.above:g}"
    if value < bounds.least:
        return f"and has to be at least {bounds.least:g}"
    return f"and can be at most {bounds.most:g}" if value > bounds.most else None
