"""The endpoints that a publisher binds, and the addresses that clients get."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.endpoints import Endpoints, Tcp

BOUND = ("tcp://0.0.0.0:5001", "tcp://0.0.0.0:5002")


def test_default_is_a_private_folder() -> None:
    """Without an address the sockets are in a private folder, which `remove` deletes."""
    endpoints = Endpoints.choose(Tcp())
    assert endpoints.folder
    assert endpoints.folder.stat().st_mode & 0o777 == 0o700
    assert endpoints.server_keys is None
    endpoints.remove()
    assert not endpoints.folder.exists()


def test_tcp_endpoints_have_keys() -> None:
    """TCP endpoints come with the server's keys, and with those of a client that the server allows."""
    endpoints = Endpoints.choose(Tcp("tcp://127.0.0.1:0"))
    assert (endpoints.publish, endpoints.request) == ("tcp://127.0.0.1:*",) * 2
    assert endpoints.server_keys
    assert endpoints.client_keys
    assert endpoints.client_keys.client.public in endpoints.server_keys.allowed
    assert endpoints.client_keys.server == endpoints.server_keys.server.public
    fixed = Endpoints.choose(Tcp("tcp://[::1]:7000"))
    assert (fixed.publish, fixed.request) == ("tcp://[::1]:7000", "tcp://[::1]:7001")


@pytest.mark.parametrize(
    ("advertise", "expected"),
    [
        (None, (f"tcp://{socket.gethostname()}:5001", f"tcp://{socket.gethostname()}:5002")),
        ("login.example.org", ("tcp://login.example.org:5001", "tcp://login.example.org:5002")),
        ("10.0.0.1:7000", ("tcp://10.0.0.1:7000", "tcp://10.0.0.1:7001")),
        ("[::1]:7000", ("tcp://[::1]:7000", "tcp://[::1]:7001")),
    ],
)
def test_advertised_endpoints(advertise: str | None, expected: tuple[str, str]) -> None:
    """Clients get the value of `advertise`, or this host's name if all addresses are bound."""
    assert Endpoints.choose(Tcp("tcp://0.0.0.0:5001", advertise)).advertised(*BOUND) == expected


@pytest.mark.parametrize(
    "bind", ["localhost:1", "udp://a:1", "tcp://a", "tcp://a:b", "tcp://a:65535", "tcp://a:1/x", 5]
)
def test_invalid_bind_is_refused(bind: str) -> None:
    """An invalid address to bind raises OptionError, which shows it."""
    with pytest.raises(OptionError, match="bind is"):
        Endpoints.choose(Tcp.from_environment(bind))


@pytest.mark.parametrize("advertise", ["a:7000", "a b", "a:0", "a:x", "a:65535", "a/b", ":5"])
def test_invalid_advertise_is_refused(advertise: str) -> None:
    """An invalid host to advertise raises OptionError, which shows it."""
    with pytest.raises(OptionError, match="advertise is"):
        Endpoints.choose(Tcp("tcp://0.0.0.0:0", advertise))


def test_tcp_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment variables fill in what is not given; a complete `Tcp` is used unchanged."""
    for name, value in {"BIND": "tcp://0.0.0.0:0", "ADVERTISE": "login", "CLIENTS": "/keys"}.items():
        monkeypatch.setenv(f"TRAINWIRE_{name}", value)
    monkeypatch.setenv("TRAINWIRE_SERVER_KEY", "")
    assert Tcp.from_environment() == Tcp("tcp://0.0.0.0:0", "login", None, Path("/keys"))
    assert Tcp.from_environment("tcp://127.0.0.1:0") == Tcp("tcp://127.0.0.1:0", "login", None, Path("/keys"))
    assert Tcp.from_environment(Tcp()) == Tcp()


def test_processes_of_one_host_share_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process gets two ports from a TRAINWIRE_BIND that they share; an explicit address is used unchanged."""
    launched = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    addresses = {"TRAINWIRE_BIND": "tcp://0.0.0.0:5600", "TRAINWIRE_ADVERTISE": "login:7000"}
    for name, value in (launched | addresses).items():
        monkeypatch.setenv(name, value)
    shared = Tcp.from_environment()
    assert (shared.bind, shared.advertise) == ("tcp://0.0.0.0:5602", "login:7002")
    assert Tcp.from_environment("tcp://0.0.0.0:5600").bind == "tcp://0.0.0.0:5600"
    monkeypatch.setenv("TRAINWIRE_BIND", "tcp://0.0.0.0:0")
    monkeypatch.delenv("TRAINWIRE_ADVERTISE")
    assert Tcp.from_environment().bind == "tcp://0.0.0.0:0"


def test_slurm_names_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket on all addresses is advertised by the node's name, one on a single address by that address."""
    monkeypatch.setenv("SLURMD_NODENAME", "node17")
    endpoints = Endpoints.choose(Tcp("tcp://0.0.0.0:0"))
    assert endpoints.advertised("tcp://0.0.0.0:5", "tcp://10.0.0.1:6") == ("tcp://node17:5", "tcp://10.0.0.1:6")
