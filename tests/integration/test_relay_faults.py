"""Relays that are killed, links that are cut, and who listens on the line: with real trainers."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.proxy import Proxy
from support.reading import wait_until
from support.trainer_process import Trainer

from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import list_segments
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.transport.connection import connection_path, write_connection
from trainwire_sinks.runtime.exit_codes import ExitCode


class RelayProcess:
    """A relay in a process of its own."""

    def __init__(self, sources: Sequence[Path], folder: Path, *options: str) -> None:
        self._arguments = [*map(str, sources), "--output", str(folder), *options]
        self.start()

    def start(self) -> None:
        """Start it, again if it has ended."""
        command = [sys.executable, "-m", "trainwire_sinks", "relay", *self._arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def ending(*processes: Trainer | RelayProcess) -> Iterator[None]:
    """Kills what is left at the end."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()


class Reader(threading.Thread):
    """Reads the steps of a target to the run's end, on a thread."""

    def __init__(self, target: Target, rank: int = 0, *, use_journal: bool = True) -> None:
        super().__init__(daemon=True)
        self.steps: list[int] = []
        self.gaps = -1
        self._subscription = Subscription(target, rank=rank, name="far", use_journal=use_journal)
        self.start()

    def run(self) -> None:
        """Read."""
        asyncio.run(self._read())

    async def _read(self) -> None:
        async with self._subscription as subscription:
            number = 0
            async for batch in subscription:
                number += 1
                self.steps += [event.step for event in batch.events if event.name == "train/loss"]
                if batch.header.last or number % 20 == 1:
                    await subscription.acknowledge(batch.cursor)
            self.gaps = subscription.gaps


def journal(folder: Path, rank: int) -> bytes:
    attempts = list_attempts(folder, rank)
    return b"".join(path.read_bytes() for attempt in attempts for path in list_segments(attempt.folder))


def copies(folder: Path, trainers: Sequence[Trainer]) -> list[Path]:
    return [folder / trainer.connection.run for trainer in trainers]


def check_copies(folder: Path, trainers: Sequence[Trainer]) -> None:
    """Each copy is whole, and the same as the original."""
    for trainer, copy in zip(trainers, copies(folder, trainers), strict=True):
        assert journal(copy, trainer.rank) == journal(trainer.folder, trainer.rank)
        assert all(report.is_whole and report.ending for report in verify_run(copy))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1])
def test_a_relay_that_is_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    """Two runs of two ranks are copied whole by a relay that is killed, and a sink on a copy notices nothing."""
    chance = random.Random(seed)
    trainers = [Trainer(tmp_path / "runs" / name, rank=rank) for name in ("a", "b") for rank in (0, 1)]
    relay = RelayProcess([tmp_path / "runs"], tmp_path / "copies")
    with ending(relay, *trainers):
        places = copies(tmp_path / "copies", trainers)
        wait_until(lambda: all(connection_path(place, 1).exists() for place in places), 30)
        near, far = Reader(Target(places[0])), Reader(Target(places[-1]), rank=1, use_journal=False)
        for _ in range(3):
            size = [len(journal(place, trainer.rank)) for place, trainer in zip(places, trainers, strict=True)]
            wait_until(
                lambda size=size: all(
                    len(journal(place, trainer.rank)) > before
                    for place, trainer, before in zip(places, trainers, size, strict=True)
                ),
                30,
            )
            threading.Event().wait(chance.uniform(0, 0.3))
            relay.kill()
            relay.start()
        steps = [trainer.end() for trainer in trainers]
        near.join(30)
        far.join(30)
        assert near.steps == list(range(1, steps[0] + 1))
        assert far.steps == list(range(1, steps[-1] + 1))
        assert (near.gaps, far.gaps) == (0, 0)
        check_copies(tmp_path / "copies", trainers)


@pytest.mark.timeout(120)
def test_a_link_that_is_cut_and_healed(tmp_path: Path) -> None:
    """A relay that has nothing but TCP to the trainers copies everything through a link that breaks and comes back."""
    trainers = [Trainer(tmp_path / name, "tcp://127.0.0.1:0") for name in ("a", "b")]
    proxies = [Proxy(seed) for seed in range(4)]
    (tmp_path / "known").mkdir()
    for number, trainer in enumerate(trainers):
        away = replace(trainer.connection)
        for field, proxy in zip(("publish", "request"), proxies[2 * number : 2 * number + 2], strict=True):
            proxy.target = ("127.0.0.1", int(getattr(away, field).rpartition(":")[2]))
            away = replace(away, **{field: f"tcp://127.0.0.1:{proxy.port}"})
        write_connection(tmp_path / "known" / f"{number}.json", away)
    relay = RelayProcess([tmp_path / "known"], tmp_path / "copies")
    with ending(relay, *trainers):
        places = copies(tmp_path / "copies", trainers)
        wait_until(lambda: all(journal(place, 0) for place in places), 30)
        reader = Reader(Target(places[0]))
        cut(proxies)
        # At its end a trainer waits only shortly for who reads: over a link that is slow the copy comes near it first.
        wait_until(lambda: all(len(journal(place, 0)) * 1.05 > len(journal(trainer.folder, 0))
                               for place, trainer in zip(places, trainers, strict=True)), 40)  # fmt: skip
        steps = [trainer.end() for trainer in trainers]
        reader.join(30)
        assert reader.steps == list(range(1, steps[0] + 1))
        wait_until(lambda: all(journal(place, 0) == journal(trainer.folder, 0)
                               for place, trainer in zip(places, trainers, strict=True)), 20)  # fmt: skip
        check_copies(tmp_path / "copies", trainers)
    for proxy in proxies:
        proxy.close()


def test_a_trainer_that_is_gone_before_its_relay_has_all(tmp_path: Path) -> None:
    """A relay that cannot have the rest says so and ends with exit code 3; given the trainer's folder, it gets that."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    write_connection(tmp_path / "away.json", trainer.connection)
    relay = RelayProcess([tmp_path / "away.json"], tmp_path / "copies", "--until-over")
    with ending(relay, trainer):
        (copy,) = copies(tmp_path / "copies", [trainer])
        wait_until(lambda: journal(copy, 0), 30)
        relay.process.send_signal(signal.SIGSTOP)
        size = len(journal(trainer.folder, 0))
        # More than what waits on the way from the one to the other.
        wait_until(lambda: len(journal(trainer.folder, 0)) > size + 20_000, 30)
        trainer.kill()
        relay.process.send_signal(signal.SIGCONT)
        _, told = relay.process.communicate(timeout=30)
        assert relay.process.returncode == ExitCode.INCOMPLETE
        assert "is gone and cannot be asked for the rest: read the run's folder instead" in told
    again = RelayProcess([trainer.folder], tmp_path / "copies", "--until-over")
    with ending(again):
        again.process.communicate(timeout=30)
        assert again.process.returncode == ExitCode.OK
        assert journal(copy, 0) == journal(trainer.folder, 0)


def cut(proxies: Sequence[Proxy]) -> None:
    """Hold everything back, then break all connections and refuse new ones, each for a while."""
    pause = threading.Event()
    for proxy in proxies:
        proxy.is_cut = True
    pause.wait(2)
    targets = [proxy.target for proxy in proxies]
    for proxy in proxies:
        proxy.is_cut, proxy.target = False, None
        proxy.drop()
    pause.wait(2)
    for proxy, target in zip(proxies, targets, strict=True):
        proxy.target = target


def test_an_eavesdropper_reads_no_name(tmp_path: Path) -> None:
    """Nothing of what is recorded, asked or answered is readable in the bytes between a trainer and a reader."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    proxies = [Proxy(1), Proxy(2)]
    with ending(trainer):
        away = trainer.connection
        for field, proxy in zip(("publish", "request"), proxies, strict=True):
            proxy.is_listening = True
            proxy.target = ("127.0.0.1", int(getattr(away, field).rpartition(":")[2]))
            away = replace(away, **{field: f"tcp://127.0.0.1:{proxy.port}"})
        write_connection(tmp_path / "away.json", away)
        reader = Reader(resolve_target(str(tmp_path / "away.json")))
        wait_until(lambda: len(reader.steps) > 500, 30)
        steps = trainer.end()
        reader.join(30)
    for proxy in proxies:
        proxy.close()
    assert reader.steps == list(range(1, steps + 1))
    assert away.keys
    names = ("train/loss", "train/norm", "run/started", "hello", "fetch", "tw1/", away.run, away.keys.client.secret)
    for proxy in proxies:
        assert len(proxy.heard) >= 2
        for heard in proxy.heard:
            assert len(heard) > 500
            assert b"CURVE" in heard
            assert not [name for name in names if name.encode() in heard]
