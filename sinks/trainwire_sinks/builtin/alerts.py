"""Alerts: what goes wrong with a run, told to who has to know."""

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
from trainwire_sinks.runtime.base import PublisherStatus, Sink, State, rank_folder


@dataclass(frozen=True)
class Options:
    """What `--help` shows of them is in their docstrings."""

    rules: Path | None = None
    """The rules file, of which docs/alerts.md tells; without one there are default rules, told to the terminal."""
    max_age: float = 86_400.0
    """Seconds after which an alert is no news any more: it is written to alerts.jsonl, and told to nobody."""

    def __post_init__(self) -> None:
        if not self.max_age >= 0:
            raise OptionError(f"--max-age is a number of seconds, 0 or more, not {self.max_age}")


class Alerts(Sink):
    """Writes alerts.jsonl: what goes wrong with a run, by rules, and tells it to notifiers.

    A rule's alert fires once, and is told again when it has cleared. What a resumed run has superseded stays in the
    file, as it was told already.
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
        """The file, in a folder of its own for any rank but 0."""
        own = rank_folder(folder, rank)
        others = {rule.folder for rule in self._file.rules.values() if isinstance(rule, DiskFull) and rule.folder}
        self._probe = HostProbe(folder, rank, self.name, sorted(others))
        marks = folder / ".trainwire" / f"{self.name}-rank{rank}.{{}}.delivered"
        notifiers = {} if self.is_replay else self._file.notifiers
        return AlertsFile(own / FILE_NAME, str(marks), notifiers, self.options.max_age)

    async def restore(self, state: State) -> None:
        """Take up what the rules have seen."""
        self._engine.restore(state)

    def state(self) -> State:
        """What the rules have seen, and which alerts have fired and not cleared."""
        return self._engine.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Put the batch's events before the rules."""
        for alert in self._engine.handle(self.batch, events):
            await self.output.fire(alert)

    async def tick(self, status: PublisherStatus) -> bool:
        """Put before the rules what is known now."""
        if self._engine.run is not None:
            self._probe.refresh(self._engine.run)
        alerts = list(self._engine.tick(status, self._probe.snapshot))
        for alert in alerts:
            await self.output.fire(alert)
        return bool(alerts)

    async def settle(self) -> None:
        """Wait until everybody knows."""
        await self.output.settle()
