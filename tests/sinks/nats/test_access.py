"""NATS servers that require a password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.nats_servers import nats_servers
from support.recorder import Recorder

from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode


def test_a_server_with_a_password(
    tmp_path: Path,
    write_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The password is taken from the environment; an error shows the server's reason and never a password."""
    folder = write_run([Recorder("digits").scalars(3)])
    with nats_servers(tmp_path / "nats", also="authorization { user: ann, password: s3cret }") as (server,):
        address = server.url.replace("nats://", "nats://ann@")
        monkeypatch.setenv("TRAINWIRE_NATS_PASSWORD", "s3cret")
        assert run(["sink", "nats", str(folder), "--server", address]) == 0
        assert run(["export", address]) == 0
        assert "train/loss" in capsys.readouterr().out
        monkeypatch.setenv("TRAINWIRE_NATS_PASSWORD", "gu3ss")
        assert run(["export", address]) == ExitCode.INCOMPLETE
        error = capsys.readouterr().err
        assert "no publisher answers at nats://127.0.0.1" in error
        assert "Authorization Violation" in error
        assert "gu3ss" not in error
        assert (
            run(["sink", "jsonl", address, "--output", str(tmp_path / "out"), "--give-up", "1"]) == ExitCode.INCOMPLETE
        )
        assert "the run has not started (NATS: nats: 'Authorization Violation')" in capsys.readouterr().err
