"""One round: a run, its sinks, random faults, and the checks at the end."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

from chaos.attempts import count_hidden
from chaos.processes import Worker, run_command
from chaos.proxy import Proxy
from chaos.training import STEPS_PER_EPOCH, append, loss_at, train
from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import connection_path, read_connection, write_connection

SINKS = ("loss-file", "log-file", "tensorboard", "jsonl")
REMOTE = "jsonl"
FAULTS = (
    "kill sink", "stop sink", "terminate sink", "kill trainer", "stop trainer",
    "kill trainer, start anew", "kill trainer, append", "kill trainer, return to an earlier start",
    "cut connection", "drop connection", "delay connection",
)  # fmt: skip
SEQUELS = ("finish, start anew", "finish, append", "finish, return to an earlier start")
"""What may be done to a run that has finished."""
ROUND_SECONDS = 60.0
BIND = "tcp://127.0.0.1:0"


class RoundFailedError(Exception):
    """A check at the end of a round failed."""


@dataclass
class Report:
    """The results of one or more rounds."""

    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    events: int = 0
    lost: int = 0
    duplicated: int = 0
    hidden: int = 0
    """Events that were recorded and are in no output that was kept aside, or not shown by `--attempt`."""

    def add(self, other: Report) -> None:
        """Add the results of another report."""
        self.rounds += other.rounds
        self.faults += other.faults
        self.attempts += other.attempts
        self.events += other.events
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.hidden += other.hidden


class Round:
    """One round, with all its files in one folder."""

    def __init__(self, context: ForkServerContext, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.steps = self.random.randrange(200, 600, STEPS_PER_EPOCH)
        self.run, self.outputs, self.remote = folder / "run", folder / "live", folder / "remote"
        for place in (self.run, self.outputs, self.remote):
            place.mkdir(parents=True)
        self.log = folder / "processes.log"
        self.context = context
        self.trainer = Worker(context, "trainer", self.log, train, self.run, self.steps, BIND)
        self.checkpoint, self.earlier = self.run / "checkpoint.json", self.run / "earlier.json"
        self.sinks = [self._sink(name, self.run, self.outputs) for name in SINKS]
        self.proxies = [Proxy(seed), Proxy(seed + 1)]
        self.remote_target = folder / "copied-connection.json"
        self.remote_sink = self._sink(REMOTE, self.remote_target, self.remote)
        self.report = Report(rounds=1)
        self.deadline = time.monotonic() + ROUND_SECONDS

    def play(self) -> Report:
        """Disturb the run until it has finished, then check the outputs."""
        try:
            self._disturb()
            self._finish()
            self._check()
        finally:
            for worker in (self.trainer, *self.sinks, self.remote_sink):
                worker.kill()
            for proxy in self.proxies:
                proxy.close()
        return self.report

    def _sink(self, name: str, target: Path, output: Path) -> Worker:
        command = ["sink", name, str(target), "--output", str(output)]
        return Worker(self.context, name, self.log, run_command, command)

    def _disturb(self) -> None:
        faults = self.random.randrange(2, 9)
        while True:
            self._keep_running()
            if self.trainer.wait(self.random.uniform(0.02, 0.2)) == 0:
                if not faults or self.random.random() < 0.25 or not self._go_on():
                    return
                faults -= 1
            if faults and self.trainer.is_running():
                faults -= 1
                self._inflict(self.random.choice(FAULTS))
            self._check_time()

    def _keep_running(self) -> None:
        self.trainer.start()
        self._point_proxies()
        for sink in self.sinks:
            sink.start()
        if self.remote_target.exists():
            self.remote_sink.start()

    def _inflict(self, fault: str) -> None:
        self.report.faults[fault] += 1
        match fault.split(" ", 1):
            case ["cut" | "drop" | "delay" as kind, _]:
                self._disturb_connection(kind)
            case [verb, what]:
                victim = (
                    self.trainer if what.startswith("trainer") else self.random.choice([*self.sinks, self.remote_sink])
                )
                self._hurt(victim, verb)
                self._prepare_next(what)

    def _go_on(self) -> bool:
        """Do something to the run that has finished; return whether it is to be trained again."""
        sequel = self.random.choice(SEQUELS)
        self.report.faults[sequel] += 1
        self._prepare_next(sequel)
        return "append" not in sequel

    def _prepare_next(self, what: str) -> None:
        """Decide how the next attempt begins: the checkpoint is kept unless `what` says something else."""
        if "start anew" in what and self.checkpoint.exists():
            self.checkpoint.replace(self.earlier)
        elif "return" in what and self.earlier.exists():
            shutil.copy(self.earlier, self.checkpoint)
        elif "return" in what:
            self.checkpoint.unlink(missing_ok=True)
        elif "append" in what:
            appending = Worker(self.context, "append", self.log, append, self.run, BIND)
            # It is refused for a while if the trainer was killed before it wrote its lease.
            while appending.wait(20) != 0:
                appending.start()
                self._check_time()

    def _hurt(self, victim: Worker, verb: str) -> None:
        if verb != "stop":
            victim.send(signal.SIGKILL if verb == "kill" else signal.SIGTERM)
            victim.wait(10)
            return
        victim.send(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.05, 0.6))
        victim.send(signal.SIGCONT)

    def _disturb_connection(self, kind: str) -> None:
        if kind == "drop":
            for proxy in self.proxies:
                proxy.drop()
            return
        for proxy in self.proxies:
            proxy.is_cut, proxy.delay = kind == "cut", 0.02 if kind == "delay" else 0.0
        time.sleep(self.random.uniform(0.05, 0.4))
        for proxy in self.proxies:
            proxy.is_cut, proxy.delay = False, 0.0

    def _point_proxies(self) -> None:
        """Copy the connection file as another host would have it, with the ports of the proxies."""
        try:
            connection = read_connection(connection_path(self.run, 0))
        except ProtocolError:
            return
        endpoints = (connection.publish, connection.request)
        for proxy, endpoint in zip(self.proxies, endpoints, strict=True):
            proxy.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        publish, request = (f"tcp://127.0.0.1:{proxy.port}" for proxy in self.proxies)
        write_connection(self.remote_target, replace(connection, publish=publish, request=request))

    def _finish(self) -> None:
        """Let every sink read to the end; the remote one gets the rest from the folder."""
        for sink in self.sinks:
            # A running sink may be about to exit after a killed attempt without having seen the next one.
            sink.send(signal.SIGCONT)
            sink.wait(20)
            self._bring_to_end(sink)
        self.remote_sink.send(signal.SIGTERM)
        self.remote_sink.wait(10)
        self._bring_to_end(self._sink(REMOTE, self.run, self.remote))

    def _bring_to_end(self, sink: Worker) -> None:
        while True:
            sink.start()
            code = sink.wait(20)
            if code == 0:
                return
            self._check_time()
            if code is None or (code > 0 and code != 143):
                raise RoundFailedError(f"{sink.name} ended with {code}")

    def _check(self) -> None:
        self._check_journal()
        self._check_events(self.outputs / "events.jsonl")
        self._check_rows()
        self._check_hidden()
        self._check_bytes()

    def _check_journal(self) -> None:
        reports = verify_run(self.run)
        self.report.attempts = len(reports)
        self.report.events = sum(report.events for report in reports)
        broken = [report for report in reports if not report.is_whole]
        if broken or reports[-1].ending != "run/finished":
            raise RoundFailedError(f"the journal is not complete: {broken or reports[-1]}")

    def _check_events(self, path: Path) -> None:
        """Check that every step is present once and in order, with its value."""
        events = [json.loads(line) for line in path.read_text().splitlines()]
        losses = [(event["step"], event["value"]) for event in events if event["name"] == "train/loss"]
        expected = [(step, loss_at(step)) for step in range(1, self.steps + 1)]
        if losses != expected:
            self.report.lost += len(set(expected) - set(losses))
            self.report.duplicated += len(losses) - len(set(losses))
            raise RoundFailedError(
                f"{path}: {self.report.lost} lost, {self.report.duplicated} duplicated, or disordered"
            )

    def _check_rows(self) -> None:
        header, *rows = [line.split("\t") for line in (self.outputs / "loss.tsv").read_text().splitlines()]
        # A score that was added to the run is in a row without an epoch.
        added = [row for row in rows if not row[0]]
        if any(row[header.index("TEST_SCORE")] != "1.0" for row in added):
            raise RoundFailedError(f"loss.tsv has the rows {added}")
        expected = [str(epoch) for epoch in range(1, self.steps // STEPS_PER_EPOCH + 1)]
        if [row[0] for row in rows if row[0]] != expected:
            raise RoundFailedError(f"loss.tsv has the epochs {[row[0] for row in rows]}")

    def _check_hidden(self) -> None:
        """Check that whatever was superseded as a whole is kept aside, and every attempt can be read."""
        for folder in (self.outputs, self.remote):
            self.report.hidden += count_hidden(self.run, folder)
        if self.report.hidden:
            raise RoundFailedError(f"{self.report.hidden} hidden")

    def _check_bytes(self) -> None:
        replay = self.run.parent / "replay"
        for name in SINKS:
            self._bring_to_end(self._sink(name, self.run, replay))
        for output in (self.outputs, self.remote):
            for path in sorted(output.rglob("*")):
                twin = replay / path.relative_to(output)
                is_output = path.is_file() and ".trainwire" not in path.parts
                if is_output and (not twin.exists() or path.read_bytes() != twin.read_bytes()):
                    raise RoundFailedError(f"{path} and its replay {twin} differ")
        for twin in sorted(replay.rglob("*")):
            if ".trainwire" not in twin.parts and not (self.outputs / twin.relative_to(replay)).exists():
                raise RoundFailedError(f"{twin} is not among the outputs")

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise RoundFailedError(f"not finished after {ROUND_SECONDS:g} s")


def play_round(context: ForkServerContext, folder: Path, seed: int) -> Report:
    """Play the round of a seed in a subfolder of `folder`, which is removed unless the round fails."""
    place = folder / f"round-{seed}"
    report = Round(context, place, seed).play()
    shutil.rmtree(place)
    return report
