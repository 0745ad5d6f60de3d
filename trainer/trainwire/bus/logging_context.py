"""The context of log messages: which of the buses that are open in a process they belong to.

Code belongs to the buses that were opened in its context, as `contextvars` defines it: in the same thread or task,
around it. A new thread has an empty context, so those of Trainwire copy that of the code which starts them.
"""

from __future__ import annotations

import contextvars
import threading
import weakref
from functools import partial
from typing import Final, Protocol, TypeVar

AnyThread = TypeVar("AnyThread", bound=threading.Thread)


class OpenBus(Protocol):
    """What log messages are recorded by: an `EventBus`."""

    @property
    def is_open(self) -> bool:
        """Whether log messages are recorded."""

    def publish(self, name: str, value: object, type: str, step: int | None = None) -> None:
        """Record an event."""


_BUSES: Final = contextvars.ContextVar[tuple["weakref.ref[OpenBus]", ...]]("trainwire_buses", default=())


def enter(bus: OpenBus) -> None:
    """Let the messages of this context belong to a bus, until `leave` is called or another one is entered."""
    _BUSES.set((*(reference for reference in _BUSES.get() if reference()), weakref.ref(bus)))


def leave(bus: OpenBus) -> None:
    """Let the messages of this context belong to the buses that were entered before."""
    _BUSES.set(tuple(reference for reference in _BUSES.get() if reference() is not bus))


def current_buses() -> list[OpenBus]:
    """Return the buses of this context, the innermost first."""
    return [bus for reference in reversed(_BUSES.get()) if (bus := reference()) is not None]


def in_this_context(thread: AnyThread) -> AnyThread:
    """Return the thread, which is to run in a copy of this context."""
    thread.run = partial(contextvars.copy_context().run, thread.run)  # type: ignore[method-assign]  # of this instance
    return thread
