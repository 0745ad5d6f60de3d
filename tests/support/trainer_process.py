"""A trainer in its own process that records until it is ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.run_reader import read_events, wait_until
from trainwire_protocol.transport.connection import Connection, connection_path, read_connection

TRAINER = """
import sys, threading, trainwire
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
rank = int(sys.argv[2])
with trainwire.open_bus(sys.argv[1], rank=rank, world_size=rank + 1, bind=sys.argv[3] or None) as bus:
    step = 0
    while not ended.is_set():
        step += 1
        bus.log({"train/loss": float(step), "train/norm": 1.0}, step=step)
        if step % 100 == 0:
            bus.publish("image", {"data": bytes(2_000), "format": "png"}, "image", step)
        ended.wait(0.001)
    bus.close(timeout=10)
print(step)
"""


class Trainer:
    """A process that records until `end` is called."""

    def __init__(self, folder: Path, bind: str = "", rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(folder), str(rank), bind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: connection_path(folder, rank).exists() and len(read_events(folder, rank)) > 1)
        except AssertionError:
            self.kill()
            raise
        self.connection: Connection = read_connection(connection_path(folder, rank))

    def kill(self) -> None:
        """Kill the process if it is still running."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> int:
        """Let the process end, and return the number of its steps."""
        output, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0
        return int(output)

    @property
    def resident_bytes(self) -> int:
        """The resident memory of the process."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096
