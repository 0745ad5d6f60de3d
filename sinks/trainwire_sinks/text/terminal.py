"""Terminals: whether they support color, which signals they have sent, and output whose reader is gone."""

from __future__ import annotations

import os
import signal
from typing import Final, TextIO

KEYBOARD_SIGNALS: Final = (signal.SIGINT, signal.SIGQUIT)
"""Signals that a terminal sends to all of its foreground processes on Ctrl-C and Ctrl-\\."""


def has_colors(stream: TextIO) -> bool:
    """Return whether to write colors: only to a terminal, and not if `NO_COLOR` is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def discard_output(stream: TextIO) -> None:
    """Discard what a stream still buffers, and what is written to it later, after its reader has closed it.

    Otherwise the next flush, at the latest when Python exits, fails again.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def is_sent_by_terminal(number: int) -> bool:
    """Return whether a signal came from the terminal, which has then sent it to this process's children as well."""
    return number in KEYBOARD_SIGNALS and _is_in_foreground()


def _is_in_foreground() -> bool:
    """Return whether this process is in the foreground process group of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
