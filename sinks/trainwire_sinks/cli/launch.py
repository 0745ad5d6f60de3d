"""`trainwire launch`."""

from __future__ import annotations

import os
from typing import Annotated, Final

from cyclopts import Parameter

from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.endpoints import BIND, Tcp
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.sink import check_sink_command
from trainwire_sinks.launch.launcher import Launcher

DEFAULT_SINKS: Final = ("loss-file", "log-file")


def launch(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    sink: Annotated[list[str] | None, Parameter(negative="")] = None,
    wait: float = 60.0,
    bind: str | None = None,
) -> int:
    """Run a script with sinks beside it: trainwire launch --sink tensorboard -- python train.py

    Args:
        command: The script's command line.
        sink: A sink for each of the script's runs, optionally with options: 'alerts --rules alerts.toml'. May be given
            several times; by default loss-file and log-file.
        wait: Seconds to wait for the sinks after the script has ended.
        bind: tcp://address:port where the script's runs accept connections from other hosts, encrypted; port 0 means
            any free port.

    Returns:
        The script's exit code.
    """
    if not command:
        raise OptionError("the script's command line is missing: trainwire launch -- python train.py")
    if command[0].startswith("-"):
        raise OptionError(
            f"launch has no option {command[0]}, only --sink, --wait and --bind. Put a sink's options after its name, "
            "as in --sink 'alerts --rules alerts.toml', and the script's command line after --"
        )
    check_seconds("--wait", wait)
    sinks = [SinkCommand.parse(text) for text in (DEFAULT_SINKS if sink is None else sink)]
    for each in sinks:
        check_sink_command(each)
    if bind is not None:
        Tcp(bind).check()
        os.environ[BIND] = bind
    return Launcher(command, sinks, wait).run()
