"""The code and the document agree with the samples in `golden/`."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.packages import modules
from support.paths import DOCS
from support.strategies import normal

from trainwire_protocol import events, wire
from trainwire_protocol.events import Event
from trainwire_protocol.journal import records
from trainwire_protocol.journal.attempts import LATEST, kept_ranges, read_resumed_from
from trainwire_protocol.journal.records import decode_record, encode_record
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalReader
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport import auth, connection
from trainwire_protocol.transport.connection import read_connection
from trainwire_protocol.transport.responder import Responder
from trainwire_protocol.wire import Batch, Header, decode_batch, encode_batch, encode_header, unpack_map

GOLDEN = Path(__file__).parent / "golden" / "version-1"
BATCHES = sorted(path.stem for path in GOLDEN.glob("batch-*.json"))
DOCUMENT = (DOCS / "wire-protocol.md").read_text()


def load(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(), object_hook=_special)


def _special(fields: dict[str, Any]) -> Any:
    if set(fields) == {"$hex"}:
        return bytes.fromhex(fields["$hex"])
    return float(fields["$float"]) if set(fields) == {"$float"} else fields


def header_of(sample: Any) -> Header:
    return Header(**{name: value for name, value in sample["header"].items() if name != "version"})


def frames_of(sample: Any) -> list[bytes]:
    return [sample["topic"].encode(), bytes.fromhex(sample["header_hex"]), bytes.fromhex(sample["body_hex"])]


@pytest.mark.parametrize("name", BATCHES)
def test_encoding_gives_the_sample(name: str) -> None:
    """Encoding a sample's fields gives its frames and its record, byte for byte."""
    sample = load(name)
    batch = encode_batch(header_of(sample), [Event(*fields) for fields in sample["events"]])
    assert [batch.topic, batch.header_bytes, batch.body] == frames_of(sample)
    assert encode_record(batch).hex() == sample["record_hex"]


@pytest.mark.parametrize("name", BATCHES)
def test_decoding_the_sample_gives_its_fields(name: str) -> None:
    """Decoding a sample's frames or its record gives its fields."""
    sample = load(name)
    found = decode_record(bytes.fromhex(sample["record_hex"]))
    assert found
    for batch in (decode_batch(*frames_of(sample)[1:]), found[0]):
        assert batch.header == header_of(sample)
        assert normal(batch.events) == normal(sample["events"])
        assert batch.malformed == 0


def test_the_heartbeat_is_encoded_and_decoded() -> None:
    """Encoding and decoding the heartbeat agree with its sample."""
    sample = load("heartbeat")
    header_bytes, body = frames_of(sample)[1:]
    assert encode_header(header_of(sample)) == header_bytes
    assert decode_batch(header_bytes, body).header == header_of(sample)
    assert unpack_map(body) == sample["body"]


def test_requests_and_replies_agree_with_their_samples(tmp_path: Path) -> None:
    """Requests and replies have the bytes of their samples, and a responder replies with the same fields."""
    attempt = list_attempts(GOLDEN / "run", 0)[0]
    known = Responder(attempt, {"event": 17}, dict, on_command=lambda *command: None)
    for sample in load("requests").values():
        assert msgpack.packb(sample["request"]).hex() == sample["request_hex"]
        assert msgpack.packb(sample["reply"]).hex() == sample["reply_hex"]
        head, *_ = asyncio.run(known.answer([bytes.fromhex(sample["request_hex"])]))
        assert set(unpack_map(head)) <= set(sample["reply"])
        if "publish" not in sample["reply"]:
            assert set(unpack_map(head)) == set(sample["reply"])
    known.close()


def read(folder: Path) -> tuple[list[Batch], list[tuple[str, int, int]]]:
    reader = JournalReader(folder)
    batches = list(reader.read_all(final=True))
    reader.close()
    damages = [
        (f"{damage.path.parent.name}/{damage.path.name}", damage.offset, damage.length) for damage in reader.damages
    ]
    return batches, damages


def test_the_journal_of_this_version_is_read() -> None:
    """A journal of version 1 has the batches, the damage and the kept ranges of its sample."""
    expected = load("run")
    attempts = list_attempts(GOLDEN / "run", 0)
    found = [read(attempt.folder) for attempt in attempts]
    headers = [batch.header for batches, _ in found for batch in batches]
    assert [[header.attempt, header.channel, header.seq, header.count] for header in headers] == expected["batches"]
    assert [list(damage) for _, damages in found for damage in damages] == expected["damages"]
    assert all(batch.malformed == 0 for batches, _ in found for batch in batches)
    kept = kept_ranges({attempt.number: read_resumed_from(attempt) for attempt in attempts})
    assert {str(attempt): seq for attempt, seq in kept.items()} == expected["kept"]


def test_the_run_of_this_version_is_followed() -> None:
    """A subscription to a run of version 1 returns the batches of its journal, and ends."""

    async def main() -> list[list[Any]]:
        async with Subscription(Target(GOLDEN / "run"), channels=("event", "media")) as subscription:
            return [[b.header.attempt, b.header.channel, b.header.seq, b.header.count] async for b in subscription]

    assert asyncio.run(asyncio.wait_for(main(), 30)) == load("run")["batches"]


def jsonable(value: Any) -> Any:
    """Return a value in the form that the document describes under "Events as JSON"."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@pytest.mark.parametrize("skip_superseded", [False, True])
def test_the_events_of_a_whole_run_are_read(skip_superseded: bool) -> None:
    """Each event of a recorded run has its position and value, including those of unknown types."""
    rows = [json.loads(line) for line in (GOLDEN / "recorded.jsonl").read_text().splitlines()]
    kept = [row for row in rows if not (skip_superseded and row["superseded"])]

    async def main() -> list[Any]:
        options: dict[str, Any] = {"channels": ("event", "media"), "superseded_by": LATEST if skip_superseded else None}
        async with Subscription(Target(GOLDEN / "recorded"), **options) as subscription:
            batches = [batch async for batch in subscription]
            assert subscription.malformed == subscription.gaps == 0
            return [
                {"attempt": batch.header.attempt, "seq": batch.header.seq + place, "channel": batch.header.channel}
                | {"event": jsonable(event)}
                for batch in batches
                for place, event in enumerate(batch.events)
            ]

    expected = [{key: value for key, value in row.items() if key != "superseded"} for row in kept]
    assert asyncio.run(asyncio.wait_for(main(), 30)) == expected


def test_the_connection_file_of_this_version_is_read() -> None:
    """A connection file of version 1 is read."""
    assert read_connection(GOLDEN / "run" / "connection-rank0.json").attempt == 1


def test_the_document_shows_the_samples() -> None:
    """Each hexadecimal block in the document equals the sample that it names."""
    blocks = re.findall(r"```hex ([\w-]+)\.?(\w*) (\w+)\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(blocks) >= 4
    for name, part, field, digits in blocks:
        sample = load(name)[part] if part else load(name)
        assert "".join(digits.split()) == sample[field], f"{name} {part} {field}"


LIMITS = {
    f"{module.name.rpartition('.')[2]}.{name}": module.name
    for module in modules("trainwire_protocol")
    if module.name != "trainwire_protocol.toml_file"  # what users write, which is never sent
    for name in re.findall(r"^(MAX_\w+): Final", module.path.read_text(), re.MULTILINE)
}


def test_the_limits_in_the_document() -> None:
    """The table of limits in the document contains each limit of the code."""
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| `(\w+)\.(\w+)` \|$", DOCUMENT, re.MULTILINE)
    for number, module, constant in rows:
        defined = import_module(LIMITS[f"{module}.{constant}"])
        assert int(number.replace(",", "")) == getattr(defined, constant), constant
    assert {f"{module}.{constant}" for _, module, constant in rows} == LIMITS.keys()


@pytest.mark.parametrize(
    "name",
    sorted(
        {*events.EVENT_TYPES, *events.LIFECYCLE_NAMES, *events.CHANNELS, wire.HEARTBEAT, *Header.__slots__, "version"}
        | {*connection.Connection.__dataclass_fields__, *auth.ClientKeys._fields[:1], "public", "secret"}
        | {"hello", "fetch", "ack", "scanned_to", "head", "ended", "credit", "after", "channels", "sink", "error"}
        | {"versions", "heads", "attempts", "walltime", "state", "step", "step_walltime", "hparams", "process"}
        | {"host", "pid", "started", "renewed", "released", "relay", "over", "refused", "lease.json", "run.json"}
    ),
)
def test_every_name_of_the_wire_is_in_the_document(name: str) -> None:
    """The document contains every type, lifecycle name, channel and field."""
    assert f"`{name}`" in DOCUMENT


def test_the_document_names_the_version() -> None:
    """The document has the major version of the code."""
    assert re.search(rf"^# Wire protocol {wire.VERSION}\.\d+$", DOCUMENT, re.MULTILINE)
    assert records.MARKER.decode() in DOCUMENT
