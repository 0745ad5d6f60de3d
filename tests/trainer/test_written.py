"""What is written is published a little at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from trainwire.written import MAX_CONFIRMED, Written
from trainwire_protocol.wire import Batch, Header, encode_batch


def test_others_have_their_turn_between_a_few_batches() -> None:
    """However many batches were written at once, requests and heartbeats come in between, and the order stays."""
    batches = [encode_batch(Header("run", 0, 0, "event", seq, 1, {}), [("a", 1.0, "scalar", 1.0, 1)])
               for seq in range(10 * MAX_CONFIRMED)]  # fmt: skip
    seen: list[Sequence[Batch] | None] = []

    async def live() -> None:
        written = Written(asyncio.get_running_loop(), seen.append)
        for begin in range(0, len(batches), MAX_CONFIRMED + 1):
            written.add(batches[begin : begin + MAX_CONFIRMED + 1])
        while written:
            seen.append(None)
            await asyncio.sleep(0)

    asyncio.run(live())
    assert [batch for some in seen if some is not None for batch in some] == batches
    assert max(len(some) for some in seen if some is not None) <= MAX_CONFIRMED
    assert not any(first is not None and second is not None for first, second in pairwise(seen))
