"""Plugins by name: the modules of `trainwire.plugins`, and those that other packages register.

A built-in plugin has the name of its module, with "-" for "_". Another package registers a plugin by an entry point in
the group `trainwire.plugins`, which maps the plugin's name to its class. A plugin that is not registered is named as
`module:Class`.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module, metadata
from importlib.util import find_spec
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeAlias, TypeGuard, Union, get_args, get_origin, get_type_hints

from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.savable import python_numbers
from trainwire_protocol.errors import OptionError, UsageError

PluginByName: TypeAlias = str | Mapping[str, Mapping[str, Any]]
"""A plugin's name, or a mapping of its name to its arguments: `"ema"` or `{"ema": {"decay": 0.999}}`."""

PLUGIN_GROUP: Final = "trainwire.plugins"
"""The group of entry points with which other packages register plugins: each maps a name to a class."""

BUILTIN_PLUGINS: Final = "trainwire.plugins"
"""The package of the built-in plugins: a module for each, named after the plugin, with "_" for "-"."""

_OTHER_MODULES: Final = {"defaults"}
"""The modules of the package that define no plugin."""


def builtin_plugin_names() -> list[str]:
    """Return the names of the built-in plugins, sorted, without importing them."""
    package = find_spec(BUILTIN_PLUGINS)
    assert package, f"{BUILTIN_PLUGINS} is part of this distribution"
    modules = {module.name for module in pkgutil.iter_modules(package.submodule_search_locations)}
    return sorted(name.replace("_", "-") for name in modules - _OTHER_MODULES)


def plugin_names() -> list[str]:
    """Return the names of all plugins, sorted, without importing them."""
    return sorted({*builtin_plugin_names(), *(point.name for point in metadata.entry_points(group=PLUGIN_GROUP))})


def find_plugin(name: str) -> type[BasePlugin[Any]]:
    """Return the class of the plugin called `name`, or the class at `module:Class`.

    Raises:
        OptionError: if there is no such plugin, or one of another package cannot be imported or is not a plugin.
    """
    if name not in builtin_plugin_names():
        return _import_third_party(name)
    module = import_module(f"{BUILTIN_PLUGINS}.{name.replace('-', '_')}")
    return next(value for value in vars(module).values() if _is_plugin(value) and value.__module__ == module.__name__)


def _import_third_party(name: str) -> type[BasePlugin[Any]]:
    if ":" in name:
        point = metadata.EntryPoint(name, name, PLUGIN_GROUP)
    else:
        points = list(metadata.entry_points(group=PLUGIN_GROUP, name=name))
        if not points:
            names = plugin_names()
            raise OptionError(
                f"there is no plugin {name!r}: {_did_you_mean(name, names)}the plugins are {', '.join(names)}"
            )
        point = points[0]
    try:
        kind = point.load()
    except Exception as error:  # whatever the code of the module raises
        raise OptionError(f"the plugin {name} ({point.value}) cannot be loaded: {error!r}") from error
    if not _is_plugin(kind):
        raise OptionError(f"the plugin {name} ({point.value}) is not a subclass of trainwire.Plugin")
    return kind


def _is_plugin(value: object) -> TypeGuard[type[BasePlugin[Any]]]:
    return isinstance(value, type) and issubclass(value, BasePlugin) and not value.__name__.startswith("_")


def plugin_by_name(given: PluginByName) -> BasePlugin[Any]:
    """Create the plugin of a name, with the arguments that are given with it.

    Raises:
        OptionError: if there is no such plugin, or an argument is unknown, missing or invalid.
    """
    name, arguments = _name_and_arguments(given)
    kind = find_plugin(name)
    _check_arguments(name, kind, arguments)
    try:
        return kind(**arguments)
    except UsageError:
        raise
    except Exception as error:  # whatever the code of a plugin raises
        values = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
        raise OptionError(f"the plugin {name} cannot be created with {values or 'no arguments'}: {error!r}") from error


def _name_and_arguments(given: PluginByName) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    pairs = list(given.items())
    if len(pairs) == 1 and isinstance(pairs[0][0], str) and isinstance(pairs[0][1], Mapping):
        name, arguments = pairs[0]
        if all(isinstance(argument, str) for argument in arguments):
            return name, python_numbers(arguments)
    raise OptionError(
        f"a plugin is given as {given!r}; give its name, or one name with its arguments, as in "
        '{"ema": {"decay": 0.999}}'
    )


def _check_arguments(name: str, kind: type[BasePlugin[Any]], arguments: Mapping[str, Any]) -> None:
    """Check the names of the arguments, and their types as far as they are annotated with simple ones."""
    constructor = None if kind.__init__ is object.__init__ else inspect.signature(kind)
    parameters = constructor.parameters if constructor else {}
    known = [each for each, about in parameters.items() if about.kind not in (about.VAR_POSITIONAL, about.VAR_KEYWORD)]
    text = f"its arguments are {', '.join(known)}" if known else "it has no arguments"
    is_open = any(about.kind is about.VAR_KEYWORD for about in parameters.values())
    for argument in () if is_open else arguments:
        if argument not in known:
            raise OptionError(f"the plugin {name} has no argument {argument!r}: {_did_you_mean(argument, known)}{text}")
    for argument in known:
        if argument not in arguments and parameters[argument].default is inspect.Parameter.empty:
            raise OptionError(f"the plugin {name} needs the argument {argument}: {text}")
    hints: dict[str, Any] = {}
    with suppress(NameError):  # an annotation whose module is imported for type checkers only
        hints = get_type_hints(kind.__init__)
    for argument, value in arguments.items():
        if argument in hints and not _accepts(hints[argument], value):
            expected = inspect.formatannotation(hints[argument]).replace("collections.abc.", "").replace("typing.", "")
            raise OptionError(f"the plugin {name} has {argument}={value!r}; it must be of type {expected}: {text}")


def _accepts(hint: Any, value: object) -> bool:
    """Return whether a value may be of this type; True for all types but the simple ones."""
    origin, parameters = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_accepts(parameter, value) for parameter in parameters)
    if origin is Literal:
        return any(type(value) is type(parameter) and value == parameter for parameter in parameters)
    if origin in (Sequence, list, tuple):
        return isinstance(value, str) or (
            isinstance(value, (list, tuple)) and all(_accepts(parameters[0], item) for item in value)
        )
    if origin is Mapping:
        return isinstance(value, Mapping)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return not (hint in (bool, str, NoneType) and not isinstance(value, hint))


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=2)
    return f"did you mean {' or '.join(close)}? " if close else ""
