"""Every exception that the three packages define.

TrainwireError
├── UsageError                       the request cannot be carried out as given
│   ├── InvalidEventError            an invalid name, value, type, walltime or step
│   ├── UnsupportedValueError        a value that no event can be made of
│   ├── TargetError                  a TARGET that does not name a run
│   ├── KeyFileError                 a key file that is missing or cannot be read
│   ├── OptionError                  an invalid value of an option or parameter
│   ├── MissingExtraError            an optional package that is not installed
│   ├── SinkLoadError                a third-party sink that cannot be imported, or is not a sink
│   ├── DamagedCheckpointError       a checkpoint whose contents have changed
│   ├── InterruptedReadingError      reading that a signal interrupted
│   └── OutputError                  an output that cannot be written
│       └── ClaimedError             an output that another process is writing
├── RunInUseError                    a run folder that another live trainer uses
├── ProtocolError                    data that does not conform to the wire protocol
│   ├── MalformedBatchError          a header or body that cannot be decoded
│   ├── BadRecordError               a damaged record of a journal
│   ├── ConnectionFileError          a connection file that cannot be read
│   ├── RequestError                 a request or reply that cannot be understood
│   │   └── RefusedError             a request that the publisher refused
│   └── UnsupportedVersionError      a newer major version of the wire
├── IncompleteError                  events that were recorded but are unavailable
├── CursorAheadError                 a cursor past the end of what is recorded
├── SinkError                        a sink whose own code kept failing
│   └── SinkBugError                 a sink whose own code has a bug
├── ScriptError                      a script that `trainwire launch` cannot start
└── NothingMatchesError              a run that contains nothing of what was requested

The following do not derive from TrainwireError, because the sinks handle them and never exit with them:

Exception
├── OutputChangedError               an output that differs from its last commit
├── CursorFileError                  a cursor file that does not contain a cursor
├── DeliveryRefusedError             a message that its receiver rejects
├── SettingError                     an invalid setting in a rules file
└── OSError
    └── NatsError                    a NATS server that is unreachable or refuses a request
"""

from __future__ import annotations


class TrainwireError(Exception):
    """Base class of the errors that Trainwire reports; catch it to catch them all."""


class UsageError(TrainwireError):
    """The request cannot be carried out as given."""


class InvalidEventError(UsageError):
    """An event has an invalid name, value, type, walltime or step."""


class UnsupportedValueError(UsageError):
    """No event can be made of what was passed to the bus; the message says why, and what to pass instead."""


class TargetError(UsageError):
    """A TARGET does not name a run."""


class KeyFileError(UsageError):
    """A key file is missing or cannot be read."""


class OptionError(UsageError):
    """An option or parameter has an invalid value."""


class MissingExtraError(UsageError):
    """An optional package that a feature needs is not installed.

    Args:
        feature: what needs the package.
        extra: the extra of `trainwire` that installs it.
        package: the package.
    """

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install 'trainwire[{extra}]'")


class SinkLoadError(UsageError):
    """A sink of another package cannot be imported, or is not a sink."""


class DamagedCheckpointError(UsageError):
    """A checkpoint's file does not match the length and checksum in its label, or cannot be read."""


class InterruptedReadingError(UsageError):
    """A signal interrupted an evaluation, or ended a worker of the data loader."""


class OutputError(UsageError):
    """An output cannot be written."""


class ClaimedError(OutputError):
    """Another process is writing this output."""


class RunInUseError(TrainwireError):
    """Another live trainer records into this run folder."""


class ProtocolError(TrainwireError):
    """Data does not conform to the wire protocol."""


class MalformedBatchError(ProtocolError):
    """A header or body cannot be decoded."""


class BadRecordError(ProtocolError):
    """A record of a journal is damaged."""


class ConnectionFileError(ProtocolError):
    """A connection file cannot be read."""


class RequestError(ProtocolError):
    """A request or reply cannot be understood."""


class RefusedError(RequestError):
    """The publisher refused a request.

    Args:
        verb: the request's verb.
        reason: the publisher's reason.
    """

    def __init__(self, verb: str, reason: str) -> None:
        super().__init__(f"the publisher refused {verb}: {reason}")
        self.reason = reason


class UnsupportedVersionError(ProtocolError):
    """Data was written by a newer major version of the wire."""


class IncompleteError(TrainwireError):
    """Events were recorded but are unavailable."""


class CursorAheadError(TrainwireError):
    """A cursor is past the end of what is recorded, for example because a host crashed and its disk lost data."""


class SinkError(TrainwireError):
    """A sink's own code kept failing; its cursor is intact, so the sink can be started again."""


class SinkBugError(SinkError):
    """A sink raised an error that is not among those it retries on, and so shows a bug; it was not run again."""


class ScriptError(TrainwireError):
    """`trainwire launch` cannot start the script."""


class NothingMatchesError(TrainwireError):
    """A run contains nothing of what was requested."""


class OutputChangedError(Exception):
    """An output differs from its last commit, because another program changed it; it must be written again."""


class CursorFileError(Exception):
    """A cursor file does not contain a cursor."""


class DeliveryRefusedError(Exception):
    """A receiver rejects a message, and would reject it again."""


class SettingError(Exception):
    """A setting in a rules file is unknown, missing or invalid.

    Args:
        keys: the setting's path in the file, one key for each table that contains it and then its own.
        problem: what is wrong.
    """

    def __init__(self, keys: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.keys = keys


class NatsError(OSError):
    """A NATS server is unreachable, or refuses a request."""
