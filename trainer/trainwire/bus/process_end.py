"""The end of the process: closes the buses that are still open, with the status that the process ends with.

A bus in a `with` block is closed at the end of the block. For all others, Python tells at exit which exception was
unhandled, but not with which code the program has exited, and a signal ends the process at once. While a bus is open,
`sys.exit` is therefore wrapped, and signals with their default action are handled: the buses are closed, and the
process then ends by the signal.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, Protocol, TypeAlias

_log: Final = logging.getLogger("trainwire")

Status: TypeAlias = Literal["finished", "failed", "interrupted"]

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process without an exception. Those that a program often uses itself are not among them."""

_INTERRUPTIONS: Final = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
"""Exceptions with which a training is ended from outside."""

_EXITS: Final = ((sys, "exit"), (builtins, "exit"), (builtins, "quit"))
"""The functions with which a program exits."""


class ClosableBus(Protocol):
    """What this module uses of a bus."""

    @property
    def folder(self) -> Path:
        """The run's folder."""

    @property
    def rank(self) -> int:
        """The rank that it records."""

    def close(self, timeout: float | None = None, status: str = "finished", reason: str | None = None) -> None:
        """Record the last event and close the bus; if it is being closed, wait until it is."""

    def disown(self) -> None:
        """Record nothing more in this process, which is a fork."""


def status_of(error: BaseException | None) -> tuple[Status, str | None]:
    """Return the status and the reason of a run that ended with this exception, or without one."""
    if error is None or (isinstance(error, SystemExit) and _is_success(error.code)):
        return "finished", None
    status: Status = "interrupted" if isinstance(error, _INTERRUPTIONS) else "failed"
    text = ""
    with contextlib.suppress(Exception):  # the text of an exception of the user's may fail
        text = f": {error}".removesuffix(": ")
    return status, type(error).__name__ + text


def _is_success(code: object) -> bool:
    """Return whether the argument of `sys.exit` makes the exit status 0."""
    return code is None or (isinstance(code, int) and code == 0)


class ProcessEnd:
    """The open buses of this process, and what is installed to close them."""

    def __init__(self) -> None:
        self._buses: list[ClosableBus] = []
        self._exit: SystemExit | None = None
        """The last exit that the main thread has requested."""
        self._handled: list[signal.Signals] = []
        self._replaced: list[tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = []
        """Module, name, original and replacement of each function that exits."""
        atexit.register(self._close_all)
        os.register_at_fork(after_in_child=self._disown_all)

    def add(self, bus: ClosableBus) -> None:
        """Close a bus at the end of the process, unless it is removed before."""
        if not self._buses:
            self._install()
        self._buses.append(bus)

    def close_earlier(self, folder: Path, rank: int) -> None:
        """In an interactive session, close the open bus of a rank: its cell or line is executed again."""
        if not hasattr(sys, "ps1"):
            return
        for bus in [bus for bus in self._buses if bus.rank == rank and bus.folder.resolve() == folder.resolve()]:
            _log.warning("%s is opened again: the bus that this session had open is closed", folder)
            bus.close(reason="opened again in the same session")

    def remove(self, bus: ClosableBus) -> None:
        """Remove a bus that was closed."""
        if bus in self._buses:
            self._buses.remove(bus)
            if not self._buses:
                self._uninstall()

    def handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of a handler
        """Close the buses, and end the process by the signal."""
        for bus in list(self._buses):
            bus.close(status="interrupted", reason=signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _close_all(self) -> None:
        # In an interactive session, an exception does not end the process.
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        status, reason = status_of(error or self._exit)
        for bus in list(self._buses):
            bus.close(status=status, reason=reason)

    def _disown_all(self) -> None:
        for bus in self._buses:
            bus.disown()
        self._buses.clear()
        self._uninstall()

    def _install(self) -> None:
        self._exit = None
        for module, name in _EXITS:
            original = getattr(module, name, None)  # without the module `site`, only sys has one
            if original is not None and not (module is builtins and hasattr(sys, "ps1")):
                replacement = self._wrap(original)
                setattr(module, name, replacement)
                self._replaced.append((module, name, original, replacement))
        if threading.current_thread() is threading.main_thread():  # no other thread can set handlers
            self._handled = [number for number in SIGNALS if _has_default_action(number)]
            for number in self._handled:
                signal.signal(number, self.handle_signal)

    def _uninstall(self) -> None:
        for module, name, original, replacement in self._replaced:
            if getattr(module, name, None) is replacement:
                setattr(module, name, original)
        self._replaced.clear()
        with contextlib.suppress(ValueError):  # not the main thread: a signal without open buses only ends the process
            for number in self._handled:
                if signal.getsignal(number) == self.handle_signal:
                    signal.signal(number, signal.SIG_DFL)

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that exits as `original` does, and remembers with which code."""

        @functools.wraps(original)
        def exit(code: Any = None, /) -> Any:
            if threading.current_thread() is threading.main_thread():  # in another thread it ends only the thread
                self._exit = SystemExit(code)
            return original(code)

        return exit


@cache
def process_end() -> ProcessEnd:
    """Return the object for this process; the first call registers it for the exit and for forks."""
    return ProcessEnd()


def is_default_handler(handler: object) -> bool:
    """Return whether a signal's handler is the default action, or only closes the buses before that."""
    return handler is signal.SIG_DFL or isinstance(getattr(handler, "__self__", None), ProcessEnd)


def _has_default_action(number: signal.Signals) -> bool:
    """Return whether a signal has its default action: neither Python nor a library in C has set a handler."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        fields = Path("/proc/self/status").read_text().split()
        caught = int(fields[fields.index("SigCgt:") + 1], base=16)
    except (OSError, ValueError, IndexError):  # a system without procfs
        return True
    return not caught >> (number - 1) & 1
