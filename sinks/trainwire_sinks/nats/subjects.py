"""How batches are named in a stream.

<stream>.<run>.<rank>.<channel>.<attempt>    batches, each as a record of the journal, in parts where it is large
<stream>.<run>.<rank>.<attempt>              the last word on whether the attempt goes on: JSON {renewed, over}

A message's id is <run>/<rank>/<attempt>/<seq of the batch's first event>/<part>. What cannot stand in a subject is
escaped as =XX, byte by byte.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from trainwire_protocol.wire import Header

MESSAGE_ID: Final = "Nats-Msg-Id"

PART_BYTES: Final = 512 << 10
"""Longest part of a record: by default a server takes messages of up to 1 MiB."""

_ESCAPED: Final = re.compile(rb"[^A-Za-z0-9_-]")


class Place(NamedTuple):
    """Which part of which batch a message is, within its run and rank."""

    attempt: int
    seq: int
    part: int


def escape(name: str) -> str:
    """A name as a part of a subject."""
    return _ESCAPED.sub(lambda found: b"=%02X" % found[0][0], name.encode()).decode()


def unescape(part: str) -> str:
    """The name that `escape` was given; what it would not have written is left as it is."""
    data = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), part.encode())
    return data.decode(errors="replace")


def rank_subject(stream: str, run: str, rank: int | str) -> str:
    """What the subjects of a rank begin with; `*` for all ranks."""
    return f"{stream}.{escape(run)}.{rank}"


def batch_subject(stream: str, header: Header) -> str:
    """Where a batch is stored."""
    return f"{rank_subject(stream, header.run, header.rank)}.{escape(header.channel)}.{header.attempt}"


def message_id(header: Header, part: int) -> str:
    """What tells a message from all others."""
    return f"{escape(header.run)}/{header.rank}/{header.attempt}/{header.seq}/{part}"


def place_of(identifier: str | None, run: str, rank: int) -> Place | None:
    """The place that a message's id names; None if it is not of this rank."""
    run_and_rank, *numbers = (identifier or "").rsplit("/", 3)
    if run_and_rank != f"{escape(run)}/{rank}" or not all(part.isascii() and part.isdecimal() for part in numbers):
        return None
    return Place(*map(int, numbers)) if len(numbers) == 3 else None
