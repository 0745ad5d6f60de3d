"""`trainwire sink`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from trainwire_protocol.environment import SinkCommand, sink_names
from trainwire_protocol.errors import UsageError
from trainwire_protocol.subscription.target import resolve_target
from trainwire_sinks.cli.options import DEFAULT_READ_OPTIONS, ReadOptions
from trainwire_sinks.cli.sink_process import folder_of, run_for_each_rank, run_sink, with_options_of
from trainwire_sinks.runtime.registry import describe_sink, find_sink
from trainwire_sinks.runtime.sink import Sink

HELP: Final = """Run a sink on a run: it writes everything that the run publishes, from the beginning.

A sink waits for a run that has not begun, and exits when the run is over. If it is stopped, the next start continues
where it stopped. To see the options of a sink: trainwire sink NAME --help"""


def make_app(tokens: Sequence[str], *, with_every_option: bool = False) -> App:
    """Return the subcommand with the options of the sink that `tokens` begin with, or with all sinks for its help.

    With `with_every_option`, each sink has its own options, which requires importing all sinks.
    """
    app = App(name="sink", help=HELP, usage="Usage: trainwire sink NAME TARGET [OPTIONS]")
    app.default(_make_default(app))
    if tokens and not tokens[0].startswith("-"):
        sink = find_sink(tokens[0])
        app.command(_make_command(tokens, sink), name=tokens[0], help=sink.__doc__)
    else:
        for name in sink_names():
            sink = _find_importable_sink(name) if with_every_option else Sink
            app.command(_make_command(tokens, sink), name=name, help=describe_sink(name))
    return app


def check_sink_command(command: SinkCommand) -> None:
    """Check a sink's name and options before it is started in another process.

    Raises:
        UsageError: there is no such sink, or an option has an invalid value.
        CycloptsError: there is no such option.
    """
    app = make_app([command.name])
    _, bound, _ = app.parse_args([command.name, ".", *command.options], print_error=False, exit_on_error=False)
    sink = find_sink(command.name)
    sink(bound.arguments.get("options", sink.options))


def _find_importable_sink(name: str) -> type[Sink]:
    """Return a sink, or the base class if the sink's packages are not installed."""
    try:
        return find_sink(name)
    except UsageError:
        return Sink


def _make_default(app: App) -> Callable[..., None]:
    def list_or_help(*, list: Annotated[bool, Parameter(negative="")] = False) -> None:
        """List the sinks.

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


def _make_command(tokens: Sequence[str], sink: type[Sink]) -> Callable[..., int]:
    """Return the command that runs a sink, with the options that all sinks share and the sink's own."""

    def command(
        target: str,
        *,
        output: Path | None = None,
        reading: Annotated[ReadOptions, Parameter("*")] = DEFAULT_READ_OPTIONS,
        options: object = sink.options,
    ) -> int:
        """Run the sink.

        Args:
            target: A run's folder, a connection file or an address.
            output: The folder that the sink writes to; by default the run's folder.
            reading: Which rank, and how long to wait.
            options: The sink's own options.
        """
        resolved = resolve_target(target)
        if reading.rank == "all":
            return run_for_each_rank(resolved, ["sink", *tokens], reading.give_up)
        return run_sink(functools.partial(sink, options), resolved, output or folder_of(resolved), reading)

    return with_options_of(sink, command)
