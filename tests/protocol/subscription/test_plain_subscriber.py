"""Twenty lines in any language with ZeroMQ and MessagePack can read the stream."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from support.publisher import Publisher, run

# It uses nothing of Trainwire, only what `docs/wire-protocol.md` specifies.
SUBSCRIBER = """
import json
import sys
from pathlib import Path

import msgpack
import zmq

connection = json.loads((Path(sys.argv[1]) / "connection-rank0.json").read_bytes())
socket = zmq.Context().socket(zmq.SUB)
socket.subscribe(f"tw1/event/{connection['run']}/0/")
socket.subscribe(f"tw1/heartbeat/{connection['run']}/0/")
socket.connect(connection["publish"])
print("connected", flush=True)
while True:
    topic, header, body = socket.recv_multipart()
    header = msgpack.unpackb(header)
    if header["channel"] == "heartbeat":
        print("heartbeat", flush=True)
        continue
    for name, value, type, walltime, step in msgpack.unpackb(body):
        print(json.dumps([name, value, type, walltime, step]), flush=True)
    if header.get("last"):
        break
"""


def test_a_plain_subscriber_reads_the_stream(tmp_path: Path) -> None:
    """A subscriber of twenty lines that imports nothing of ours reads every event that is published."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", SUBSCRIBER, str(tmp_path), stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout
            while (await process.stdout.readline()).strip() != b"heartbeat":
                pass
            for _ in range(5):
                publisher.scalars(3)
            publisher.end()
            lines = (await process.communicate())[0].splitlines()
            events = [json.loads(line) for line in lines if line != b"heartbeat"]
            assert events == [[*event] for batch in publisher.recorded for event in batch.events]
            assert process.returncode == 0

    assert len(SUBSCRIBER.strip().splitlines()) <= 24
    assert "trainwire" not in SUBSCRIBER
    run(main())
