"""The exit codes of the `trainwire` command, by name."""

from __future__ import annotations

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
    """How a command ended."""

    OK = 0
    """The command succeeded."""
    OUTPUT = 1
    """The output cannot be written, or another process is writing it."""
    USAGE = 2
    """An option, a TARGET or a name is invalid, or a package is missing."""
    INCOMPLETE = 3
    """Some events are unavailable; what was read is written, and a later start continues from there."""
    SINK = 4
    """The sink's own code kept raising; a later start continues from the last commit."""
    PROTOCOL = 5
    """The data does not conform to the wire protocol, or is of a newer version of it."""
    NOT_WHOLE = 6
    """`verify`: events that were recorded are missing from the journal."""
    NO_MATCH = 7
    """`export` and `tail`: no event of the run matches the filters."""
    INTERNAL = 70
    """A bug in Trainwire."""
    NOT_FOUND = 127
    """`launch`: the script cannot be started."""
    INTERRUPTED = 130
    """Ended by SIGINT, with everything committed."""
    BROKEN_PIPE = 141
    """The reader of standard output closed it, as `head` does."""
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
    """Return the exit code of a command that ends with `error`."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)
