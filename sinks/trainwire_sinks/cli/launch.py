"""`trainwire launch`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import OptionError
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
    if not wait >= 0:
        raise OptionError(f"--wait is a number of seconds, 0 or more, not {wait}")
    sinks = list(DEFAULT_SINKS) if sink is None else sink
    for name in sinks:
        find_sink(name)
    return Launch(command, sinks, wait).run()
