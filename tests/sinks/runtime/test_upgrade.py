"""Data of a later version is refused with a line that says what to install, or skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from trainwire_protocol.environment import builtin_sink_names
from trainwire_protocol.journal.records import decode_record, encode_record
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.runtime.registry import find_sink
from trainwire_sinks.testing.check_sink import record, run_sink

WriteRun = Callable[..., Path]

RUN = [
    [Event("run/started", {"run": "recorded", "rank": 0, "world_size": 1}, "lifecycle", 0.0, 0)],
    [Event("train/loss", 0.5, "scalar", 1.0, 1), Event("learning_rate", [0.1, 0.2], "scalars", 1.0, 1)],
    [Event("epoch/finished", {"epoch": 1, "metrics": {"train/loss": 0.5}}, "lifecycle", 2.0, 1)],
    [Event("run/finished", {"last_seq": 4, "reason": None}, "lifecycle", 3.0, 1)],
]
LATER = [
    Event("loss/cube", {"sides": [1, 2, {"three": 3}]}, "hologram", 1.5, 1),
    Event("galaxy/merged", {"with": "another"}, "lifecycle", 1.5, 1),
    Event("trailer", [1, [2, b"3"]], "scalar/2", 1.5, 1),
]


def with_changed_header(batch: Batch, **fields: object) -> Batch:
    """Return the batch as a later version may write it."""
    header = msgpack.packb(msgpack.unpackb(batch.header_bytes) | fields)
    return Batch(batch.header, header, batch.body)


@pytest.mark.parametrize("command", [["sink", "loss-file"], ["verify"], ["replay"]])
def test_a_newer_major_version_is_refused(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Every command that reads the journal of a newer version prints one line that says what to install."""
    folder = write_run(record(RUN))
    (segment,) = list_attempts(folder, 0)[0].folder.glob("*.journal")
    segment.write_bytes(b"".join(encode_record(with_changed_header(batch, version=2)) for batch in record(RUN)))
    arguments = [*command, str(folder), *(["--to", "loss-file"] if command == ["replay"] else [])]
    assert run(arguments) == ExitCode.PROTOCOL
    error = capsys.readouterr().err
    assert "version 2" in error
    assert error.endswith("pip install --upgrade trainwire\n")


def test_a_newer_connection_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection file of a newer version leads to a line that says what to install."""
    (tmp_path / "copied.json").write_text(json.dumps({"version": 2, "publish": {"quic": 1}}))
    command = ["sink", "loss-file", str(tmp_path / "copied.json"), "--output", str(tmp_path)]
    assert run(command) == ExitCode.PROTOCOL
    assert "pip install --upgrade trainwire" in capsys.readouterr().err


# The sink nats does not look at events, and needs a server.
@pytest.mark.parametrize("name", [name for name in builtin_sink_names() if name != "nats"])
def test_every_sink_skips_unknown_events(tmp_path: Path, name: str) -> None:
    """Events of unknown types and names stop no sink, and do not change what it writes."""
    sink = find_sink(name)
    run_sink(sink, tmp_path / "known", record(RUN))
    run_sink(sink, tmp_path / "later", record([RUN[0], [*RUN[1], *LATER], LATER, *RUN[2:]]))
    assert (tmp_path / "later" / ".trainwire").exists()
    if name in ("loss-file", "tensorboard"):
        files = [path for path in (tmp_path / "known").rglob("*") if path.is_file() and ".trainwire" not in path.parts]
        assert files
        for path in files:
            assert path.read_bytes() == (tmp_path / "later" / path.relative_to(tmp_path / "known")).read_bytes()


def test_header_fields_of_later_versions_are_skipped(write_run: WriteRun) -> None:
    """A batch whose header has unknown fields is read like any other."""
    folder = write_run(record(RUN))
    (segment,) = list_attempts(folder, 0)[0].folder.glob("*.journal")
    changed = [with_changed_header(batch, color="blue", nested={"a": [1]}) for batch in record(RUN)]
    segment.write_bytes(b"".join(map(encode_record, changed)))
    assert decode_record(segment.read_bytes()) is not None
    assert run(["verify", str(folder)]) == 0
    assert run(["sink", "loss-file", str(folder)]) == 0
    assert (folder / "loss.tsv").read_text().count("\n") == 2
