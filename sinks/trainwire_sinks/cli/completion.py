"""`trainwire completion`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from trainwire_protocol.commands import VERBS
from trainwire_protocol.environment import sink_names
from trainwire_sinks.cli.app import make_app


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the completion script for a shell: source <(trainwire completion bash)

    It includes the sinks that are installed now, and their options.

    Args:
        shell: The shell.
    """
    sinks = Literal[tuple(sink_names())]  # type: ignore[valid-type]  # known at run time only
    # The parameters are annotated as `str`; these annotations tell cyclopts what to complete.
    annotations = {
        "target": Path,
        "command": Annotated[Path, Parameter(allow_leading_hyphen=True)],
        "to": sinks,
        "sink": list[sinks] | None,  # type: ignore[valid-type]  # as above
        "verb": Literal[VERBS],
    }
    app = make_app([], with_every_option=True)
    _annotate_commands(app, annotations)
    print(app.generate_completion(prog_name="trainwire", shell=shell))


def _annotate_commands(app: App, annotations: dict[str, Any]) -> None:
    for name in app:
        if not name.startswith("-"):
            _annotate_commands(app[name], annotations)
    if isinstance(app.default_command, FunctionType):
        app.default_command = _annotated_copy(app.default_command, annotations)


def _annotated_copy(command: FunctionType, annotations: dict[str, Any]) -> Callable[..., Any]:
    """Return a copy of a command with other annotations, so that the command itself is not changed."""
    copy = FunctionType(
        command.__code__, command.__globals__, command.__name__, command.__defaults__, command.__closure__
    )
    copy.__kwdefaults__, copy.__doc__ = command.__kwdefaults__, command.__doc__
    copy.__annotations__ = {name: annotations.get(name, kind) for name, kind in command.__annotations__.items()}
    return copy
