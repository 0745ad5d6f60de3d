"""Hosts on this machine: named network namespaces, and links between them that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

_numbers: Final = count()


@dataclass
class Host:
    """A network namespace with a host name and addresses."""

    name: str
    addresses: dict[str, str] = field(default_factory=dict)
    """Addresses of this host, by the name of the host at the other end of the link."""

    @property
    def namespace(self) -> str:
        """The name of the namespace on this machine."""
        return f"trainwire-{os.getpid()}-{self.name}"

    def command(self, command: Sequence[object]) -> list[str]:
        """Return the command line that runs a command on this host, with the host's own name."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.namespace, *named, *map(str, command)]


@dataclass(frozen=True)
class Cable:
    """A link between two hosts, with a switch in between."""

    switch: Host
    ports: tuple[str, str]

    def pull(self) -> None:
        """Cut the link: packets are lost, and no connection is closed."""
        self._set("down")

    def plug(self) -> None:
        """Restore the link."""
        self._set("up")

    def _set(self, state: str) -> None:
        for port in self.ports:
            _ip("-n", self.switch.namespace, "link", "set", port, state)


class Network:
    """Creates and connects hosts, and removes them at the end."""

    def __init__(self, ending: ExitStack) -> None:
        self._ending = ending

    def add(self, name: str) -> Host:
        """Add a host without links."""
        host = Host(name)
        _ip("netns", "add", host.namespace)
        self._ending.callback(_ip, "netns", "del", host.namespace)
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        return host

    def connect(self, one: Host, other: Host) -> Cable:
        """Connect two hosts by a link with its own subnet."""
        number = next(_numbers)
        switch = self.add(f"switch-{number}")
        _ip("-n", switch.namespace, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch.namespace, "link", "set", "bridge", "up")
        for place, (host, far) in enumerate(((one, other), (other, one)), start=1):
            port, end = f"port{place}", f"cable{number}"
            _ip("-n", switch.namespace, "link", "add", port, "type", "veth", "peer", end, "netns", host.namespace)
            _ip("-n", switch.namespace, "link", "set", port, "master", "bridge", "up")
            host.addresses[far.name] = f"10.77.{number}.{place}"
            _ip("-n", host.namespace, "address", "add", f"{host.addresses[far.name]}/24", "dev", end)
            _ip("-n", host.namespace, "link", "set", end, "up")
        return Cable(switch, ("port1", "port2"))


@contextmanager
def network() -> Iterator[Network]:
    """Create a network of namespaces, and remove all of it afterwards."""
    with ExitStack() as ending:
        yield Network(ending)


def why_not() -> str:
    """Return why network namespaces cannot be used here, or an empty string if they can."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "ip and unshare (iproute2, util-linux) are not installed"
    name = f"trainwire-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be created: {made.stderr.strip()}"
    try:
        probe = ["ip", "-n", name, "link", "add", "probe", "type", "veth", "peer", "other"]
        probed = subprocess.run(probe, capture_output=True, text=True, check=False)
        inside = ["ip", "netns", "exec", name, "unshare", "--uts", "true"]
        entered = subprocess.run(inside, capture_output=True, text=True, check=False)
    finally:
        _ip("netns", "del", name)
    problems = [done.stderr.strip() for done in (probed, entered) if done.returncode]
    return f"network namespaces cannot be used: {problems[0]}" if problems else ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
