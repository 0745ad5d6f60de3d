"""`trainwire launch`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import OptionError
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.launching import Launch
from trainwire_sinks.registry import find_sink

DEFAULT_SINKS = ("loss-file", "log-file")


def launch(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    sink: Annotated[list[str] | None, Parameter(negative="")] = None,
    wait: float = 60.0,
) -> int:
    """Run a script with sinks beside it: trainwire launch --sink tensorboard -- python train.py

    Args:
        command: The script's command line.
        sink: A sink that each of the script's runs gets; give it several times for several. Without it: loss-file and
            log-file.
        wait: Longest time to wait for the sinks after the script's end, in seconds.

    Returns:
        The script's exit code.
    """
    if not command:
        raise OptionError("launch what? Give the script's command line: trainwire launch -- python train.py")
    if command[0].startswith("-"):
        raise OptionError(
            f"launch has no option {command[0]}, only --sink and --wait. "
            "What belongs to the script's own command line stands behind --"
        )
    check_seconds("--wait", wait)
    sinks = list(DEFAULT_SINKS) if sink is None else sink
    for name in sinks:
        find_sink(name)
    return Launch(command, sinks, wait).run()
