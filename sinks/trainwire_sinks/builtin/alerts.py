"""Detects problems of a run by rules, and notifies people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event
from trainwire_sinks.alerts.engine import Engine
from trainwire_sinks.alerts.host_probe import HostProbe
from trainwire_sinks.alerts.output import FILE_NAME, AlertsFile
from trainwire_sinks.alerts.rules.disk_full import DiskFull
from trainwire_sinks.alerts.rules_file import read_rules
from trainwire_sinks.runtime.sink import PublisherStatus, Sink, State, rank_folder


@dataclass(frozen=True)
class Options:
    """The options of the sink; the docstrings are their help."""

    rules: Path | None = None
    """The rules file, described in docs/alerts.md; if left out, default rules print to the terminal."""
    max_age: float = 86_400.0
    """Age, in seconds, above which an alert is written to alerts.jsonl but not sent."""

    def __post_init__(self) -> None:
        if not self.max_age >= 0:
            raise OptionError(f"--max-age must be a number of seconds, 0 or more, not {self.max_age}")


class Alerts(Sink):
    """Writes problems of a run, found by rules, to alerts.jsonl, and sends them to notifiers.

    The alert of a rule is sent when it fires, and again when it has cleared. Alerts that a resumed run has superseded
    stay in the file, because they have been sent.
    """

    name = "alerts"
    keeps_superseded = True
    tick_interval = 0.5
    options: Options = Options()
    output: AlertsFile

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self._file = read_rules(self.options.rules)
        self._engine = Engine(self._file.rules, self._file.all_notifiers)

    def make_output(self, folder: Path, rank: int) -> AlertsFile:
        """Return the file, in the folder of its rank."""
        other_folders = {
            rule.folder for rule in self._file.rules.values() if isinstance(rule, DiskFull) and rule.folder
        }
        self._probe = HostProbe(folder, rank, self.name, sorted(other_folders))
        delivered_paths = folder / ".trainwire" / f"{self.name}-rank{rank}.{{}}.delivered"
        notifiers = {} if self.is_replay else self._file.notifiers
        path = rank_folder(folder, rank) / FILE_NAME
        return AlertsFile(path, str(delivered_paths), notifiers, self.options.max_age)

    async def restore(self, state: State) -> None:
        """Resume with the state of the rules."""
        self._engine.restore(state)

    def state(self) -> State:
        """Return the state of the rules and of their alerts."""
        return self._engine.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Pass the events to the rules, and write the alerts that follow."""
        for alert in self._engine.handle(self.batch, events):
            await self.output.fire(alert)

    async def tick(self, status: PublisherStatus) -> bool:
        """Pass the publisher's and the host's status to the rules, and write the alerts that follow."""
        if self._engine.run is not None:
            self._probe.refresh(self._engine.run)
        alerts = list(self._engine.tick(status, self._probe.snapshot))
        for alert in alerts:
            await self.output.fire(alert)
        return bool(alerts)

    async def settle(self) -> None:
        """Wait until every alert is sent."""
        await self.output.settle()
