"""`trainwire sink`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import UsageError
from trainwire_protocol.subscription.target import resolve_target
from trainwire_sinks.cli.options import DEFAULT, Reading
from trainwire_sinks.cli.sink_process import folder_of, run_for_each_rank, run_sink, with_options_of
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.registry import describe_sink, find_sink, sink_names

HELP = """Run a sink on a run: it writes what the run has published, from the beginning, and what it will publish.

A sink waits for a run that has not begun, and ends when the run is over. Stopped in between, it goes on where it was.
What options a sink has: trainwire sink NAME --help"""


def make_app(tokens: Sequence[str], *, with_every_option: bool = False) -> App:
    """The subcommand, with the options of the sink that `tokens` begin with; with all sinks for its help.

    `with_every_option` gives each sink its options, which takes as long as importing all of them.
    """
    app = App(name="sink", help=HELP, usage="Usage: trainwire sink NAME TARGET [OPTIONS]")
    app.default(_list_or_help(app))
    if tokens and not tokens[0].startswith("-"):
        sink = find_sink(tokens[0])
        app.command(_make_command(tokens, sink), name=tokens[0], help=sink.__doc__)
    else:
        for name in sink_names():
            sink = _usable_sink(name) if with_every_option else Sink
            app.command(_make_command(tokens, sink), name=name, help=describe_sink(name))
    return app


def _usable_sink(name: str) -> type[Sink]:
    try:
        return find_sink(name)
    except UsageError:
        return Sink


def _list_or_help(app: App) -> Callable[..., None]:
    def list_or_help(*, list: Annotated[bool, Parameter(negative="")] = False) -> None:
        """Tell what sinks there are.

        Args:
            list: Print each sink's name and what it does.
        """
        if not list:
            app.help_print()
            return
        names = sink_names()
        for name in names:
            print(f"{name:<{max(map(len, names))}}  {describe_sink(name)}")

    return list_or_help


def check_sink_command(command: SinkCommand) -> None:
    """Refuse at once what would only be found when the sink is started.

    Raises:
        UsageError: there is no such sink, or it cannot be made with these options.
        CycloptsError: it has no such options.
    """
    app = make_app([command.name])
    _, bound, _ = app.parse_args([command.name, ".", *command.options], print_error=False, exit_on_error=False)
    sink = find_sink(command.name)
    sink(bound.arguments.get("options", sink.options))


def _make_command(tokens: Sequence[str], sink: type[Sink]) -> Callable[..., int]:
    """The command of one sink: what all have, and the fields of its options."""

    def command(
        target: str,
        *,
        output: Path | None = None,
        reading: Annotated[Reading, Parameter("*")] = DEFAULT,
        options: object = sink.options,
    ) -> int:
        """Run the sink.

        Args:
            target: A run's folder, a connection file or an address.
            output: The folder that the sink writes to; the run's folder if left out.
            reading: Which process, and how long to wait.
            options: The sink's own.
        """
        where = resolve_target(target)
        if reading.rank == "all":
            return run_for_each_rank(where, ["sink", *tokens], reading.give_up)
        return run_sink(functools.partial(sink, options), where, output or folder_of(where), reading)

    return with_options_of(sink, command)
