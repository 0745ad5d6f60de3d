"""What Ctrl-C and SIGTERM mean while a model is trained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from trainwire.training.control import Control

_DEFAULTS: Final[dict[signal.Signals, Callable[[int, FrameType | None], Any] | signal.Handlers]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@contextmanager
def interruptible(control: Control) -> Iterator[None]:
    """Take the first Ctrl-C or SIGTERM as the wish to stop after the current step, and a Ctrl-C after that as "now".

    Further SIGTERMs change nothing: a cluster sends it to every process, and so does torchrun, which gets it too.

    Only Python's own handlers are replaced, and put back at the end: one that the program has set, or a signal that
    is ignored, stays. Outside the main thread, where handlers cannot be set, nothing is done.

    Raises:
        KeyboardInterrupt: at that Ctrl-C, wherever the training is.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of a handler
        if control.is_signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        control.interrupt("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    replaced = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number, default in _DEFAULTS.items():
                if signal.getsignal(number) is default:
                    signal.signal(number, interrupt)
                    replaced.append(number)
        yield
    finally:
        for number in replaced:
            signal.signal(number, _DEFAULTS[number])
