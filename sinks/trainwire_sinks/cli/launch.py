"""`trainwire launch`."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.endpoints import BIND, Tcp
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.sink import check_sink_command
from trainwire_sinks.launch.launcher import Launch

DEFAULT_SINKS = ("loss-file", "log-file")


def launch(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    sink: Annotated[list[str] | None, Parameter(negative="")] = None,
    wait: float = 60.0,
    bind: str | None = None,
) -> int:
    """Run a script with sinks beside it: trainwire launch --sink tensorboard -- python train.py

    Args:
        command: The script's command line.
        sink: A sink that each of the script's runs gets, perhaps with options: 'alerts --rules alerts.toml'. Give it
            several times for several. Without it: loss-file and log-file.
        wait: Longest time to wait for the sinks after the script's end, in seconds.
        bind: tcp://address:port where the script's runs are reached from other hosts, encrypted; port 0 is any.

    Returns:
        The script's exit code.
    """
    if not command:
        raise OptionError("launch what? Give the script's command line: trainwire launch -- python train.py")
    if command[0].startswith("-"):
        raise OptionError(
            f"launch has no option {command[0]}, only --sink, --wait and --bind. A sink's options stand with its name, "
            "as in --sink 'alerts --rules alerts.toml'; the script's command line stands behind --"
        )
    check_seconds("--wait", wait)
    sinks = [SinkCommand.parse(text) for text in (DEFAULT_SINKS if sink is None else sink)]
    for each in sinks:
        check_sink_command(each)
    if bind is not None:
        Tcp(bind).check()
        os.environ[BIND] = bind
    return Launch(command, sinks, wait).run()
