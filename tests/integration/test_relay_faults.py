"""Relays that are killed, links that are cut and eavesdroppers, tested with real trainers."""

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
from support.run_reader import journal_bytes, wait_until
from support.trainer_process import Trainer

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
        """Start the process, again if it has ended."""
        command = [sys.executable, "-m", "trainwire_sinks", "relay", *self._arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def killed_at_exit(*processes: Trainer | RelayProcess) -> Iterator[None]:
    """Kill the processes at the end of the context."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()


class Reader(threading.Thread):
    """A thread that reads the steps of a target up to the end of the run."""

    def __init__(self, target: Target, rank: int = 0, *, use_journal: bool = True) -> None:
        super().__init__(daemon=True)
        self.steps: list[int] = []
        self.gaps = -1
        self._subscription = Subscription(target, rank=rank, name="far", use_journal=use_journal)
        self.start()

    def run(self) -> None:
        """Read the run."""
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


def copy_folders(folder: Path, trainers: Sequence[Trainer]) -> list[Path]:
    return [folder / trainer.connection.run for trainer in trainers]


def check_copies(folder: Path, trainers: Sequence[Trainer]) -> None:
    """Check that each copy is complete and equal to the original."""
    for trainer, copy in zip(trainers, copy_folders(folder, trainers), strict=True):
        assert journal_bytes(copy, trainer.rank) == journal_bytes(trainer.folder, trainer.rank)
        assert all(report.is_whole and report.ending for report in verify_run(copy))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1])
def test_a_relay_that_is_killed_repeatedly(tmp_path: Path, seed: int) -> None:
    """A relay that is killed repeatedly copies two runs completely, and readers of the copies miss nothing."""
    generator = random.Random(seed)
    trainers = [Trainer(tmp_path / "runs" / name, rank=rank) for name in ("a", "b") for rank in (0, 1)]
    relay = RelayProcess([tmp_path / "runs"], tmp_path / "copies")
    with killed_at_exit(relay, *trainers):
        folders = copy_folders(tmp_path / "copies", trainers)
        wait_until(lambda: all(connection_path(folder, 1).exists() for folder in folders), 30)
        near, far = Reader(Target(folders[0])), Reader(Target(folders[-1]), rank=1, use_journal=False)
        for _ in range(3):
            sizes = [
                len(journal_bytes(folder, trainer.rank)) for folder, trainer in zip(folders, trainers, strict=True)
            ]
            wait_until(
                lambda sizes=sizes: all(
                    len(journal_bytes(folder, trainer.rank)) > before
                    for folder, trainer, before in zip(folders, trainers, sizes, strict=True)
                ),
                30,
            )
            threading.Event().wait(generator.uniform(0, 0.3))
            relay.kill()
            relay.start()
        steps = [trainer.end() for trainer in trainers]
        near.join(30)
        far.join(30)
        assert near.steps == list(range(1, steps[0] + 1))
        assert far.steps == list(range(1, steps[-1] + 1))
        assert (near.gaps, far.gaps) == (0, 0)
        check_copies(tmp_path / "copies", trainers)


@pytest.mark.timeout(180)
def test_a_link_that_is_cut_and_restored(tmp_path: Path) -> None:
    """A relay connected only by TCP copies everything over links that are cut and restored."""
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
    with killed_at_exit(relay, *trainers):
        folders = copy_folders(tmp_path / "copies", trainers)
        wait_until(lambda: all(journal_bytes(folder, 0) for folder in folders), 30)
        reader = Reader(Target(folders[0]))
        cut(proxies)
        # A trainer waits only briefly for its readers at the end, so the copy must be nearly complete before that.
        wait_until(lambda: all(len(journal_bytes(folder, 0)) * 1.05 > len(journal_bytes(trainer.folder, 0))
                               for folder, trainer in zip(folders, trainers, strict=True)), 40)  # fmt: skip
        steps = [trainer.end() for trainer in trainers]
        reader.join(30)
        assert reader.steps == list(range(1, steps[0] + 1))
        wait_until(lambda: all(journal_bytes(folder, 0) == journal_bytes(trainer.folder, 0)
                               for folder, trainer in zip(folders, trainers, strict=True)), 20)  # fmt: skip
        check_copies(tmp_path / "copies", trainers)
    for proxy in proxies:
        proxy.close()


def test_a_trainer_that_is_killed_before_its_relay_has_everything(tmp_path: Path) -> None:
    """A relay that cannot read the rest exits with code 3; with the trainer's folder as a source it copies the rest."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    write_connection(tmp_path / "away.json", trainer.connection)
    relay = RelayProcess([tmp_path / "away.json"], tmp_path / "copies", "--until-over")
    with killed_at_exit(relay, trainer):
        (copy,) = copy_folders(tmp_path / "copies", [trainer])
        wait_until(lambda: journal_bytes(copy, 0), 30)
        relay.process.send_signal(signal.SIGSTOP)
        size = len(journal_bytes(trainer.folder, 0))
        # More than the buffers between the trainer and the relay can hold.
        wait_until(lambda: len(journal_bytes(trainer.folder, 0)) > size + 20_000, 30)
        trainer.kill()
        relay.process.send_signal(signal.SIGCONT)
        _, stderr = relay.process.communicate(timeout=120)
        assert relay.process.returncode == ExitCode.INCOMPLETE
        assert "is gone and cannot be asked for the rest: read the run's folder instead" in stderr
    again = RelayProcess([trainer.folder], tmp_path / "copies", "--until-over")
    with killed_at_exit(again):
        again.process.communicate(timeout=120)
        assert again.process.returncode == ExitCode.OK
        assert journal_bytes(copy, 0) == journal_bytes(trainer.folder, 0)


def cut(proxies: Sequence[Proxy]) -> None:
    """Delay all data for two seconds, then break all connections and refuse new ones for two seconds."""
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


def test_an_eavesdropper_reads_no_names(tmp_path: Path) -> None:
    """The bytes between a trainer and a reader contain no readable event, request or answer."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    proxies = [Proxy(1), Proxy(2)]
    with killed_at_exit(trainer):
        away = trainer.connection
        for field, proxy in zip(("publish", "request"), proxies, strict=True):
            proxy.is_recording = True
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
        assert len(proxy.forwarded) >= 2
        for forwarded in proxy.forwarded:
            assert len(forwarded) > 500
            assert b"CURVE" in forwarded
            assert not [name for name in names if name.encode() in forwarded]
