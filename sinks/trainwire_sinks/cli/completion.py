"""`trainwire completion`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from trainwire_protocol.commands import VERBS
from trainwire_sinks.runtime.registry import sink_names


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print what makes a shell complete this command: source <(trainwire completion bash)

    It knows the sinks that are installed when it is printed, and their options.

    Args:
        shell: For which shell.
    """
    from trainwire_sinks.cli import make_app

    app = make_app([], with_every_option=True)
    _complete_values(app, _values())
    print(app.generate_completion(prog_name="trainwire", shell=shell))


def _values() -> dict[str, Any]:
    """By the names of parameters, types that say what may stand there: the annotations of the commands say `str`."""
    sinks = Literal[tuple(sink_names())]  # type: ignore[valid-type]  # known only now
    return {
        "target": Path,
        "command": Annotated[Path, Parameter(allow_leading_hyphen=True)],
        "to": sinks,
        "sink": list[sinks] | None,  # type: ignore[valid-type]  # as above
        "verb": Literal[VERBS],
    }


def _complete_values(app: App, values: dict[str, Any]) -> None:
    for name in app:
        if not name.startswith("-"):
            _complete_values(app[name], values)
    if isinstance(app.default_command, FunctionType):
        app.default_command = _annotated(app.default_command, values)


def _annotated(command: FunctionType, values: dict[str, Any]) -> Callable[..., Any]:
    """A copy of a command with other annotations: the command itself may still be called."""
    copy = FunctionType(
        command.__code__, command.__globals__, command.__name__, command.__defaults__, command.__closure__
    )
    copy.__kwdefaults__, copy.__doc__ = command.__kwdefaults__, command.__doc__
    copy.__annotations__ = {name: values.get(name, kind) for name, kind in command.__annotations__.items()}
    return copy
