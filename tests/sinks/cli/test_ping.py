"""`trainwire ping`: whether a publisher replies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.ports import free_ports
from support.publisher import Publisher, run

from trainwire_protocol.transport.auth import KeyPair, ServerKeys
from trainwire_protocol.transport.connection import connection_path
from trainwire_sinks.cli.app import run as run_command
from trainwire_sinks.runtime.exit_codes import ExitCode


def test_a_publisher_replies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A publisher named by folder, connection file or address replies with run, rank, attempt and state."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            for target in (tmp_path / "run", connection_path(tmp_path / "run", 0), publisher.connection.request):
                assert await asyncio.to_thread(run_command, ["ping", str(target)]) == ExitCode.OK
                assert capsys.readouterr().out == f"{publisher.attempt.run}, rank 0, attempt 0: running\n"

    run(main())


def test_a_missing_publisher_does_not_reply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a publisher that is gone, or that never existed, the exit code is INCOMPLETE."""

    async def main() -> None:
        async with Publisher(tmp_path / "run"):
            pass

    run(main())
    assert run_command(["ping", str(tmp_path / "run")]) == ExitCode.INCOMPLETE
    assert "no reply from" in capsys.readouterr().err
    assert run_command(["ping", str(tmp_path / "other")]) == ExitCode.INCOMPLETE
    assert "no connection file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("publish", "either this is the port for events, and requests have another, or the publisher's key"),
        ("wrong key", "either this is the port for events, and requests have another, or the publisher's key"),
        ("closed", "nothing accepts connections there"),
    ],
)
def test_a_wrong_address_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, chosen: str, message: str
) -> None:
    """The port for events, a wrong key and a closed port are told apart from a publisher that does not reply."""
    pair, client = KeyPair.make(), KeyPair.make()
    server = KeyPair.make().public if chosen == "wrong key" else pair.public
    (tmp_path / "client.key").write_text(json.dumps({**client._asdict(), "server": server}))
    monkeypatch.setenv("TRAINWIRE_KEY", str(tmp_path / "client.key"))

    async def main() -> None:
        keys = ServerKeys(pair, frozenset({client.public}), frozenset())
        async with Publisher(tmp_path / "run", keys=keys) as publisher:
            addresses = {
                "publish": publisher.connection.publish,
                "wrong key": publisher.connection.request,
                "closed": f"tcp://127.0.0.1:{free_ports(1)[0]}",
            }
            assert await asyncio.to_thread(run_command, ["ping", addresses[chosen]]) == ExitCode.INCOMPLETE
            assert message in capsys.readouterr().err

    run(main())
