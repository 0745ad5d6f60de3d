"""A reader with small queues receives every event of large bursts, in order and once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target

EVENTS = 200_000

PUBLISHER = """
import sys, time, trainwire
bus = trainwire.open_bus(sys.argv[1], high_water_mark=10)
image = {"data": b"png", "format": "png"}
for burst in range(0, 100_000, 50):
    for step in range(burst + 1, burst + 51):
        bus.log({"a": float(step)}, step=step)
    for step in range(burst + 1, burst + 51):
        bus.publish("b", image, "image", step)
    if burst % 5000 == 0:
        time.sleep(0.1)
bus.close(timeout=150)
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("use_journal", [True, False])
def test_bursts_beyond_the_high_water_mark_lose_no_event(tmp_path: Path, use_journal: bool) -> None:
    """With a high-water mark of ten on both sides, 200,000 events of two channels are read in order, none missing."""
    steps: dict[str, list[int]] = {"a": [], "b": []}

    async def read() -> None:
        subscription = Subscription(
            Target(tmp_path), channels=("event", "media"), high_water_mark=10, use_journal=use_journal, name="test"
        )
        acknowledged = -1
        async with subscription:
            async for batch in subscription:
                if batch.header.last or batch.cursor.seq > acknowledged + 5000:
                    await subscription.acknowledge(batch.cursor)
                    acknowledged = batch.cursor.seq
                for event in batch.events:
                    if event.name in steps:
                        steps[event.name].append(event.step)
            assert subscription.gaps == subscription.malformed == 0

    publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path)])
    try:
        asyncio.run(read())
        assert publisher.wait(30) == 0
    finally:
        publisher.kill()
        publisher.wait()
    assert steps == {"a": [*range(1, EVENTS // 2 + 1)], "b": [*range(1, EVENTS // 2 + 1)]}
