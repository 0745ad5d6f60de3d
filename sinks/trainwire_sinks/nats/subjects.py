"""The subjects and ids of the messages in a stream.

<stream>.<run>.<rank>.<channel>.<attempt>    batches, each as a record of the journal, a large one in several parts
<stream>.<run>.<rank>.<attempt>              the status of an attempt, of which only the last is kept: {renewed, over}

A message's id is <run>/<rank>/<attempt>/<seq of the batch's first event>/<part>. Bytes that subjects do not allow are
escaped as =XX.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from trainwire_protocol.wire import Header

MESSAGE_ID: Final = "Nats-Msg-Id"

PART_BYTES: Final = 512 << 10
"""Size of the longest part of a record; by default a server accepts messages of up to 1 MiB."""

_ESCAPED: Final = re.compile(rb"[^A-Za-z0-9_-]")


class PartKey(NamedTuple):
    """The batch and the part that a message contains, within its run and rank."""

    attempt: int
    seq: int
    part: int


def escape(name: str) -> str:
    """Return a name as one token of a subject."""
    return _ESCAPED.sub(lambda found: b"=%02X" % found[0][0], name.encode()).decode()


def unescape(token: str) -> str:
    """Return the name that `escape` was given; other escapes are left unchanged."""
    data = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), token.encode())
    return data.decode(errors="replace")


def rank_subject(stream: str, run: str, rank: int | str) -> str:
    """Return the common prefix of a rank's subjects; `*` stands for all ranks."""
    return f"{stream}.{escape(run)}.{rank}"


def batch_subject(stream: str, header: Header) -> str:
    """Return the subject of a batch."""
    return f"{rank_subject(stream, header.run, header.rank)}.{escape(header.channel)}.{header.attempt}"


def message_id(header: Header, part: int) -> str:
    """Return the id of a part of a batch."""
    return f"{escape(header.run)}/{header.rank}/{header.attempt}/{header.seq}/{part}"


def parse_message_id(identifier: str | None, run: str, rank: int) -> PartKey | None:
    """Return the batch and part of a message's id; None if the id is not of this rank."""
    run_and_rank, *numbers = (identifier or "").rsplit("/", 3)
    if run_and_rank != f"{escape(run)}/{rank}" or not all(part.isascii() and part.isdecimal() for part in numbers):
        return None
    return PartKey(*map(int, numbers)) if len(numbers) == 3 else None
