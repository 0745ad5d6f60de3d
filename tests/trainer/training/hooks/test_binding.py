"""The address on which a training listens."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.run_reader import read_events
from support.tiny_training import train

import trainwire
from trainwire_protocol.transport.connection import connection_path, read_connection
from trainwire_protocol.transport.key_files import make_key_files, read_public_key


def test_a_training_listens_on_the_given_address(tmp_path: Path) -> None:
    """`bind` sets the address and the advertised name; the hyperparameters contain them, but no keys."""
    secret, public = make_key_files(tmp_path / "keys" / "cluster")
    tcp = trainwire.Tcp("tcp://127.0.0.1:0", advertise="localhost", server_key=secret, clients=tmp_path / "keys")
    train(tmp_path / "run", bind=tcp)
    connection = read_connection(connection_path(tmp_path / "run", 0))
    assert connection.publish.startswith("tcp://localhost:")
    assert connection.keys
    assert connection.keys.server == read_public_key(public)
    published = str([event.value for event in read_events(tmp_path / "run") if event.type == "hparams"])
    assert "tcp://127.0.0.1:0" in published
    assert connection.keys.client.secret not in published


def test_the_environment_sets_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option, TRAINWIRE_BIND sets the address of a training and of a bus."""
    monkeypatch.setenv("TRAINWIRE_BIND", "tcp://127.0.0.1:0")
    train(tmp_path / "run")
    with trainwire.open_bus(tmp_path / "bus"):
        pass
    for folder in ("run", "bus"):
        assert read_connection(connection_path(tmp_path / folder, 0)).publish.startswith("tcp://127.0.0.1:")
