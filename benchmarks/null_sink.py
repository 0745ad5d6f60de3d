"""A process that decodes the events of a run and does nothing with them: python -m benchmarks.null_sink RUN

It prints a line when it has received the first batch, and a second one at the end: the number of events, the number of
gaps and malformed messages, the seconds since the first batch, the median and 99th percentile of the seconds from the
recording of an event to its handling, and the processor time.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

from benchmarks.measurement import percentile
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import resolve_target
from trainwire_sinks.cli.app import COLLECT_AFTER


async def read(target: str) -> None:
    """Read the run to its end, and print the figures."""
    events, delays, start = 0, list[float](), 0.0
    async with Subscription(resolve_target(target)) as subscription:
        async for batch in subscription:
            if not events:
                start = time.perf_counter()
                print("reading", flush=True)
            handled = batch.events
            events += len(handled)
            delays.append(time.time() - handled[len(handled) // 2].walltime)
        lost = subscription.gaps + subscription.malformed
    seconds = time.perf_counter() - start
    print(events, lost, seconds, percentile(delays, 0.5), percentile(delays, 0.99), time.process_time(), flush=True)


if __name__ == "__main__":
    gc.set_threshold(COLLECT_AFTER)  # the same as the command line sets for every sink
    asyncio.run(read(sys.argv[1]))
