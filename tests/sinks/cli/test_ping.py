"""`trainwire ping`: whether a publisher is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.publisher import Publisher, run

from trainwire_protocol.transport.connection import connection_path
from trainwire_sinks.cli import run as run_command
from trainwire_sinks.runtime.exit_codes import ExitCode


def test_a_publisher_that_is_there_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked by its folder, its connection file or its address, it tells run, rank, attempt and state."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            for target in (tmp_path / "run", connection_path(tmp_path / "run", 0), publisher.connection.request):
                assert await asyncio.to_thread(run_command, ["ping", str(target)]) == ExitCode.OK
                assert capsys.readouterr().out == f"{publisher.attempt.run}, rank 0, attempt 0: running\n"

    run(main())


def test_nobody_answers_where_a_publisher_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is gone, and one that has never been, are told apart from one that is there by the exit code."""

    async def main() -> None:
        async with Publisher(tmp_path / "run"):
            pass

    run(main())
    assert run_command(["ping", str(tmp_path / "run")]) == ExitCode.INCOMPLETE
    assert "nobody answers at" in capsys.readouterr().err
    assert run_command(["ping", str(tmp_path / "other")]) == ExitCode.INCOMPLETE
    assert "no connection file" in capsys.readouterr().err
