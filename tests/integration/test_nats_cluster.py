"""A cluster of three NATS servers that loses its leader under load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from support.nats_servers import NatsServer, nats_servers
from support.recorder import frames
from support.run_reader import read_batches, wait_until
from support.trainer_process import Trainer

from trainwire_protocol.events import CHANNELS
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import resolve_target
from trainwire_protocol.wire import Batch
from trainwire_sinks.nats.connection import connect

STREAM = "trainwire"


def sink(name: str, target: object, *options: object) -> subprocess.Popen[str]:
    """Start a sink in a process of its own."""
    command = [sys.executable, "-m", "trainwire_sinks", "sink", name, target, *options]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


def kill_leader(servers: list[NatsServer]) -> NatsServer:
    """Kill the leader of the stream and return it."""

    async def find() -> int:
        client = await connect([server.url for server in servers])
        info = await client.jetstream().stream_info(STREAM)
        await client.close()
        assert info.config.num_replicas == 3
        assert info.cluster and info.cluster.leader
        return int(info.cluster.leader.removeprefix("n"))

    leader = servers[asyncio.run(asyncio.wait_for(find(), 10))]
    leader.kill()
    return leader


async def read(target: str) -> list[Batch]:
    async with Subscription(resolve_target(target), channels=CHANNELS) as subscription:
        return [batch async for batch in subscription]


async def count_messages(servers: list[NatsServer]) -> tuple[int, int]:
    """Return the number of messages with batches, and the number of their distinct ids."""
    client = await connect([server.url for server in servers])
    context = client.jetstream()
    info = await context.stream_info(STREAM, subjects_filter=f"{STREAM}.*.*.*.*")
    count = sum((info.state.subjects or {}).values())
    subscription = await context.subscribe(f"{STREAM}.*.*.*.*", ordered_consumer=True)
    ids = {((await subscription.next_msg(5)).headers or {})["Nats-Msg-Id"] for _ in range(count)}
    await client.close()
    return count, len(ids)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.timeout(180)
def test_killing_the_leader_under_load_loses_nothing(tmp_path: Path) -> None:
    """The leader is killed while a run is published and read; the stream then equals the journal, each batch once."""
    with nats_servers(tmp_path, 3) as servers:
        trainer = Trainer(tmp_path / "run")
        urls = ",".join(server.url.removeprefix("nats://") for server in servers)
        target, output = f"nats://{urls}/", tmp_path / "far"
        sinks = [
            sink("nats", trainer.folder, "--server", f"nats://{urls}", "--replicas", 3),
            sink("jsonl", target, "--output", output),
        ]
        try:
            lines = output / "events.jsonl"
            wait_until(lambda: size(lines) > 50_000, 30)
            leader = kill_leader(servers)
            before = size(lines)
            wait_until(lambda: size(lines) > before + 100_000, 30)
            leader.start()
            trainer.end()
            for process in sinks:
                _, stderr = process.communicate(timeout=40)
                assert process.returncode == 0, stderr
        finally:
            for process in (*sinks, trainer.process):
                process.kill()
                process.communicate()
        found = asyncio.run(asyncio.wait_for(read(target), 30))
        batches = read_batches(trainer.folder)
        assert frames(found) == frames(batches)
        count, ids = asyncio.run(asyncio.wait_for(count_messages(servers), 30))
        assert count == ids == len(batches)
        near = sink("jsonl", trainer.folder, "--output", tmp_path / "near")
        near.communicate(timeout=120)
        assert (tmp_path / "near" / "events.jsonl").read_bytes() == lines.read_bytes()
