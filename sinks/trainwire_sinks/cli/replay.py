"""`trainwire replay`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from trainwire_protocol.errors import OutputError
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.subscription.target import resolve_target
from trainwire_sinks.cli.options import DEFAULT_READ_OPTIONS, ReadOptions
from trainwire_sinks.cli.ranks import check_attempt_of, parse_rank
from trainwire_sinks.cli.sink_process import folder_of, run_for_each_rank, run_sink, with_options_of
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.registry import find_sink
from trainwire_sinks.runtime.sink import Sink

HELP: Final = """Write a sink's output again, from the beginning, to a new folder: trainwire replay RUN --to tensorboard

With --skip-superseded, the output is as if the run had never been interrupted, and with --attempt N as it was when
attempt N ended. A run that is not over is followed to its end. To see the options of a sink:
trainwire replay --to NAME --help"""


def make_app(tokens: Sequence[str]) -> App:
    """Return the subcommand with the options of the sink that `--to` names in `tokens`."""
    app = App(name="replay", help=HELP)
    name = _sink_name(tokens)
    app.default(_make_command(tokens, find_sink(name) if name else Sink))
    return app


def _sink_name(tokens: Sequence[str]) -> str | None:
    for place, token in enumerate(tokens):
        if token == "--to" and place + 1 < len(tokens):
            return tokens[place + 1]
        if token.startswith("--to="):
            return token.removeprefix("--to=")
    return None


def _make_command(tokens: Sequence[str], sink: type[Sink]) -> Callable[..., int]:
    def make_sink(options: object) -> Sink:
        made = sink(options)
        made.is_replay = True
        return made

    def command(
        target: str,
        *,
        to: str,  # noqa: ARG001  # already read by `make_app`
        output: Path | None = None,
        skip_superseded: Annotated[bool, Parameter(negative="")] = False,
        attempt: int | None = None,
        reading: Annotated[ReadOptions, Parameter("*")] = DEFAULT_READ_OPTIONS,
        options: object = sink.options,
    ) -> int:
        """Write the output.

        Args:
            target: A run's folder, a connection file or an address.
            to: The sink that writes the output.
            output: A folder that this sink has not written to; by default "replay" in the run's folder.
            skip_superseded: Leave out events that a resumed run has superseded.
            attempt: Write the run as it stood when this attempt ended, with what it had resumed and nothing superseded.
            reading: Which rank, and how long to wait.
            options: The sink's own options.
        """
        resolved = resolve_target(target)
        if reading.rank == "all":
            return run_for_each_rank(resolved, ["replay", *tokens], reading.give_up)
        folder = output or folder_of(resolved) / "replay"
        # Continuing from an existing cursor would keep what a replay may be told to leave out.
        if CursorFile(folder, sink.name, parse_rank(reading.rank)).path.exists():
            raise OutputError(f"{sink.name} has already written to {folder}: choose another folder with --output")
        check_attempt_of(resolved, parse_rank(reading.rank), attempt)  # before anything is written
        return run_sink(
            functools.partial(make_sink, options), resolved, folder, reading,
            superseded_by=LATEST if skip_superseded and attempt is None else attempt, last_attempt=attempt,
            activity="replaying",
        )  # fmt: skip

    return with_options_of(sink, command)
