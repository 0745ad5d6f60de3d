"""Every exception that Trainwire raises on purpose.

TrainwireError
├── UsageError                 what the caller asked for cannot be done as asked
│   ├── InvalidEventError      a name, value, type, walltime or step that an event cannot have
│   ├── TargetError            a TARGET that names no run
│   ├── KeyFileError           a file of keys that cannot be read, or none where one is needed
│   ├── OptionError            an option or parameter with a value it cannot have
│   ├── MissingExtraError      a feature whose optional packages are not installed
│   └── OutputError            an output that cannot be written, or that another process holds
├── RunInUseError              a second live trainer on one run's folder
├── ProtocolError              bytes that are not what the wire's specification says
│   ├── MalformedBatchError    a header or body that cannot be decoded
│   ├── BadRecordError         a damaged record of a journal
│   ├── ConnectionFileError    a connection file that cannot be read
│   ├── RequestError           a request or reply that cannot be understood
│   │   └── RefusedError       a request that the publisher does not grant
│   └── UnsupportedVersionError  a newer major version of the wire
├── IncompleteError            events that exist somewhere, but could not be had
└── CursorAheadError           a cursor behind the end of the record
"""

from __future__ import annotations


class TrainwireError(Exception):
    """Base of all errors of Trainwire: catch it to catch them all."""


class UsageError(TrainwireError):
    """What the caller asked for cannot be done as asked."""


class InvalidEventError(UsageError):
    """A name, value, type, walltime or step that an event cannot have."""


class TargetError(UsageError):
    """A TARGET that names no run."""


class KeyFileError(UsageError):
    """A file of keys that cannot be read, or none where one is needed."""


class OptionError(UsageError):
    """An option or parameter with a value it cannot have."""


class MissingExtraError(UsageError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install 'trainwire[{extra}]'")


class OutputError(UsageError):
    """An output that cannot be written, or that another process holds."""


class RunInUseError(TrainwireError):
    """A second live trainer on one run's folder."""


class ProtocolError(TrainwireError):
    """Bytes that are not what the wire's specification says."""


class MalformedBatchError(ProtocolError):
    """A header or body that cannot be decoded."""


class BadRecordError(ProtocolError):
    """A damaged record of a journal."""


class ConnectionFileError(ProtocolError):
    """A connection file that cannot be read."""


class RequestError(ProtocolError):
    """A request or reply that cannot be understood."""


class RefusedError(RequestError):
    """A request that the publisher does not grant.

    Args:
        verb: what was asked for.
        reason: why not, in the publisher's words.
    """

    def __init__(self, verb: str, reason: str) -> None:
        super().__init__(f"the publisher refused {verb}: {reason}")
        self.reason = reason


class UnsupportedVersionError(ProtocolError):
    """A newer major version of the wire."""


class IncompleteError(TrainwireError):
    """Events that exist somewhere, but could not be had."""


class CursorAheadError(TrainwireError):
    """A cursor behind the end of the record: a disk has lost what it had taken, as when its host crashes."""
