"""`trainwire ping`: whether a publisher replies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.publisher import Publisher, run

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
