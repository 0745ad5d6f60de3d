"""The alerts sink: each alert reaches its notifiers once, despite failures, crashes and resumed runs."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.receiver import Receiver

from trainwire_protocol.errors import OptionError
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Cursor, Header
from trainwire_sinks import Event
from trainwire_sinks.builtin.alerts import Alerts, Options
from trainwire_sinks.cli.app import run as run_command
from trainwire_sinks.runtime.cursor import Commit, CursorFile, Savepoint
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.testing.check_sink import Recording, check_sink, record, run_sink

HOOK = '[notifiers.{}]\nkind = "webhook"\nurl = "http://127.0.0.1:{}/"\ntimeout = 30\nretry_after = 0.02\n'
NAN_RULE = '[rules.nan]\nkind = "not-finite"\ncool_down = 0\n'

WriteRun = Callable[..., Path]


def losses(*values: float, walltime: float | None = None, apart: float = 0.0) -> list[Batch]:
    """Return a batch for each loss, recorded now by default, and `apart` seconds from each other."""
    now = time.time() if walltime is None else walltime
    return record([[Event("loss", value, "scalar", now + step * apart, step)] for step, value in enumerate(values, 1)])


def state_and_step(alert: dict[str, Any]) -> tuple[str, int]:
    return alert["state"], alert["step"]


def in_file(folder: Path) -> list[tuple[str, int]]:
    return [state_and_step(json.loads(line)) for line in (folder / "alerts.jsonl").read_text().splitlines()]


@pytest.fixture
def alerts(tmp_path: Path) -> Callable[..., Callable[[], Alerts]]:
    """Return a function that makes a sink factory from the text of a rules file."""

    def make(text: str, **options: Any) -> Callable[[], Alerts]:
        path = tmp_path / "rules.toml"
        path.write_text(text)
        return lambda: Alerts(Options(rules=path, **options))

    return make


def test_each_alert_is_sent_once(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """Alerts are written in order and sent to all notifiers; a restart sends none of them again."""
    with Receiver(read=state_and_step) as one, Receiver(read=state_and_step) as other:
        make = alerts(HOOK.format("one", one.port) + HOOK.format("other", other.port) + NAN_RULE)
        batches = losses(1, math.nan, 2, math.inf)
        for upto in (2, 4, 4):
            run_sink(make, tmp_path, batches[:upto])
        assert in_file(tmp_path) == [("fired", 2), ("cleared", 3), ("fired", 4)]
        assert sorted(one.tried) == sorted(other.tried) == sorted(in_file(tmp_path))


def test_an_alert_is_sent_as_cleared_after_it_was_sent_as_fired(
    tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]
) -> None:
    """A notifier that fails repeatedly still receives the messages of an alert in order; other alerts do not wait."""
    refusals = iter(range(6))

    def answer(alert: tuple[str, int]) -> int:
        return 500 if alert == ("fired", 2) and next(refusals, None) is not None else 200

    with Receiver(answer, state_and_step) as receiver:
        batches = losses(1, math.nan, 2, math.nan, 3, apart=1.0)
        run_sink(alerts(HOOK.format("hook", receiver.port) + NAN_RULE), tmp_path, batches)
        assert receiver.values == [("fired", 4), ("cleared", 5), ("fired", 2), ("cleared", 3)]


def test_an_alert_that_clears_at_once_is_one_message(
    tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]
) -> None:
    """The file has both lines, and a notifier receives only the second; a restart does not send the first."""
    with Receiver(read=state_and_step) as receiver:
        make = alerts(HOOK.format("hook", receiver.port) + NAN_RULE)
        for _ in range(2):
            run_sink(make, tmp_path, losses(1, math.nan, 2, math.inf))
        assert in_file(tmp_path) == [("fired", 2), ("cleared", 3), ("fired", 4)]
        assert sorted(receiver.values) == [("cleared", 3), ("fired", 4)]


def test_an_unavailable_notifier_delays_no_other(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """While one notifier hangs and one fails, the third receives everything and the sink continues; the others receive
    everything once they have recovered."""
    count = 12
    values = [math.nan if number % 2 else 1.0 for number in range(count + 1)]
    down: dict[str, int | None] = {"hangs": None, "fails": 500}
    with (
        Receiver(lambda _: down["hangs"], state_and_step) as hangs,
        Receiver(lambda _: down["fails"], state_and_step) as fails,
    ):
        with Receiver(read=state_and_step) as works:
            receivers = {"hangs": hangs, "fails": fails, "works": works}
            make = alerts("".join(HOOK.format(name, each.port) for name, each in receivers.items()) + NAN_RULE)

            async def run() -> None:
                running = asyncio.create_task(
                    SinkRunner(make, lambda *_: Recording(losses(*values)), tmp_path, commit_interval=0).run()
                )
                while len(works.taken) < count:
                    await asyncio.sleep(0.01)
                assert not hangs.taken and not fails.taken
                down.update(hangs=200, fails=200)
                hangs.released.set()
                await running

            asyncio.run(asyncio.wait_for(run(), 30))
        for receiver in receivers.values():
            assert sorted({*receiver.taken}) == sorted(
                (f"recorded/0/0/nan/{key}", each) for key, each in expected(count)
            )


def expected(count: int) -> list[tuple[str, tuple[str, int]]]:
    """Return the keys, states and steps of `count` messages of alerts that clear with the next step."""
    return [
        (f"{step - 1 if step % 2 == 0 else step - 2}/{'fired' if step % 2 == 0 else 'cleared'}",
         ("fired" if step % 2 == 0 else "cleared", step))
        for step in range(2, count + 2)
    ]  # fmt: skip


def test_no_alert_is_lost_when_the_sink_is_killed(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """Wherever the sink is killed and restarted, the file has the same bytes and each key is sent with one message."""
    with Receiver(read=state_and_step) as receiver:
        make = alerts(HOOK.format("hook", receiver.port) + NAN_RULE)
        check_sink(make, tmp_path / "runs", losses(1, math.nan, 2))
        assert {*receiver.taken} == {
            ("recorded/0/0/nan/1/fired", ("fired", 2)),
            ("recorded/0/0/nan/1/cleared", ("cleared", 3)),
        }


def test_the_default_rules_pass_the_check(tmp_path: Path) -> None:
    """With the default rules the sink writes the same bytes wherever it is killed."""
    check_sink(Alerts, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "alerts.jsonl").read_text().splitlines()]
    assert [(line["rule"], line["state"], line["attempt"], line["step"]) for line in lines] == [
        ("dead", "fired", 0, 12), ("dead", "cleared", 0, 4), ("finished", "fired", 1, 12),
        ("finished", "cleared", 1, 0), ("failed", "fired", 2, 8), ("failed", "cleared", 2, 8),
        ("finished", "fired", 3, 8), ("finished", "cleared", 3, 4), ("dead", "fired", 4, 8),
    ]  # fmt: skip


def test_a_resumed_run_keeps_its_alerts(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """Alerts about superseded events stay in the file; they clear and may fire again."""
    now = time.time()
    nan = Event("loss", math.nan, "scalar", now, 5)
    marked = Event("run/marked", {"mark": 1}, "lifecycle", now, 4)
    origin = {"from": {"attempt": 0, "seq": 0}, "from_step": 4}
    resumed = Event("run/resumed", origin, "lifecycle", now + 1, 4)
    first, second = [[marked], [nan]], [[resumed], [nan._replace(walltime=now + 2)]]
    with Receiver(read=state_and_step) as receiver:
        make = alerts(HOOK.format("hook", receiver.port) + NAN_RULE)
        run_sink(make, tmp_path, record(first))
        run_sink(make, tmp_path, record(first, second))
        assert in_file(tmp_path) == [("fired", 5), ("cleared", 4), ("fired", 5)]
        assert len(receiver.tried) == 3


def test_old_alerts_are_not_sent(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """An alert older than `max_age` is written and not sent."""
    with Receiver(read=state_and_step) as receiver:
        make = alerts(HOOK.format("hook", receiver.port) + NAN_RULE, max_age=3600)
        run_sink(make, tmp_path, losses(1, math.nan, walltime=time.time() - 7200))
        assert (in_file(tmp_path), receiver.tried) == ([("fired", 2)], [])
        run_sink(make, tmp_path / "new", losses(1, math.nan))
        assert receiver.tried == [("fired", 2)]


def test_a_rule_names_its_notifiers(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """A rule uses only its own notifiers; pending messages of one that was removed from the file are not sent."""
    with Receiver(read=state_and_step) as one, Receiver(read=state_and_step) as other:
        hooks = HOOK.format("one", one.port) + HOOK.format("other", other.port)
        run_sink(alerts(hooks + NAN_RULE + 'notifiers = ["other"]'), tmp_path, losses(1, math.nan))
        assert (one.tried, other.tried) == ([], [("fired", 2)])
        run_sink(alerts(hooks + NAN_RULE + "notifiers = []"), tmp_path / "nobody", losses(1, math.nan))
        assert in_file(tmp_path / "nobody") == [("fired", 2)]
        run_sink(alerts(HOOK.format("one", one.port) + NAN_RULE), tmp_path, losses(1, math.nan, 1))
        assert (one.tried, other.tried) == ([], [("fired", 2)])


def test_the_state_of_the_host_is_checked(tmp_path: Path, alerts: Callable[..., Callable[[], Alerts]]) -> None:
    """A full disk and a sink that does not progress fire alerts; a disk that cannot be read does not."""
    make = alerts(
        '[rules.disk-full]\nfree_gib = 1e9\n[rules.elsewhere]\nkind = "disk-full"\nfolder = "/no/such/folder"\n'
        "[rules.sink-behind]\nseconds = 0.1\n"
    )
    for name, run in (("slow-sink", "recorded"), ("alerts-of-old", "another")):
        (tmp_path / ".trainwire").mkdir(exist_ok=True)
        CursorFile(tmp_path, name, 0).save(Commit(run, Savepoint(Cursor(0, 3))))
    (tmp_path / ".trainwire" / "broken-rank0.cursor").write_text("{")

    def has_all() -> bool:
        path = tmp_path / "alerts.jsonl"
        return path.exists() and path.read_bytes().count(b"\n") == 2

    class Live(Recording):
        heartbeat = Heartbeat(Header("recorded", 0, 0, "heartbeat", 9, 0, {"event": 8}), {}, 0.0)
        given = False

        async def __anext__(self) -> Batch:
            while self.given and not has_all():
                await asyncio.sleep(0.01)
            self.given = True
            return await super().__anext__()

    batches = [*losses(1), *record([[Event("run/finished", {}, "lifecycle", 2.0, 1)]])]
    runner = SinkRunner(make, lambda *_: Live(batches), tmp_path, commit_interval=0)
    asyncio.run(asyncio.wait_for(runner.run(), 30))
    found = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [(alert["rule"], alert["state"]) for alert in found] == [("disk-full", "fired"), ("sink-behind", "fired")]
    assert found[0]["details"]["folder"] == str(tmp_path)
    assert found[1]["details"] == {"sink": "slow-sink", "events": 5}


def test_each_rank_has_its_own_file(tmp_path: Path) -> None:
    """Rank 0 writes to the run's folder, every other rank to a folder of its own."""
    sinks = [Alerts(), Alerts()]
    paths = [sink.make_output(tmp_path, rank).path for rank, sink in enumerate(sinks)]
    assert paths == [tmp_path / "alerts.jsonl", tmp_path / "rank-1" / "alerts.jsonl"]


def test_a_modified_file_is_rewritten(tmp_path: Path) -> None:
    """If a line is not an alert, the sink writes the file again from the events."""
    batches = losses(1, math.nan, walltime=1.0)
    run_sink(Alerts, tmp_path, batches)
    good = (tmp_path / "alerts.jsonl").read_bytes()
    line = b'{"id": 1, "state": 2}'
    for bad in (b"[]\n" * 999, b"{}\n" * 999, b"\xff" * 9999, line + b" " * (len(good) - len(line) - 1) + b"\n"):
        (tmp_path / "alerts.jsonl").write_bytes(bad)
        run_sink(Alerts, tmp_path, batches)
        assert (tmp_path / "alerts.jsonl").read_bytes() == good


def test_an_error_in_the_rules_is_one_line(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits at once with the usage exit code and writes nothing."""
    (tmp_path / "bad.toml").write_text("[rules.dead]\nx = 1\n")
    folder = write_run(losses(1))
    monkeypatch.chdir(tmp_path)
    assert run_command(["sink", "alerts", str(folder), "--rules", "bad.toml"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("trainwire: bad.toml:2: unknown setting 'x': the settings of kind dead are cool_down, ")
    assert error.count("\n") == 1
    assert not (folder / ".trainwire").exists()
    with pytest.raises(OptionError, match="--max-age must be a number of seconds"):
        Options(max_age=math.nan)
