"""The values of options in a TOML file: what stands for them there, and what cannot be written."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from inspect import isroutine
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch.optim import Optimizer

from trainwire.bus.values.plain import coerce_hparams
from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.options.plugin_names import plugin_by_name
from trainwire_protocol.errors import MissingExtraError, OptionError, OutputError, UsageError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.toml_file import TomlFile

NONE: Final = "none"
"""Stands in a file for None, if that is not the default."""

HEAD: Final = "# Options of a Trainwire training. Keys that are not here have their defaults.\n"

logger = logging.getLogger("trainwire")


def read_value(name: str, value: Any) -> Any:
    """Return the value that an option has if the file has this one: arrays are tuples, names of optimizers classes.

    Raises:
        OptionError: if torch has no optimizer or no type of device of this name.
    """
    if name == "device":
        try:
            torch.device(value)
        except (RuntimeError, TypeError):
            raise OptionError(f"device is {value!r}; it must be a name such as 'cpu' or 'cuda:0'") from None
    return _optimizers(value) if name == "optimizer" else _with_tuples(value)


def _optimizers(value: Any) -> Any:
    """Return the class for a name, alone or before its arguments, and for each name in a table."""
    match value:
        case str():
            return _optimizer_class(value)
        case [str(), {}]:
            return _optimizer_class(value[0]), _with_tuples(value[1])
        case dict():
            return {name: _optimizers(choice) for name, choice in value.items()}
    return value


def _optimizer_class(name: str) -> type[Optimizer]:
    if name not in (known := _optimizer_classes()):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise OptionError(f"optimizer is {name!r}: {hint}the classes of torch.optim are {', '.join(known)}")
    return known[name]


def _optimizer_classes() -> dict[str, type[Optimizer]]:
    classes = {name: getattr(torch.optim, name) for name in sorted(dir(torch.optim)) if name != "Optimizer"}
    return {name: kind for name, kind in classes.items() if isinstance(kind, type) and issubclass(kind, Optimizer)}


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    return {key: _with_tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def plugin_problems(file: TomlFile) -> list[tuple[int, str]]:
    """Return what is wrong with the plugins of a file, each with its line."""
    problems = []
    given = file.content.get("plugins")
    for number, plugin in enumerate(given if isinstance(given, list) else ()):
        try:
            if not isinstance(plugin, (str, dict)):
                raise OptionError("it must be a name, or a name with its arguments")
            plugin_by_name(plugin)
        except UsageError as error:
            problems.append((file.line_of(("plugins", number)), f"plugins[{number}]: {error}"))
    return problems


def write_options(path: str | PathLike[str], values: Mapping[str, Any]) -> None:
    """Write the values of options to a file; name in it, and in the log, what cannot be written.

    Raises:
        MissingExtraError: if tomli-w is not installed.
        OutputError: if the file cannot be written.
    """
    try:
        import tomli_w  # here, as only writing needs it
    except ModuleNotFoundError as error:
        raise MissingExtraError("TrainingOptions.to_file", "torch", "tomli-w") from error
    left_out: list[str] = []
    content = _written_items({name: _prepared(name, value, left_out) for name, value in values.items()}, "", left_out)
    head = HEAD
    if left_out:
        logger.warning("%s: not all options can be written to a file: %s", path, "; ".join(left_out))
        head += "# These cannot be written:\n" + "".join(f"#   {repr(each)[1:-1]}\n" for each in left_out)
    try:
        write_atomically(Path(path), f"{head}\n{tomli_w.dumps(content)}".encode())
    except OSError as error:
        raise OutputError(f"the options file {path} cannot be written: {error.strerror}") from error


def _prepared(name: str, value: Any, left_out: list[str]) -> Any:
    """Return the value of an option in the form in which a file has it, as far as there is one."""
    if name == "optimizer":
        return _optimizer_names(value)
    if name == "device" and isinstance(value, torch.device):
        return str(value)
    if name == "hparams" and value is not None:
        return coerce_hparams(value).value
    if name == "plugins":
        found = {number: list(_unwritable(f"plugins[{number}]", each)) for number, each in enumerate(value)}
        left_out += [text for texts in found.values() for text in texts]
        return [each for number, each in enumerate(value) if not found[number]]
    return NONE if value is None else value


def _optimizer_names(value: Any) -> Any:
    """Return the names of the classes for which `_optimizers` returns these values."""
    if isinstance(value, Mapping):
        return {name: _optimizer_names(choice) for name, choice in value.items()}
    if isinstance(value, tuple):
        return _optimizer_names(value[0]), *value[1:]
    return value.__name__ if value in _optimizer_classes().values() else value


def _written_items(values: Mapping[Any, Any], place: str, left_out: list[str]) -> dict[str, Any]:
    """Return the items of a map that can be written, and note the others."""
    written = {}
    for key, value in values.items():
        path = f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping) and _is_text(key):
            written[key] = _written_items(value, path, left_out)
        elif texts := list(_unwritable(path, value, key)):
            left_out += texts
        else:
            written[key] = value
    return written


def _unwritable(place: str, value: object, key: object = "") -> Iterator[str]:
    """Yield what cannot be written of a value, each with its place."""
    if not _is_text(key):
        yield f"{place}, whose key is not a string of Unicode"
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _unwritable(f"{place}[{index}]", item)
    elif isinstance(value, Mapping):
        for each, item in value.items():
            yield from _unwritable(f"{place}.{each}", item, each)
    elif isinstance(value, BasePlugin):
        yield f"{place}, an instance of {type(value).__name__}: give it by name"
    elif not (isinstance(value, (bool, int, float)) or _is_text(value)):
        yield f"{place}, {_described(value)}"


def _is_text(value: object) -> bool:
    """Return whether the value is a string that UTF-8 can encode, which lone surrogates are not."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def _described(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, str):
        return "a string that is not Unicode"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"the function {value.__name__}" if isroutine(value) else f"an instance of {type(value).__name__}"
