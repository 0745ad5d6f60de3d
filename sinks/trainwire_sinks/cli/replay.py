"""`trainwire replay`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from trainwire_protocol.errors import OutputError
from trainwire_protocol.target import Target, resolve_target
from trainwire_sinks.base import NoOptions, Sink
from trainwire_sinks.cli.options import parse_rank
from trainwire_sinks.cli.ranks import run_for_each_rank
from trainwire_sinks.cli.running import folder_of, run_sink
from trainwire_sinks.cursor import CursorFile
from trainwire_sinks.registry import find_sink

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
        rank: str = "0",
        give_up: float | None = None,
        options: object = sink.options,
    ) -> int:
        """Write the output.

        Args:
            target: A run's folder, a connection file or an address.
            to: The sink that writes it.
            output: A folder in which this sink has written nothing; "replay" in the run's folder if left out.
            skip_superseded: Leave out what a resumed run has superseded.
            rank: The process whose events are wanted, or "all": each by a sink of its own, with an output of its own.
            give_up: Seconds after which a trainer on another host that has fallen silent is no longer waited for.
            options: The sink's own.
        """
        where = resolve_target(target)
        if rank == "all":
            return run_for_each_rank(where, ["replay", *tokens], give_up)
        folder = output or _default_output(where)
        _refuse_output(folder, sink, parse_rank(rank))
        return run_sink(
            functools.partial(sink, options), where, folder, parse_rank(rank),
            give_up=give_up, skip_superseded=skip_superseded,
        )  # fmt: skip

    kind = type(sink.options)
    command.__annotations__["options"] = Annotated[kind, Parameter(name="*", show=kind is not NoOptions)]
    return command


def _default_output(target: Target) -> Path:
    return folder_of(target) / "replay"


def _refuse_output(folder: Path, sink: type[Sink], rank: int) -> None:
    """Refuse one that has a cursor: going on there, a replay could leave in it what it is to leave out."""
    if CursorFile(folder, sink.name, rank).path.exists():
        raise OutputError(f"{sink.name} has written into {folder} already: choose another folder with --output")
