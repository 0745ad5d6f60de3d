"""The exit codes of the `trainwire` command, by name."""

from __future__ import annotations

import errno
from enum import IntEnum

from trainwire_protocol.errors import (
    CursorAheadError,
    IncompleteError,
    NothingMatchesError,
    OutputError,
    ProtocolError,
    RunInUseError,
    ScriptError,
    SinkError,
    TrainwireError,
    UsageError,
)


class ExitCode(IntEnum):
    """What a command ended with."""

    OK = 0
    """It did what was asked."""
    OUTPUT = 1
    """The output cannot be written, or another process writes it."""
    USAGE = 2
    """It cannot be done as asked: a wrong option, TARGET or name, or a missing package."""
    INCOMPLETE = 3
    """Events that exist somewhere could not be had; what was had is written, and a later start goes on from there."""
    SINK = 4
    """The sink's own code kept failing; a later start goes on from the last commit."""
    PROTOCOL = 5
    """What was read is not what the wire's specification says, or is of a newer version of it."""
    NOT_WHOLE = 6
    """`verify`: the run's record lacks something that was recorded."""
    NO_MATCH = 7
    """`export` and `tail`: nothing in the run is what was asked for."""
    INTERNAL = 70
    """A mistake in Trainwire."""
    NOT_FOUND = 127
    """`launch`: the script cannot be started."""
    INTERRUPTED = 130
    """Ended by SIGINT, with everything committed."""
    BROKEN_PIPE = 141
    """Whoever read standard output is gone, as `head` is once it has enough."""
    TERMINATED = 143
    """Ended by SIGTERM, with everything committed."""


_CODES: tuple[tuple[type[TrainwireError], ExitCode], ...] = (
    (OutputError, ExitCode.OUTPUT),
    (UsageError, ExitCode.USAGE),
    (RunInUseError, ExitCode.USAGE),
    (IncompleteError, ExitCode.INCOMPLETE),
    (CursorAheadError, ExitCode.INCOMPLETE),
    (SinkError, ExitCode.SINK),
    (ScriptError, ExitCode.NOT_FOUND),
    (NothingMatchesError, ExitCode.NO_MATCH),
    (ProtocolError, ExitCode.PROTOCOL),
)


def exit_code(error: TrainwireError) -> ExitCode:
    """The exit code of a command that ends with `error`."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def will_pass(error: OSError) -> bool:
    """Whether writing may succeed later without anybody changing folders or rights: a full disk, say."""
    return error.errno not in _LASTING


_LASTING = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
