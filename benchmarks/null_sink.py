"""A process that reads a run, makes its events typed, and does nothing with them: python -m benchmarks.null_sink RUN

It prints a line when it has read the first batch, and at the end how many events there were, the seconds since the
first, the median and 99th percentile of the seconds between recording an event and handling it, and the seconds of the
processor that it took.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

from benchmarks.percentiles import percentile
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import resolve_target
from trainwire_sinks.cli import COLLECT_AFTER


async def read(target: str) -> None:
    events, delays, begun = 0, list[float](), 0.0
    async with Subscription(resolve_target(target)) as subscription:
        async for batch in subscription:
            if not events:
                begun = time.perf_counter()
                print("reading", flush=True)
            handled = batch.events
            events += len(handled)
            delays.append(time.time() - handled[len(handled) // 2].walltime)
        lost = subscription.gaps + subscription.malformed
    seconds = time.perf_counter() - begun
    print(events, lost, seconds, percentile(delays, 0.5), percentile(delays, 0.99), time.process_time(), flush=True)


if __name__ == "__main__":
    gc.set_threshold(COLLECT_AFTER)  # as every sink of the command line does
    asyncio.run(read(sys.argv[1]))
