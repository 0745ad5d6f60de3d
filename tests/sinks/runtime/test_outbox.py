"""Messages over real HTTP, through failures, timeouts, refusals, crashes and resumptions."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest
from chaos.processes import Worker, make_context
from support.receiver import Poster, Receiver, alert, alerts, post_and_die

from trainwire_protocol.errors import OutputError
from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.runtime import delivery_queue, outbox
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.testing.check_sink import Recording, check_sink, record, run_sink


def happened(name: str, **value: object) -> Event:
    return Event(name, value, "lifecycle", 0.0, 0)


def test_each_message_is_delivered_once(tmp_path: Path) -> None:
    """Every message is delivered before the sink ends, once, with its event's identity as the key."""
    with Receiver() as receiver:
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(6))
        assert sorted(receiver.taken) == [(f"recorded/0/0/{n}/test", float(n)) for n in range(6)]
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(6))
        assert len(receiver.tried) == 6


def test_any_key_is_remembered(tmp_path: Path) -> None:
    """Whatever characters a key has, its message is not sent again after a restart."""
    sent: list[str] = []

    async def send(key: str, _: delivery_queue.Message) -> None:
        sent.append(key)

    async def deliver(length: int, *added: str) -> int:
        box = outbox.Outbox.of_sink(tmp_path, "test", 0, send)
        await box.open(length)
        for key in added:
            await box.add(key, {})
        await box.flush()
        await box.settle()
        await box.close()
        return box.length

    keys = ["a\nb", "a\\nb", "a\u2028b", "a\x85b", "größe", "a\rb", "ab"]
    length = asyncio.run(deliver(0, *keys))
    asyncio.run(deliver(length))
    assert sorted(sent) == sorted(keys)


def test_a_message_that_fails_is_sent_again(tmp_path: Path) -> None:
    """A message is sent again until it is delivered."""
    failures = iter([500, 503, 500])
    with Receiver(lambda value: next(failures, 200)) as receiver:
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(2))
        assert sorted(receiver.values) == [0.0, 1.0]
        assert len(receiver.tried) == 5


def test_a_message_that_fails_delays_no_other(tmp_path: Path) -> None:
    """While some fail and some time out, later ones are delivered; the others are once the server recovers."""
    bad = {0.0: 500, 1.0: None, 2.0: 500}
    with Receiver(lambda value: bad.get(value, 200)) as receiver:

        def answer(value: float) -> int | None:
            if {3.0, 4.0, 5.0} <= set(receiver.values):
                return 200
            return bad.get(value, 200)

        receiver.answer = answer
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(6))
        assert set(receiver.values[:3]) == {3.0, 4.0, 5.0}
        assert sorted(receiver.values) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_refused_message_is_not_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A message that the receiver refuses is reported once, and not sent again, even after a restart."""
    with Receiver(lambda value: 400 if value == 1.0 else 200) as receiver:
        for _ in range(2):
            run_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
        assert receiver.tried.count(1.0) == 1
        assert "recorded/0/0/1/test was refused" in caplog.text


def test_a_sink_that_ends_keeps_undelivered_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server stays down, the sink ends with an error; a restart sends the rest with the same keys."""
    monkeypatch.setattr("trainwire_sinks.runtime.runner.SETTLE_SECONDS", 0.1)
    with Receiver(lambda value: 500) as receiver:
        with pytest.raises(OutputError, match=r"could not deliver everything in 0\.1 s: start it again"):
            run_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
        receiver.answer = lambda value: 200
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
        assert sorted(receiver.taken) == [(f"recorded/0/0/{n}/test", float(n)) for n in range(4)]


def test_undelivered_messages_are_sent_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink restarted on an idle run sends the undelivered messages, and stops at once."""
    monkeypatch.setattr("trainwire_sinks.runtime.runner.SETTLE_SECONDS", 0.05)
    with Receiver(lambda value: 500) as receiver:
        with pytest.raises(OutputError):
            run_sink(lambda: Poster(receiver.port), tmp_path, alerts(2))
        receiver.answer = lambda value: 200

        class Quiet(Recording):
            async def __anext__(self) -> Batch:
                await asyncio.get_running_loop().create_future()
                raise StopAsyncIteration

        async def run() -> None:
            runner = SinkRunner(lambda: Poster(receiver.port), lambda *_: Quiet([]), tmp_path)
            running = asyncio.create_task(runner.run())
            while len(receiver.values) < 2:
                await asyncio.sleep(0.005)
            runner.stop()
            await running

        asyncio.run(asyncio.wait_for(run(), 20))


def test_a_resumed_run_sends_nothing_twice(tmp_path: Path) -> None:
    """After a rollback to a mark, or to the beginning, a sink sends only what it had not sent."""
    first = [[happened("run/started"), alert(1)], [happened("run/marked", mark=1)], [alert(2)]]
    known = record(first, [[happened("run/resumed", **{"from": {"attempt": 0, "seq": 2}}), alert(3)]])
    unknown = record(first, [[happened("run/resumed", **{"from": {"attempt": 0, "seq": 1}}), alert(3)]])
    for batches, name in ((known, "known"), (unknown, "unknown")):
        with Receiver() as receiver:
            run_sink(lambda port=receiver.port: Poster(port), tmp_path / name, batches[:3])
            run_sink(lambda port=receiver.port: Poster(port), tmp_path / name, batches)
            assert sorted(receiver.tried) == [1.0, 2.0, 3.0]


def test_a_sink_with_an_outbox_passes_the_check(tmp_path: Path) -> None:
    """Killed at every step and restarted, a sink sends every message, each key once."""
    with Receiver() as receiver:
        check_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
        assert sorted(set(receiver.taken)) == [(f"recorded/0/0/{n}/test", float(n)) for n in range(4)]


def test_a_full_disk_does_not_cause_a_second_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a delivery cannot be recorded, recording it is retried, and not the sending."""
    refused = iter([True, True, False])
    append = delivery_queue._append

    def write(path: Path, data: bytes) -> None:
        if next(refused, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, data)

    monkeypatch.setattr(delivery_queue, "_append", write)
    with Receiver() as receiver:
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(2))
        assert sorted(receiver.tried) == [0.0, 1.0]
    assert (tmp_path / ".trainwire" / "poster-rank0.outbox.delivered").read_text().count("\n") == 2


@pytest.mark.parametrize("name", ["poster-rank0.outbox", "poster-rank0.outbox.delivered"])
def test_a_damaged_file_does_not_stop_the_sink(tmp_path: Path, name: str) -> None:
    """An incomplete line or invalid bytes lead at most to sending again."""
    with Receiver() as receiver:
        for damage in (b'["recorded/0/0', b"\xff\n{}\n"):
            run_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
            with (tmp_path / ".trainwire" / name).open("r+b") as file:
                file.seek(0, os.SEEK_END if damage.startswith(b"[") else os.SEEK_SET)
                file.write(damage)
        run_sink(lambda: Poster(receiver.port), tmp_path, alerts(4))
        assert sorted(receiver.values) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.timeout(180)
def test_kill_at_every_point(tmp_path: Path) -> None:
    """Killed with SIGKILL before and after each write and each delivery, and restarted, a sink delivers everything.

    A message is sent a second time, with the same key, only if the process died before its delivery was recorded.
    """
    context = make_context()
    for at in range(1, 1000):
        with Receiver() as receiver:
            for moment in (at, 0):
                worker = Worker(
                    context, "poster", tmp_path / "log", post_and_die, receiver.port, tmp_path / f"{at}", moment
                )
                worker.start()
                code = worker.wait(30)
                assert code in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
                if code == 0:
                    break
            assert sorted(set(receiver.taken)) == [(f"recorded/0/0/{n}/test", float(n)) for n in range(4)], at
            assert len(receiver.taken) <= 4 + delivery_queue.MAX_IN_FLIGHT
        if moment:
            break
    assert at > 20
    print(f"{at} points")
