"""The replies to requests: frames in, frames out, and an error for anything invalid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.publisher import Publisher, run
from support.recorder import Recorder, frames
from support.strategies import plain_values

from trainwire_protocol.errors import RequestError
from trainwire_protocol.journal.records import RecordScanner, encode_record
from trainwire_protocol.journal.run_folder import Attempt, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.transport import responder as module
from trainwire_protocol.transport.responder import (
    MAX_CREDIT,
    MAX_FETCH_SESSIONS,
    MAX_FETCHES,
    MAX_HPARAMS_BYTES,
    MAX_SINKS,
    MAX_WAITING_FETCHES,
    Responder,
)
from trainwire_protocol.transport.server import MAX_WAITING_REQUESTS
from trainwire_protocol.wire import MAX_HEADER_BYTES, VERSION, Batch, Cursor, Header

FETCH: dict[str, Any] = {"verb": "fetch", "attempt": 0, "after": -1, "channels": ["event"], "credit": 1 << 20}
ACK: dict[str, Any] = {"verb": "ack", "sink": "loss-file", "attempt": 0, "seq": 3}


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """A run's first attempt, without a journal."""
    return begin_attempt(tmp_path, 0, "session")


@pytest.fixture
def responder(attempt: Attempt) -> Iterator[Responder]:
    """The responder of an attempt with ten batches, every other one on `media`."""
    recorder = Recorder(attempt.run)
    write(attempt, [recorder.scalars(2, "media" if number % 2 else "event") for number in range(10)])
    responder = Responder(attempt, recorder.heads, lambda: {"state": "running"})
    yield responder
    responder.close()


def write(attempt: Attempt, batches: list[Batch]) -> None:
    writer = JournalWriter(attempt.folder)
    writer.append(batches)
    writer.close()


def ask(responder: Responder, **request: Any) -> tuple[dict[str, Any], list[bytes]]:
    head, *further = asyncio.run(responder.answer([msgpack.packb(request)]))
    return msgpack.unpackb(head), further


def fetched(further: list[bytes]) -> list[Batch]:
    scanner = RecordScanner()
    for frame in further:
        scanner.feed(frame)
    return scanner.records(final=True)


def test_hello_leaves_out_the_largest_hyperparameters(attempt: Attempt) -> None:
    """A reply to `hello` is never larger than readers accept, and says how many hyperparameters it lacks."""
    small = {f"small/{number}": "x" * 100 for number in range(100)}
    hparams = {"weights": [0.5] * 600_000, **small, "words": "x" * (MAX_HPARAMS_BYTES - 100)}
    responder = Responder(attempt, {}, lambda: {"state": "running", "hparams": hparams})
    head, _ = ask(responder, verb="hello")
    assert (head["hparams"], head["hparams_omitted"], head["state"]) == (small, 2, "running")
    responder = Responder(attempt, {}, lambda: {"hparams": small})
    assert "hparams_omitted" not in ask(responder, verb="hello")[0]


def test_hello_describes_the_publisher(responder: Responder) -> None:
    """`hello` returns the run, its attempts and heads, and the fields that the publisher adds."""
    head, further = ask(responder, verb="hello", id=7)
    assert head == {
        "id": 7, "run": responder.attempt.run, "rank": 0, "attempt": 0, "versions": [VERSION],
        "heads": {"event": 17, "media": 19}, "attempts": [{"attempt": 0, "from": None}], "state": "running",
    }  # fmt: skip
    assert further == []


def test_hello_contains_resume_positions(tmp_path: Path) -> None:
    """`hello` returns for each attempt the position that it resumed from."""
    for number in range(3):
        attempt = begin_attempt(tmp_path, 0, "session", take_over=True)
        recorder = Recorder(attempt.run, 0, number)
        position = {"attempt": 0, "seq": 4} if number == 2 else None
        write(attempt, [recorder.happened("run/resumed" if number else "run/started", **{"from": position})])
    head, _ = ask(Responder(attempt, {}, dict), verb="hello")
    assert head["attempts"] == [
        {"attempt": 0, "from": None},
        {"attempt": 1, "from": {"attempt": -1, "seq": -1}},
        {"attempt": 2, "from": {"attempt": 0, "seq": 4}},
    ]


def test_fetch_returns_the_journals_bytes(responder: Responder) -> None:
    """`fetch` returns the journal's records of the requested channels, and how far it scanned."""
    journal = next(responder.attempt.folder.glob("*.journal")).read_bytes()
    head, further = ask(responder, **FETCH | {"id": "a", "channels": ["event", "media"]})
    assert head == {"id": "a", "scanned_to": 19, "head": 19, "ended": False}
    assert further == [journal]
    head, further = ask(responder, **FETCH | {"after": 9})
    assert [batch.header.seq for batch in fetched(further)] == [12, 16]
    assert head["scanned_to"] == 19


def test_fetch_with_little_credit_reaches_the_end(responder: Responder) -> None:
    """With less credit than a batch needs, each reply contains one batch; with no credit, none."""
    assert ask(responder, **FETCH | {"credit": 0}) == (
        {"id": None, "scanned_to": -1, "head": 19, "ended": False},
        [b""],
    )
    found, place = list[Batch](), -1
    while place < 19:
        head, further = ask(responder, **FETCH | {"after": place, "credit": 1})
        assert len(fetched(further)) <= 1
        found += fetched(further)
        place = head["scanned_to"]
    assert [batch.header.seq for batch in found] == [0, 4, 8, 12, 16]


def test_fetch_continues_as_the_journal_grows(responder: Responder) -> None:
    """The next `fetch` returns what was recorded since, and reports the end of the attempt."""
    ask(responder, **FETCH)
    recorder = Recorder(responder.attempt.run)
    recorder.seq = 20
    last = recorder.happened("run/finished")
    writer = JournalWriter(responder.attempt.folder)
    writer.append([last])
    writer.close()
    head, further = ask(responder, **FETCH | {"after": 19})
    assert frames(fetched(further)) == frames([last])
    assert head["ended"] is True
    assert ask(responder, **FETCH | {"after": 20})[0]["ended"] is True


def test_the_head_of_a_fetch_includes_what_was_just_journaled(responder: Responder) -> None:
    """`head` is not below `scanned_to`, although the journal is written before the batch is published."""
    recorder = Recorder(responder.attempt.run)
    recorder.seq = 20
    writer = JournalWriter(responder.attempt.folder)
    writer.append([recorder.scalars(3)])
    writer.close()
    head, _ = ask(responder, **FETCH | {"after": 19})
    assert (head["scanned_to"], head["head"]) == (22, 22)


def test_fetch_after_a_position_within_a_batch_returns_that_batch(responder: Responder) -> None:
    """Batches are never split: the one that contains `after` is returned whole if its end lies behind it."""
    _, further = ask(responder, **FETCH | {"after": 9, "channels": ["event", "media"]})
    position = fetched(further)[0].cursor.seq - 1
    _, further = ask(responder, **FETCH | {"after": position, "channels": ["event", "media"]})
    assert fetched(further)[0].cursor.seq == position + 1


def test_fetch_after_the_end_shows_where_the_journal_ends(responder: Responder) -> None:
    """A reader that is ahead of the journal gets its own position as `scanned_to`, and a lower `head`."""
    head, further = ask(responder, **FETCH | {"after": 1000})
    assert (head["scanned_to"], head["head"], further) == (1000, 19, [b""])


def test_credit_is_limited(attempt: Attempt) -> None:
    """A reply contains at most `MAX_CREDIT` bytes, or a single larger batch, however much credit is given."""
    recorder = Recorder(attempt.run)
    sizes = [MAX_CREDIT // 3] * 7 + [MAX_CREDIT * 2]
    batches = [
        recorder.record([recorder.scalars().events[0]._replace(type="hparams", value={"data": bytes(size)})])
        for size in sizes
    ]
    write(attempt, batches)
    responder = Responder(attempt, recorder.heads, dict)
    lengths, place = [], -1
    while place < recorder.seq - 1:
        head, (data,) = ask(responder, **FETCH | {"after": place, "credit": 2**62})
        lengths.append(len(data))
        place = head["scanned_to"]
    responder.close()
    assert all(length <= MAX_CREDIT for length in lengths[:-1])
    assert lengths[-1] == len(encode_record(batches[-1]))


def test_scanning_is_limited(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reply scans a bounded part of the journal, and reports how far it got."""
    monkeypatch.setattr(module, "MAX_SCANNED_BYTES", 1)
    head, further = ask(responder, **FETCH | {"channels": ["media"]})
    assert (head["scanned_to"], further) == (1, [b""])
    head, further = ask(responder, **FETCH | {"channels": ["media"], "after": 1})
    assert head["scanned_to"] == 3
    assert len(fetched(further)) == 1


def test_open_sessions_are_limited(responder: Responder) -> None:
    """At most `MAX_FETCH_SESSIONS` sessions stay open, and each reader still gets its batches."""
    for round_number in range(2):
        for after in range(MAX_FETCH_SESSIONS + 4):
            _, further = ask(responder, **FETCH | {"after": after - 1, "credit": 1 + round_number})
            assert fetched(further)[0].header.seq >= after - 1 if after < 18 else True
    assert len(responder._sessions) <= MAX_FETCH_SESSIONS


def test_pending_fetches_of_a_client_are_limited(responder: Responder) -> None:
    """At most `MAX_FETCHES` requests of one client are pending; then it is another client's turn."""

    async def main() -> None:
        request = [msgpack.packb(FETCH)]
        responder._rest_until = time.monotonic() + 0.2
        greedy = [asyncio.ensure_future(responder.answer(request, b"greedy")) for _ in range(100)]
        await asyncio.sleep(0)
        assert await responder.answer(request, b"other")
        answers = [answer.result() for answer in greedy if answer.done()]
        assert len(answers) == 100
        assert len([answer for answer in answers if answer]) == MAX_FETCHES
        assert await responder.answer(request, b"greedy")
        assert not responder._fetching

    run(main())


def test_fetches_leave_slots_for_other_requests() -> None:
    """`fetch` never takes all request slots, so `ack` and `hello` are answered."""
    assert MAX_WAITING_FETCHES < MAX_WAITING_REQUESTS


def test_pending_fetches_of_all_clients_are_limited(responder: Responder) -> None:
    """At most `MAX_WAITING_FETCHES` requests of all clients are pending; later ones are answered again."""

    async def main() -> None:
        request = [msgpack.packb(FETCH)]
        responder._rest_until = time.monotonic() + 0.2
        asked = [asyncio.ensure_future(responder.answer(request, b"%d" % client)) for client in range(100)]
        answers = await asyncio.gather(*asked)
        assert len([answer for answer in answers if answer]) == MAX_WAITING_FETCHES
        assert await responder.answer(request, b"99")
        assert not responder._fetching

    run(main())


def test_fetches_are_throttled(responder: Responder) -> None:
    """After a `fetch` the next one waits in proportion to the time it took; other requests do not wait."""

    async def main() -> None:
        begun = time.thread_time()
        await responder.answer([msgpack.packb(FETCH)])
        assert responder._rest_until > time.monotonic() - 60
        responder._rest_until = time.monotonic() + 60
        second = asyncio.ensure_future(responder.answer([msgpack.packb(FETCH)]))
        await responder.answer([msgpack.packb({"verb": "hello"})])
        await responder.answer([msgpack.packb(ACK)])
        assert not second.done()
        second.cancel()
        responder._rest_until = time.monotonic() + 0.05
        assert await responder.answer([msgpack.packb(FETCH)])
        assert time.thread_time() - begun < 1

    run(main())


def test_acknowledgement_is_recorded(responder: Responder) -> None:
    """`ack` records the sink's cursor until it expires."""
    assert ask(responder, **ACK) == ({"id": None}, [])
    sink = responder.sinks["loss-file"]
    assert sink.cursor == Cursor(0, 3)
    assert sink.expires > time.monotonic()


def test_sinks_are_limited(responder: Responder) -> None:
    """Beyond `MAX_SINKS` only new sinks are refused, and expired ones are replaced."""
    for number in range(MAX_SINKS):
        ask(responder, **ACK | {"sink": str(number)})
    assert "error" in ask(responder, **ACK)[0]
    assert "error" not in ask(responder, **ACK | {"sink": "5"})[0]
    responder.sinks["7"].expires = 0.0
    assert "error" not in ask(responder, **ACK)[0]
    assert len(responder.sinks) == MAX_SINKS


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "the verb is None; known verbs are hello, fetch, ack and command"),
        ({"verb": "explode"}, "the verb is 'explode'"),
        ({"verb": ["fetch"]}, "the verb is"),
        (FETCH | {"attempt": "0"}, "attempt is '0', not an integer of at least 0"),
        (FETCH | {"attempt": 9}, "there is no attempt 9"),
        (FETCH | {"after": None}, "after is None, not an integer of at least -1"),
        (FETCH | {"after": -2}, "after is -2"),
        (FETCH | {"credit": -1}, "credit is -1"),
        (FETCH | {"credit": 2**63}, "credit is"),
        (FETCH | {"credit": True}, "credit is True"),
        (FETCH | {"channels": "event"}, "channels is 'event', not a list of 1 to 16 names"),
        (FETCH | {"channels": []}, "channels is ()"),
        (FETCH | {"channels": [1]}, "channels is (1,)"),
        (FETCH | {"channels": ["a"] * 17}, "channels is"),
        (ACK | {"sink": ""}, "sink is '', not a name"),
        (ACK | {"sink": b"name"}, "sink is b'name', not a name"),
        (ACK | {"sink": "a" * 257}, "not a name"),
        (ACK | {"seq": 1.5}, "seq is 1.5"),
        ({"verb": "command"}, "command is None, not a map of id, verb and arguments"),
        ({"verb": "command", "command": {"id": "a", "verb": ""}}, "not a map of id, verb and arguments"),
        ({"verb": "command", "command": {"id": "a", "verb": "stop"}}, "commands are not accepted"),
        ({"verb": "hello", "id": [1]}, "the id is neither an integer, a string nor bytes"),
        ({"verb": "hello", "id": 1.5}, "the id is neither an integer, a string nor bytes"),
    ],
)
def test_invalid_request_gets_an_error(responder: Responder, request_: dict[str, Any], message: str) -> None:
    """A request with an invalid verb or argument gets an error that names it."""
    head, further = ask(responder, **request_)
    assert message in head["error"]
    assert len(head["error"]) < 200
    assert further == []


@pytest.mark.parametrize("request_", [[], [b"\x80", b""], [b""], [b"\xc1"], [b"\x01"], [bytes(MAX_HEADER_BYTES + 1)]])
def test_invalid_frames_get_an_error(responder: Responder, request_: list[bytes]) -> None:
    """Too many frames, or one that is too long or contains no map, get an error."""
    (head,) = asyncio.run(responder.answer(request_))
    assert set(msgpack.unpackb(head)) == {"id", "error"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=100), max_size=3)
    | st.dictionaries(st.text(max_size=5), plain_values, max_size=4).map(lambda request: [msgpack.packb(request)])
    | st.builds(
        lambda request, changes: [msgpack.packb(request | changes)],
        st.sampled_from([FETCH, ACK, {"verb": "hello"}]),
        st.dictionaries(st.sampled_from([*FETCH, *ACK, "id"]), plain_values, max_size=3),
    )
)
def test_any_frames_get_a_reply(responder: Responder, request_: list[bytes]) -> None:
    """Any frames get a reply whose head is a valid map."""
    head, *_ = asyncio.run(responder.answer(request_))
    assert "id" in msgpack.unpackb(head)


def test_newer_versions_journal_gets_an_error(responder: Responder, tmp_path: Path) -> None:
    """A request for a newer version's journal gets an error, and later requests are answered."""
    header = Header(responder.attempt.run, 0, 1, "event", 0, 1, {})
    newer = Batch(header, msgpack.packb({"version": VERSION + 1}), b"\x90")
    later = Attempt(responder.attempt.run, 0, 1, responder.attempt.folder.with_name("attempt-1"))
    later.folder.mkdir()
    write(later, [newer])
    assert "pip install" in ask(responder, verb="hello")[0]["error"]
    assert "pip install" in ask(responder, **FETCH | {"attempt": 1})[0]["error"]
    assert "error" not in ask(responder, **FETCH)[0]


def test_unreadable_segment_gets_an_error(responder: Responder) -> None:
    """A request for an unreadable journal gets the system's error message."""
    segment = next(responder.attempt.folder.glob("*.journal"))
    segment.unlink()
    segment.mkdir()
    assert "Is a directory" in ask(responder, **FETCH)[0]["error"]


def test_close_closes_all_sessions(responder: Responder) -> None:
    """After closing, no session stays open, even if it was in use."""
    ask(responder, **FETCH)
    responder.close()
    assert not responder._sessions
    ask(responder, **FETCH)
    assert not responder._sessions


def test_later_publisher_serves_earlier_attempts(tmp_path: Path) -> None:
    """The publisher of an attempt serves every attempt in the run's folder."""

    async def main() -> None:
        async with Publisher(tmp_path) as first:
            first.scalars(3)
        async with Publisher(tmp_path, take_over=True) as second:
            request = msgpack.packb(FETCH)
            head, data = await second.server.responder.answer([request])
            assert frames(fetched([data])) == frames(first.recorded)
            assert msgpack.unpackb(head)["head"] == 2

    run(main())


def test_repeated_command_is_applied_once(responder: Responder) -> None:
    """A command that is repeated with the same id, since its reply was lost, is answered and not applied again."""
    taken: list[tuple[str, str, Any]] = []
    responder.on_command = lambda *command: taken.append(command)
    command = {"id": "a1", "verb": "set", "arguments": {"learning_rate": 0.1}}
    for number in range(2):
        head, records = ask(responder, verb="command", id=number, command=command)
        assert (head, records) == ({"id": number}, [])
    assert taken == [("a1", "set", {"learning_rate": 0.1})]


def test_refused_command_can_be_repeated(responder: Responder) -> None:
    """A refused command gets an error, and its id is not remembered."""

    def refuse(*command: object) -> None:
        raise RequestError("not now")

    responder.on_command = refuse
    command = {"id": "a1", "verb": "stop"}
    for _ in range(2):
        assert ask(responder, verb="command", command=command)[0]["error"] == "not now"
