"""The terminal that a person may be looking at: what may be sent there, and what it sends."""

from __future__ import annotations

import os
import signal
from typing import Final, TextIO

_TYPED: Final = (signal.SIGINT, signal.SIGQUIT)
"""What a terminal sends to all processes in its foreground when somebody types Ctrl-C or Ctrl-\\."""


def has_colours(stream: TextIO) -> bool:
    """Whether colours are wanted there: only on a terminal, and not if `NO_COLOR` is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_sent_by_terminal(number: int) -> bool:
    """Whether the terminal has sent this signal to the processes that this one has started, too."""
    return number in _TYPED and _is_in_foreground()


def _is_in_foreground() -> bool:
    """Whether this process is in the foreground of a terminal."""
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
