"""Settings of rules and notifiers: the fields of a dataclass, read from a TOML table."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

from trainwire_protocol.errors import SettingError

Keys: TypeAlias = tuple[str, ...]
"""The path of a setting in the file: the keys of the tables that contain it, then its own."""

Settings = TypeVar("Settings")

LARGEST: Final = 1e15
"""The largest magnitude of a number without other bounds."""

SECRET: Final = frozenset({"url", "headers", "command"})
"""Settings that may contain a password; messages do not repeat their values."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of a number, as an annotation: `Annotated[float, Bounds(minimum=0)]`. `above` is exclusive."""

    above: float = -LARGEST
    minimum: float = -LARGEST
    maximum: float = LARGEST


def read_settings(kind: type[Settings], label: str, table: Mapping[str, Any], keys: Keys) -> Settings:
    """Return an instance of the dataclass `kind` with the settings of a table.

    Args:
        kind: the dataclass.
        label: the name of the dataclass in messages.
        table: the settings.
        keys: the path of the table.

    Raises:
        SettingError: a setting is unknown, missing or invalid.
    """
    known = settings_of(kind)
    for name in table:
        if name not in known:
            raise SettingError((*keys, name), unknown("setting", name, f"the settings of {label}", known))
    for name, each in known.items():
        if name not in table and each.default is MISSING:
            raise SettingError(keys, f"{label} requires the setting {name}")
    hints = _hints(cast(Hashable, kind))
    checked = {name: _checked(name, hints[name], value, (*keys, name)) for name, value in table.items()}
    try:
        return kind(**checked)
    except SettingError as error:
        raise SettingError((*keys, *error.keys), str(error)) from None


def settings_of(kind: type) -> dict[str, Field[Any]]:
    """Return the settings of a dataclass, by name."""
    return {each.name: each for each in fields(kind)}


def unknown(label: str, name: str, choices: str, known: Iterable[str]) -> str:
    """Return a message about an unknown name; `label` says what it names, and `choices` what the known ones are."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {label} {short(name)}{hint}: {choices} are {', '.join(sorted(known))}"


def short(value: object) -> str:
    """Return a value of the file, shortened for a message."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        # Python does not format integers of more than 4,300 digits.
        return "a very large integer"


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _checked(name: str, hint: Any, value: object, keys: Keys) -> object:
    """Return the value in the setting's type: an integer as a float, a list as a tuple."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    requirement = _unmet_requirement(kind, extras[0] if extras else Bounds(), value)
    if requirement:
        found = "" if name in SECRET else f", not {short(value)}"
        raise SettingError(keys, f"{name} must be {requirement}{found}")
    if isinstance(value, list):
        return tuple(value)
    return float(value) if kind is float and isinstance(value, int) else value


def _unmet_requirement(kind: Any, bounds: Bounds, value: object) -> str | None:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return None if value in choices else f"one of {', '.join(map(repr, choices))}"
    if kind in (int, float):
        return _unmet_number_requirement(kind, bounds, value)
    if kind is str:
        return None if isinstance(value, str) else "a string"
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if is_list else "a list of strings"


def _unmet_number_requirement(kind: type, bounds: Bounds, value: object) -> str | None:
    if type(value) is not int and (type(value) is not float or kind is int):
        return "an integer" if kind is int else "a number"
    assert isinstance(value, (int, float))
    if not -LARGEST <= value <= LARGEST:
        return f"a number between -{LARGEST:g} and {LARGEST:g}"
    if value <= bounds.above:
        return f"above {bounds.above:g}"
    if value < bounds.minimum:
        return f"at least {bounds.minimum:g}"
    return f"at most {bounds.maximum:g}" if value > bounds.maximum else None
