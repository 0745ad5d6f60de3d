"""`trainwire replay`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from trainwire_protocol.errors import OutputError
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_sinks.cli.options import DEFAULT, Reading, parse_rank
from trainwire_sinks.cli.sink_process import folder_of, run_for_each_rank, run_sink, with_options_of
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.registry import find_sink

HELP = """Write a run's output again, from its beginning, into a new folder: trainwire replay RUN --to tensorboard

With --skip-superseded it is as if the run had never been interrupted. A run that is not over yet is followed to its
end. What options a sink has: trainwire replay --to NAME --help"""


def make_app(tokens: Sequence[str]) -> App:
    """The subcommand, with the options of the sink that `tokens` name."""
    app = App(name="replay", help=HELP)
    name = _named(tokens)
    app.default(_make_command(tokens, find_sink(name) if name else Sink))
    return app


def _named(tokens: Sequence[str]) -> str | None:
    """What stands behind `--to`."""
    for place, token in enumerate(tokens):
        if token == "--to" and place + 1 < len(tokens):
            return tokens[place + 1]
        if token.startswith("--to="):
            return token.removeprefix("--to=")
    return None


def _make_command(tokens: Sequence[str], sink: type[Sink]) -> Callable[..., int]:
    def command(
        target: str,
        *,
        to: str,  # noqa: ARG001  # `make_app` has read it, to know the options
        output: Path | None = None,
        skip_superseded: Annotated[bool, Parameter(negative="")] = False,
        reading: Annotated[Reading, Parameter("*")] = DEFAULT,
        options: object = sink.options,
    ) -> int:
        """Write the output.

        Args:
            target: A run's folder, a connection file or an address.
            to: The sink that writes it.
            output: A folder in which this sink has written nothing; "replay" in the run's folder if left out.
            skip_superseded: Leave out what a resumed run has superseded.
            reading: Which process, and how long to wait.
            options: The sink's own.
        """
        where = resolve_target(target)
        if reading.rank == "all":
            return run_for_each_rank(where, ["replay", *tokens], reading.give_up)
        folder = output or _default_output(where)
        _refuse_output(folder, sink, parse_rank(reading.rank))
        make_sink = functools.partial(_make_replaying, sink, options)
        return run_sink(make_sink, where, folder, reading, skip_superseded=skip_superseded, what="replaying")

    return with_options_of(sink, command)


def _make_replaying(sink: type[Sink], options: object) -> Sink:
    made = sink(options)
    made.is_replay = True
    return made


def _default_output(target: Target) -> Path:
    return folder_of(target) / "replay"


def _refuse_output(folder: Path, sink: type[Sink], rank: int) -> None:
    """Refuse one that has a cursor: going on there, a replay could leave in it what it is to leave out."""
    if CursorFile(folder, sink.name, rank).path.exists():
        raise OutputError(f"{sink.name} has written into {folder} already: choose another folder with --output")
